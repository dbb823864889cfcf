"""The Weibull distribution: formulas only, checkable against a textbook and against `scipy.stats.weibull_min`.

With scale ``a`` and shape ``k``, for ``x >= 0``, ``u = (x / a) ** k`` and ``L = log u``::

    F(x) = 1 - exp(-u)                     distribution function
    f(x) = (k / x) u exp(-u)               density

and, by ``log a`` and ``log k`` (the parameters that are free of units and of bounds)::

    F_a  = -k u exp(-u)                    f_a  = f k (u - 1)
    F_k  =  L u exp(-u)                    f_k  = f (1 + L (1 - u))
    F_aa =  k k u exp(-u) (1 - u)          f_aa = f k k ((u - 1) ** 2 - u)
    F_ak = -k u exp(-u) (1 + L (1 - u))    f_ak = f k ((u - 1) (2 + L (1 - u)) + L u)
    F_kk =  L u exp(-u) (1 + L (1 - u))    f_kk = f ((1 + L (1 - u)) ** 2 + L (1 - u) - L L u)

Functions take ``log_scale`` and ``log_shape`` of shape (..., 1) and points of shape (n_points,), and broadcast them.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_LOG_U = (-700.0, 10.0)
"""Below, ``u`` would be no normal number any more; above, ``exp(-u)`` is zero and powers of ``u`` only overflow."""


@dataclass(frozen=True, slots=True, eq=False)
class Derivatives:
    """A function of ``log a`` and ``log k`` with its first and second derivatives, each of shape (..., n_points)."""

    value: Floats
    a: Floats
    k: Floats
    aa: Floats
    ak: Floats
    kk: Floats


def log_cumulative_hazard(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Floats:
    """``log u`` of points given by their logarithm (``-inf`` stands for 0), clipped: ``u`` is finite and positive."""
    return np.clip(np.exp(log_shape) * (log_x - log_scale), *_LOG_U)


def distribution(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Floats:
    """``F(x)``, shape (..., n_points), precise far below the scale too, where ``1 - exp(-u)`` would lose its digits."""
    return -np.expm1(-np.exp(log_cumulative_hazard(log_x, log_scale, log_shape)))


def distribution_derivatives(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Derivatives:
    """``F(x)`` and its derivatives."""
    log_u = log_cumulative_hazard(log_x, log_scale, log_shape)
    u, shape = np.exp(log_u), np.exp(log_shape)
    us = u * np.exp(-u)
    slope = 1.0 + log_u * (1.0 - u)
    return Derivatives(
        value=-np.expm1(-u),
        a=-shape * us,
        k=log_u * us,
        aa=shape * shape * us * (1.0 - u),
        ak=-shape * us * slope,
        kk=log_u * us * slope,
    )


def density_derivatives(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Derivatives:
    """``f(x)`` for ``x > 0`` and its derivatives."""
    log_u = log_cumulative_hazard(log_x, log_scale, log_shape)
    u, shape = np.exp(log_u), np.exp(log_shape)
    f = np.exp(log_shape - log_x + log_u - u)
    slope = 1.0 + log_u * (1.0 - u)
    return Derivatives(
        value=f,
        a=f * shape * (u - 1.0),
        k=f * slope,
        aa=f * shape * shape * ((u - 1.0) ** 2 - u),
        ak=f * shape * ((u - 1.0) * (slope + 1.0) + log_u * u),
        kk=f * (slope**2 + log_u * (1.0 - u) - log_u * log_u * u),
    )
