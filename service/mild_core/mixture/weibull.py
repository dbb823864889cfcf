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

The likelihoods of the four fits, their bounds and their priors.

A score is a count: bin ``j`` of ``0..E`` stands for the interval ``[j, j + 1)``, and has probability
``(F(j + 1) - F(j)) / F(E + 1)`` under a component that ends with the top bin (`grouped`, `anchored`), or
``F(j + 1) - F(j)`` with ``1 - F(E)`` for the top bin where "never memorised" means "at least this" (`censored`). The
likelihood of a histogram is bounded, so that, unlike a density's (`density`, as published), it cannot collapse onto
the samples that all sit on ``E``.

Log scales and log shapes have the shape (n_problems, 2, 1) throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.types import Fit

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


TINY = 1e-300

Likelihood: TypeAlias = Callable[[Floats, Floats], Derivatives]
"""Of log scales and log shapes: likelihood of every cell under each component, (n_problems, 2, n_cells)."""


@dataclass(frozen=True, slots=True)
class Prior:
    """A normal prior on the logarithm of a parameter, and its bounds; scales are in units of the number of epochs."""

    low: float
    high: float
    centre: float = 1.0
    log_sd: float = np.inf


@dataclass(frozen=True, slots=True)
class Family:
    """What tells the fits apart; index 0 is the clean component, 1 the noisy one.

    `tops` says whether the top bin is open; where a fit may choose, the first one is preferred.
    """

    tops: tuple[bool, ...]
    scale: tuple[Prior, Prior]
    shape: tuple[Prior, Prior]


_FREE_SCALE, _FREE_SHAPE = Prior(1e-2, 1e2), Prior(0.1, 1e3)
FAMILIES: dict[Fit, Family] = {
    # The noisy shape's bounds decide most: at 30 the component closes in on the pile at the top and leaves the other
    # mislabelled samples to the clean one, at 1.5 it spreads over the clean ones' tail (docs/method.md).
    "anchored": Family(
        tops=(False, True),
        scale=(Prior(1e-3, 0.7, 0.15, 1.0), Prior(0.7, 3.0, 1.0, 0.5)),
        shape=(Prior(0.6, 6.0, 1.0, 0.7), Prior(3.0, 10.0, 4.0, 0.8)),
    ),
    "grouped": Family(tops=(False,), scale=(_FREE_SCALE,) * 2, shape=(_FREE_SHAPE,) * 2),
    "censored": Family(tops=(True,), scale=(_FREE_SCALE,) * 2, shape=(_FREE_SHAPE,) * 2),
    # Left alone, its noisy shape would run away towards a spike of infinite likelihood: the bound stops it.
    "density": Family(tops=(True,), scale=(_FREE_SCALE,) * 2, shape=(_FREE_SHAPE,) * 2),
}


def likelihood_of(kind: Fit, n_bins: int, observation: Floats | None, *, open_top: bool) -> Likelihood:
    """Likelihood of the cells of `observation`, shape (n_cells, n_bins), or of the bins without one."""
    likelihood = _density(n_bins) if kind == "density" else _masses(n_bins, open_top=open_top)
    return likelihood if observation is None else _seen_through(observation, likelihood)


def _masses(n_bins: int, *, open_top: bool) -> Likelihood:
    """Interval probabilities of the bins."""
    log_edges = _log_edges(n_bins)

    def likelihood(log_scale: Floats, log_shape: Floats) -> Derivatives:
        below = distribution_derivatives(log_edges, log_scale, log_shape)
        if open_top:
            below.value[..., -1] = 1.0
            for slope in (below.a, below.k, below.aa, below.ak, below.kk):
                slope[..., -1] = 0.0
        # The quotient rule on F(j + 1) - F(j) over what lies inside the bins, F(E + 1).
        inside, a, k = (v[..., -1:] for v in (below.value, below.a, below.k))
        mass = np.diff(below.value) / inside
        by_a = (np.diff(below.a) - mass * a) / inside
        by_k = (np.diff(below.k) - mass * k) / inside
        return Derivatives(
            value=mass,
            a=by_a,
            k=by_k,
            aa=(np.diff(below.aa) - 2 * by_a * a - mass * below.aa[..., -1:]) / inside,
            ak=(np.diff(below.ak) - by_a * k - by_k * a - mass * below.ak[..., -1:]) / inside,
            kk=(np.diff(below.kk) - 2 * by_k * k - mass * below.kk[..., -1:]) / inside,
        )

    return likelihood


def _seen_through(observation: Floats, likelihood: Likelihood) -> Likelihood:
    """The likelihood of what was observed, for samples that were not observed in every epoch."""

    def seen(log_scale: Floats, log_shape: Floats) -> Derivatives:
        mass = likelihood(log_scale, log_shape)
        return Derivatives(*(getattr(mass, f.name) @ observation.T for f in fields(mass)))

    return seen


def _density(n_bins: int) -> Likelihood:
    """As published: counts taken for continuous scores, 0 replaced by 0.1."""
    points = np.arange(n_bins, dtype=np.float64)
    points[0] = 0.1
    log_x = np.log(points)
    return lambda log_scale, log_shape: density_derivatives(log_x, log_scale, log_shape)


def component_masses(log_scales: Floats, log_shapes: Floats, n_bins: int, *, open_top: bool) -> Floats:
    """Probability of each bin under each component, rows summing to one.

    Parameters
    ----------
    log_scales, log_shapes
        Shape (..., 2).

    Returns
    -------
    masses
        Shape (..., 2, n_bins).
    """
    below = distribution(_log_edges(n_bins), log_scales[..., None], log_shapes[..., None])
    if open_top:
        below[..., -1] = 1.0
    masses = np.diff(below)
    # A component that lies wholly above the bins leaves nothing inside them: it is a spike on the top bin.
    masses[..., -1] = np.where(masses.sum(axis=-1) <= TINY, 1.0, masses[..., -1])
    shares: Floats = masses / masses.sum(axis=-1, keepdims=True)
    return shares


def _log_edges(n_bins: int) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(np.arange(n_bins + 1, dtype=np.float64))
