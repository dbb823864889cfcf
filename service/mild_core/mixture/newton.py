"""Newton's method within bounds, for many small problems at once.

A handful of parameters and a few hundred cells cost more in a general optimiser's bookkeeping than in arithmetic, so
all starts of a fit, and all resamples of a bootstrap, go through every step together. Curvature is taken by its
absolute value along each of its own directions, so that a step descends at a saddle too, and damped until it does.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.mixture.weibull import Floats

MAX_STEPS = 200
_TOLERANCE = 1e-9
"""Relative improvement of the objective below which a problem is done."""
_DAMPING = (1e-1, 1e-9, 1e10)
"""First, smallest and largest damping, in units of curvature; a problem past the largest is done."""


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """The objective around one point of each problem.

    Attributes
    ----------
    value
        Shape (n_problems,).
    gradient
        Shape (n_problems, n_parameters).
    hessian
        Shape (n_problems, n_parameters, n_parameters).
    unit
        Shape (n_problems, n_parameters), a positive curvature typical of each parameter.
    """

    value: Floats
    gradient: Floats
    hessian: Floats
    unit: Floats


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
        damping[active] = np.where(better, np.maximum(damping[active] / 10, smallest), damping[active] * 10)
        moved = active[better]
        theta[moved], value[moved] = trial[better], there.value[better]
        here = _where(better, there, here)
        done = (better & (gain <= _TOLERANCE * (1 + np.abs(value[active])))) | (damping[active] > largest)
        if done.all():
            break
        active = active[~done]
        here = Local(*(getattr(here, f.name)[~done] for f in fields(here)))
    return theta, value


def _step(here: Local, theta: Floats, low: Floats, high: Floats, damping: Floats) -> Floats:
    """Solve the damped equations over the parameters that are not held at a bound, shape of `theta`."""
    held = ((theta <= low) & (here.gradient > 0)) | ((theta >= high) & (here.gradient < 0))
    # An absolute floor keeps the system solvable where the objective does not depend on a parameter.
    unit = np.where(held, np.inf, np.sqrt(here.unit + 1e-8))
    curvature, directions = np.linalg.eigh(here.hessian / (unit[:, :, None] * unit[:, None, :]))
    along = directions.swapaxes(1, 2) @ (-here.gradient / unit)[:, :, None]
    step = directions @ (along / (np.abs(curvature) + damping[:, None])[:, :, None])
    scaled: Floats = step[:, :, 0] / unit
    return scaled


def _where(better: NDArray[np.bool_], there: Local, here: Local) -> Local:
    """Take each problem's new surroundings where it has moved."""

    def pick(new: Floats, old: Floats) -> Floats:
        return np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return Local(*(pick(getattr(there, f.name), getattr(here, f.name)) for f in fields(here)))
