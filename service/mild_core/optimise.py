"""Damped Fisher scoring within bounds, many small problems at once.

Minimises ``-sum(c log p(theta)) + prior`` for multinomial-like likelihoods, whose curvature is, to first order, made of
the same derivatives as the gradient: ``J diag(c / p**2) J'`` with ``J = dp / dtheta``. A handful of parameters and a
few hundred cells cost more in a general optimiser's bookkeeping than in arithmetic, so all starts, and all resamples of
a bootstrap, go through every step together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.weibull import Floats

MAX_STEPS = 200
_TOLERANCE = 1e-9
"""Relative improvement of the objective below which a problem is done."""
_DAMPING = (1e-3, 1e-9, 1e10)
"""First, smallest and largest damping, relative to the curvature's diagonal; a problem past the largest is done."""


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """The objective around one point of each problem.

    Attributes
    ----------
    value
        Shape (n_problems,).
    gradient
        Shape (n_problems, n_parameters).
    curvature
        Shape (n_problems, n_parameters, n_parameters), positive semi-definite.
    """

    value: Floats
    gradient: Floats
    curvature: Floats


Objective: TypeAlias = Callable[[Floats, NDArray[np.intp]], Local]
"""Of parameters, shape (n_problems, n_parameters), and which problems those are, shape (n_problems,)."""


def minimise(objective: Objective, start: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Minimise several problems of the same form.

    Parameters
    ----------
    objective
        See `Objective`; finite wherever ``low <= theta <= high``.
    start
        Shape (n_problems, n_parameters), within the bounds.
    low, high
        Shape (n_parameters,).

    Returns
    -------
    theta, value
        Shapes (n_problems, n_parameters) and (n_problems,). Each value is at most its start's.
    """
    theta = start.copy()
    first, smallest, largest = _DAMPING
    damping = np.full(len(theta), first)
    active = np.arange(len(theta))
    here = objective(theta, active)
    value = here.value.copy()
    for _ in range(MAX_STEPS):
        step = _step(here, theta[active], low, high, damping[active])
        trial = np.clip(theta[active] + step, low, high)
        there = objective(trial, active)
        gain = value[active] - there.value
        better = gain > 0
        damping[active] = np.where(better, np.maximum(damping[active] / 5, smallest), damping[active] * 4)
        moved = active[better]
        theta[moved], value[moved] = trial[better], there.value[better]
        here = _where(better, there, here)
        done = (better & (gain <= _TOLERANCE * (1 + np.abs(value[active])))) | (damping[active] > largest)
        if done.all():
            break
        active = active[~done]
        here = Local(here.value[~done], here.gradient[~done], here.curvature[~done])
    return theta, value


def _step(here: Local, theta: Floats, low: Floats, high: Floats, damping: Floats) -> Floats:
    """Solve the damped equations over the parameters that are not held at a bound, shape of `theta`."""
    held = ((theta <= low) & (here.gradient > 0)) | ((theta >= high) & (here.gradient < 0))
    n_parameters = theta.shape[1]
    diagonal = np.einsum("bii->bi", here.curvature)
    # An absolute floor keeps the system solvable where the objective does not depend on a parameter.
    ridge = damping[:, None] * np.maximum(diagonal, 1e-8) + 1e-12
    system = np.where(held[:, :, None] | held[:, None, :], 0.0, here.curvature)
    system[:, np.arange(n_parameters), np.arange(n_parameters)] += np.where(held, 1.0, ridge)
    step: Floats = np.linalg.solve(system, np.where(held, 0.0, -here.gradient)[:, :, None])[:, :, 0]
    return step


def _where(better: NDArray[np.bool_], there: Local, here: Local) -> Local:
    return Local(
        np.where(better, there.value, here.value),
        np.where(better[:, None], there.gradient, here.gradient),
        np.where(better[:, None, None], there.curvature, here.curvature),
    )
