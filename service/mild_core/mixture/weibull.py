"""The Weibull distribution, and the likelihoods and bounds of the fits.

With scale ``a`` and shape ``k``, for ``x >= 0``, ``u = (x / a) ** k`` and ``L = log u``::

    F(x) = 1 - exp(-u)                     distribution function
    f(x) = (k / x) u exp(-u)               density

and, by ``log a`` and ``log k`` (the parameters that have neither units nor bounds)::

    F_a  = -k u exp(-u)                    f_a  = f k (u - 1)
    F_k  =  L u exp(-u)                    f_k  = f (1 + L (1 - u))
    F_aa =  k k u exp(-u) (1 - u)          f_aa = f k k ((u - 1) ** 2 - u)
    F_ak = -k u exp(-u) (1 + L (1 - u))    f_ak = f k ((u - 1) (2 + L (1 - u)) + L u)
    F_kk =  L u exp(-u) (1 + L (1 - u))    f_kk = f ((1 + L (1 - u)) ** 2 + L (1 - u) - L L u)

A score is a count: bin ``j`` of ``0..E`` stands for the interval ``[j, j + 1)``. Under a component that ends with the
top bin (`grouped`, `anchored`) it has the probability ``(F(j + 1) - F(j)) / F(E + 1)``. Under an open top bin, which
stands for "at least this" (`censored`), it has ``F(j + 1) - F(j)``, and the top bin ``1 - F(E)``. The likelihood of a
histogram is bounded, so that, unlike that of a density (`density`, as published), it cannot collapse onto the samples
at ``E``.

The distribution functions take ``log_scale`` and ``log_shape`` of shape (..., 1) and points of shape (n_points,), and
broadcast them; the likelihoods take both in shape (n_problems, 2, 1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.types import Fit

Floats: TypeAlias = NDArray[np.float64]

TINY = 1e-300
"""Smallest divisor: keeps ratios of probabilities finite."""
_LOG_U = (-700.0, 10.0)
"""Range of ``log u``: below it ``u`` is subnormal, above it ``exp(-u)`` is zero and powers of ``u`` overflow."""


@dataclass(frozen=True, slots=True, eq=False)
class Derivatives:
    """Value, first and second derivatives of a function by ``log a`` and ``log k``.

    They are one array: with a few hundred points, calls of numpy cost more than their arithmetic.

    Attributes
    ----------
    parts
        Shape (6, ..., n_points): value, first derivatives by ``log a`` and ``log k``, second ones by either twice, and
        mixed one.
    """

    parts: Floats

    @property
    def value(self) -> Floats:
        """The function, shape (..., n_points)."""
        value: Floats = self.parts[0]
        return value

    @property
    def first(self) -> Floats:
        """The first derivatives by ``log a`` and by ``log k``, shape (2, ..., n_points)."""
        return self.parts[1:3]

    @property
    def second(self) -> Floats:
        """The second derivatives by either twice, and the mixed one, shape (3, ..., n_points)."""
        return self.parts[3:]


def compute_log_cumulative_hazard(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Floats:
    """Compute ``log u`` at the points `log_x` (``-inf`` for 0), clipped so that ``u`` is finite and positive."""
    return np.clip(np.exp(log_shape) * (log_x - log_scale), *_LOG_U)


def compute_cdf(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Floats:
    """Compute the distribution function ``F(x)``, shape (..., n_points), accurate far below the scale too."""
    return -np.expm1(-np.exp(compute_log_cumulative_hazard(log_x, log_scale, log_shape)))


def compute_cdf_derivatives(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Derivatives:
    """Compute the distribution function ``F(x)`` with its derivatives."""
    log_u = compute_log_cumulative_hazard(log_x, log_scale, log_shape)
    u, shape = np.exp(log_u), np.exp(log_shape)
    us, rest = u * np.exp(-u), 1.0 - u
    parts = np.empty((6, *u.shape))
    value, a, k, aa, kk, ak = parts
    np.negative(np.expm1(-u), out=value)
    np.multiply(-shape, us, out=a)
    np.multiply(log_u, us, out=k)
    np.multiply(shape * shape * us, rest, out=aa)
    slope = 1.0 + log_u * rest
    np.multiply(k, slope, out=kk)
    np.multiply(a, slope, out=ak)
    return Derivatives(parts)


def compute_pdf_derivatives(log_x: Floats, log_scale: Floats, log_shape: Floats) -> Derivatives:
    """Compute the density ``f(x)`` for ``x > 0`` with its derivatives."""
    log_u = compute_log_cumulative_hazard(log_x, log_scale, log_shape)
    u, shape = np.exp(log_u), np.exp(log_shape)
    f = np.exp(log_shape - log_x + log_u - u)
    slope = 1.0 + log_u * (1.0 - u)
    parts = (
        f,
        f * shape * (u - 1.0),
        f * slope,
        f * shape * shape * ((u - 1.0) ** 2 - u),
        f * (slope**2 + log_u * (1.0 - u) - log_u * log_u * u),
        f * shape * ((u - 1.0) * (slope + 1.0) + log_u * u),
    )
    return Derivatives(np.stack(parts))


Likelihood: TypeAlias = Callable[[Floats, Floats], Derivatives]
"""Function of log scales and log shapes that computes the likelihood of every cell under each component, with shape
(n_problems, 2, n_cells)."""


Bounds: TypeAlias = tuple[float, float]
"""Smallest and largest value of a parameter; scales are in units of the number of epochs."""


@dataclass(frozen=True, slots=True)
class Family:
    """Definition of one kind of fit; index 0 is the clean component, 1 the noisy one.

    Attributes
    ----------
    tops
        Whether the top bin is open (True) or closed (False); of two values the first one is preferred.
    scale, shape
        Bounds of the scales and of the shapes of both components.
    has_tails
        Whether the components have tails (`tails`).
    """

    tops: tuple[bool, ...]
    scale: tuple[Bounds, Bounds]
    shape: tuple[Bounds, Bounds]
    has_tails: bool = False


_FREE_SCALE, _FREE_SHAPE = (1e-2, 1e2), (0.1, 1e3)
_SPLIT_SCALE = ((1e-2, 0.7), (0.7, 1e2))
_CLEAN_SHAPE = (0.6, 1e3)
FAMILIES: dict[Fit, Family] = {
    # The bounds of the noisy shape have the largest effect: at 30 the component narrows to the peak at the top bin and
    # leaves other mislabelled samples to the clean one, at 2 it covers the tail of the clean one (docs/method.md).
    "anchored": Family(tops=(False, True), scale=_SPLIT_SCALE, shape=(_CLEAN_SHAPE, (3.0, 10.0))),
    # With a tail for hard clean samples the noisy component can be narrow.
    "tailed": Family(tops=(False,), scale=_SPLIT_SCALE, shape=(_CLEAN_SHAPE, (5.0, 30.0)), has_tails=True),
    "grouped": Family(tops=(False,), scale=(_FREE_SCALE,) * 2, shape=(_FREE_SHAPE,) * 2),
    "censored": Family(tops=(True,), scale=(_FREE_SCALE,) * 2, shape=(_FREE_SHAPE,) * 2),
    # Without a bound the noisy shape would diverge towards a spike of infinite likelihood.
    "density": Family(tops=(True,), scale=(_FREE_SCALE,) * 2, shape=(_FREE_SHAPE,) * 2),
}


def make_likelihood(kind: Fit, n_bins: int, cell_likelihood: Floats | None, *, open_top: bool) -> Likelihood:
    """Create the function that computes the likelihood of every bin or cell under each component.

    Parameters
    ----------
    kind
        The kind of fit.
    n_bins
        Number of bins.
    cell_likelihood
        Shape (n_cells, n_bins), probability of every cell given the bin; None if the cells are the bins.
    open_top
        Whether the top bin stands for "at least this".
    """
    likelihood = (
        _make_density_likelihood(n_bins) if kind == "density" else _make_mass_likelihood(n_bins, open_top=open_top)
    )
    if cell_likelihood is None:
        return likelihood
    return lambda log_scale, log_shape: Derivatives(likelihood(log_scale, log_shape).parts @ cell_likelihood.T)


def _make_mass_likelihood(n_bins: int, *, open_top: bool) -> Likelihood:
    """Create the likelihood of the bins as the probabilities of their intervals."""
    log_edges = _compute_log_edges(n_bins)

    def likelihood(log_scale: Floats, log_shape: Floats) -> Derivatives:
        below = compute_cdf_derivatives(log_edges, log_scale, log_shape).parts
        if open_top:
            below[0, ..., -1], below[1:, ..., -1] = 1.0, 0.0
        # The quotient rule on F(j + 1) - F(j) over the probability of all bins together, F(E + 1).
        parts, total = below[..., 1:] - below[..., :-1], below[..., -1:]
        mass, first, second = parts[0], parts[1:3], parts[3:]
        mass /= total[0]
        first -= mass * total[1:3]
        first /= total[0]
        second[:2] -= 2 * first * total[1:3]
        second[2] -= first[0] * total[2]
        second[2] -= first[1] * total[1]
        second -= mass * total[3:]
        second /= total[0]
        return Derivatives(parts)

    return likelihood


def _make_density_likelihood(n_bins: int) -> Likelihood:
    """Create the likelihood as published (arXiv 2306.11560): the density at every count, with 0 replaced by 0.1."""
    points = np.arange(n_bins, dtype=np.float64)
    points[0] = 0.1
    log_x = np.log(points)
    return lambda log_scale, log_shape: compute_pdf_derivatives(log_x, log_scale, log_shape)


def compute_component_masses(log_scales: Floats, log_shapes: Floats, n_bins: int, *, open_top: bool) -> Floats:
    """Compute the probability of every bin under each component; each row sums to one.

    Parameters
    ----------
    log_scales, log_shapes
        Shape (..., 2) each, logarithms of the scales (in bins) and of the shapes of both components.
    n_bins
        Number of bins.
    open_top
        Whether the top bin stands for "at least this".

    Returns
    -------
    masses
        Shape (..., 2, n_bins).
    """
    below = compute_cdf(_compute_log_edges(n_bins), log_scales[..., None], log_shapes[..., None])
    if open_top:
        below[..., -1] = 1.0
    masses = np.diff(below)
    # A component above all bins has no probability in any of them: it becomes a spike on the top bin.
    masses[..., -1] = np.where(masses.sum(axis=-1) <= TINY, 1.0, masses[..., -1])
    normalised: Floats = masses / masses.sum(axis=-1, keepdims=True)
    return normalised


def _compute_log_edges(n_bins: int) -> Floats:
    """Compute the logarithms of the edges ``0..n_bins`` of the bins."""
    with np.errstate(divide="ignore"):
        return np.log(np.arange(n_bins + 1, dtype=np.float64))
