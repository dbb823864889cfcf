"""Newton's method within bounds, for many small problems of the same form at once.

With five parameters and a few hundred cells, a general optimiser spends more time on bookkeeping than on arithmetic.
So all starts of a fit, or all groups of samples, take every step together. The Hessian is used with the
absolute values of its eigenvalues, so that a step descends at a saddle point too, and is damped until it descends.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.mixture.weibull import Floats

MAX_STEPS = 200
_TOLERANCE = 1e-9
"""Relative improvement of the objective below which a problem has converged."""
_DAMPING = (1e-1, 1e-9, 1e10)
"""First, smallest and largest damping, in units of curvature; a problem stops beyond the largest."""


@dataclass(frozen=True, slots=True, eq=False)
class QuadraticModel:
    """Value and derivatives of the objective of every problem at one point.

    Attributes
    ----------
    value
        Shape (n_problems,).
    gradient
        Shape (n_problems, n_parameters).
    hessian
        Shape (n_problems, n_parameters, n_parameters).
    curvature
        Shape (n_problems, n_parameters), a positive typical curvature of each parameter, which scales the steps.
    """

    value: Floats
    gradient: Floats
    hessian: Floats
    curvature: Floats


Objective: TypeAlias = Callable[[Floats, NDArray[np.intp]], QuadraticModel]
"""Function of parameters, shape (n_active, n_parameters), and of the indices of their problems, shape (n_active,)."""


def minimise(objective: Objective, start: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Minimise the objective of several problems within bounds.

    Parameters
    ----------
    objective
        The objective (`Objective`), finite wherever ``low <= theta <= high``.
    start
        Shape (n_problems, n_parameters), starting points within the bounds.
    low, high
        Shape (n_parameters,), the bounds of the parameters.

    Returns
    -------
    theta
        Shape (n_problems, n_parameters), the minimum of every problem.
    value
        Shape (n_problems,), the objective at the minimum, which never exceeds the objective at the start.
    """
    theta = start.copy()
    first, smallest, largest = _DAMPING
    damping = np.full(len(theta), first)
    active = np.arange(len(theta))
    current = objective(theta, active)
    value = current.value.copy()
    for _ in range(MAX_STEPS):
        step = _compute_step(current, theta[active], low, high, damping[active])
        trial = np.clip(theta[active] + step, low, high)
        candidate = objective(trial, active)
        gain = value[active] - candidate.value
        is_better = gain > 0
        damping[active] = np.where(is_better, np.maximum(damping[active] / 10, smallest), damping[active] * 10)
        improved = active[is_better]
        theta[improved], value[improved] = trial[is_better], candidate.value[is_better]
        current = candidate if is_better.all() else _choose_models(is_better, candidate, current)
        is_done = (is_better & (gain <= _TOLERANCE * (1 + np.abs(value[active])))) | (damping[active] > largest)
        if is_done.all():
            break
        if is_done.any():
            active = active[~is_done]
            current = QuadraticModel(*(getattr(current, field.name)[~is_done] for field in fields(current)))
    return theta, value


def _compute_step(model: QuadraticModel, theta: Floats, low: Floats, high: Floats, damping: Floats) -> Floats:
    """Compute the damped Newton step over the parameters that no bound blocks, shape of `theta`."""
    is_blocked = ((theta <= low) & (model.gradient > 0)) | ((theta >= high) & (model.gradient < 0))
    # An absolute minimum keeps the system solvable where the objective does not depend on a parameter.
    scale = np.where(is_blocked, np.inf, np.sqrt(model.curvature + 1e-8))
    eigenvalues, eigenvectors = np.linalg.eigh(model.hessian / (scale[:, :, None] * scale[:, None, :]))
    descent = eigenvectors.swapaxes(1, 2) @ (-model.gradient / scale)[:, :, None]
    scaled_step = eigenvectors @ (descent / (np.abs(eigenvalues) + damping[:, None])[:, :, None])
    step: Floats = scaled_step[:, :, 0] / scale
    return step


def _choose_models(use_new: NDArray[np.bool_], new: QuadraticModel, old: QuadraticModel) -> QuadraticModel:
    """Combine the new models of the problems in `use_new`, shape (n_problems,), with the old models of the others."""

    def choose(new_part: Floats, old_part: Floats) -> Floats:
        return np.where(use_new.reshape(-1, *[1] * (new_part.ndim - 1)), new_part, old_part)

    return QuadraticModel(*(choose(getattr(new, field.name), getattr(old, field.name)) for field in fields(new)))
