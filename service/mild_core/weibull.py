"""The Weibull distribution: formulas only, checkable against a textbook and against `scipy.stats.weibull_min`.

With scale ``a`` and shape ``k``, for ``x >= 0`` and ``u = (x / a) ** k``::

    F(x) = 1 - exp(-u)                     distribution function
    f(x) = (k / x) u exp(-u)               density
    dF / d log a = -k u exp(-u)
    dF / d log k =  u log(u) exp(-u)
    df / d log a =  k f(x) (u - 1)
    df / d log k =  f(x) (1 + log(u) (1 - u))

Functions take ``log_scale`` and ``log_shape`` of shape (..., 1) and points of shape (n_points,), and broadcast them.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_LOG_MAX = 700.0
"""exp() of this is the largest that is still finite; survival is zero long before."""


def log_cumulative_hazard(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Floats:
    """``log u`` of points given by their logarithm (``-inf`` stands for 0), clipped: ``u`` stays finite and positive."""
    shape = np.exp(np.minimum(log_shape, _LOG_MAX))
    return np.clip(shape * (log_x - log_scale), -_LOG_MAX, _LOG_MAX)


def distribution(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Floats:
    """``F(x)``, shape (..., n_points), precise far below the scale too, where ``1 - exp(-u)`` would lose its digits."""
    return -np.expm1(-np.exp(log_cumulative_hazard(log_x, log_scale, log_shape)))


def distribution_gradient(log_x: Floats, log_scale: Floats, log_shape: Floats) -> tuple[Floats, Floats, Floats]:
    """``F(x)`` with its derivatives by ``log a`` and by ``log k``, each of shape (..., n_points)."""
    log_u = log_cumulative_hazard(log_x, log_scale, log_shape)
    u = np.exp(log_u)
    us = u * np.exp(-u)
    return -np.expm1(-u), -np.exp(log_shape) * us, log_u * us


def density_gradient(log_x: Floats, log_scale: Floats, log_shape: Floats) -> tuple[Floats, Floats, Floats]:
    """``f(x)`` for ``x > 0`` with its derivatives by ``log a`` and by ``log k``, each (..., n_points)."""
    log_u = log_cumulative_hazard(log_x, log_scale, log_shape)
    u = np.exp(log_u)
    density = np.exp(log_shape - log_x + log_u - u)
    return density, np.exp(log_shape) * density * (u - 1.0), density * (1.0 + log_u * (1.0 - u))
