"""Families of distributions on counts, fitted by the probability of each count's interval, alone or as two components.

A count ``z`` of ``0..E`` stands for the interval ``[z, z + 1)``, as in `mild_core.mixture`, and every family is cut off
at ``0`` and ``E + 1``, so that the likelihoods of all of them are of the same events. Each has two parameters; the
beta-binomial is a distribution on counts by itself.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import betainc, betaln, expit, gammainc, gammaln, ndtr

Floats: TypeAlias = NDArray[np.float64]
Masses: TypeAlias = Callable[[Floats, int], Floats]
"""Function of two parameters and ``E`` that returns the probability of each count, shape (E + 1,), up to a factor."""

_BOUND = 8.0
_SPLITS = (0.3, 0.5, 0.7)
"""Shares of ``E`` at which the samples are divided for the starting points of a mixture."""
_FLOOR = 1e-6
"""Weight of a uniform distribution in every fitted one, which bounds the loss by a single held-out sample."""


def _group(compute_cdf: Callable[[Floats, Floats], Floats]) -> Masses:
    """Make the masses of a continuous family from its distribution function of parameters and edges, in units of E."""
    return lambda theta, n_epochs: np.diff(compute_cdf(theta, np.arange(n_epochs + 2) / n_epochs))


def _weibull(theta: Floats, x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(-np.expm1(-((x / np.exp(theta[0])) ** np.exp(theta[1]))))


def _gamma(theta: Floats, x: Floats) -> Floats:
    return np.asarray(gammainc(np.exp(theta[1]), x / np.exp(theta[0])))


def _log_normal(theta: Floats, x: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(ndtr((np.log(x) - theta[0]) / np.exp(theta[1])))


def _gaussian(theta: Floats, x: Floats) -> Floats:
    return np.asarray(ndtr((x - theta[0]) / np.exp(theta[1])))


def _beta(theta: Floats, x: Floats) -> Floats:
    return np.asarray(betainc(np.exp(theta[0]), np.exp(theta[1]), x / x[-1]))


def _beta_binomial(theta: Floats, n_epochs: int) -> Floats:
    z, (a, b) = np.arange(n_epochs + 1), np.exp(theta)
    choices = gammaln(n_epochs + 1) - gammaln(z + 1) - gammaln(n_epochs - z + 1)
    return np.asarray(np.exp(choices + betaln(z + a, n_epochs - z + b) - betaln(a, b)))


FAMILIES: Mapping[str, Masses] = MappingProxyType(
    {
        "Weibull": _group(_weibull),
        "gamma": _group(_gamma),
        "log-normal": _group(_log_normal),
        "Gaussian": _group(_gaussian),
        "beta": _group(_beta),
        "beta-binomial": _beta_binomial,
    }
)


def compute_masses(family: str, theta: Floats, n_epochs: int) -> Floats:
    """Compute the probability of each count, shape (E + 1,), which sums to one."""
    masses = np.nan_to_num(np.maximum(FAMILIES[family](theta, n_epochs), 0))
    total, uniform = masses.sum(), np.full(masses.size, 1 / masses.size)
    return np.asarray((1 - _FLOOR) * (masses / total if total > 0 else uniform) + _FLOOR * uniform)


def fit_one(family: str, counts: Floats) -> tuple[Floats, Floats]:
    """Fit a family to a histogram, shape (E + 1,); return its parameters and its masses."""
    n_epochs = counts.size - 1

    def objective(theta: Floats) -> float:
        return float(-(counts @ np.log(compute_masses(family, theta, n_epochs))) / counts.sum())

    starts = [np.array(start) for start in ((-1.5, 0.0), (-0.5, 0.0), (0.0, 1.5), (1.5, -0.5), (0.5, -1.5))]
    theta = _minimise(objective, starts)
    return theta, compute_masses(family, theta, n_epochs)


def fit_two(family: str, counts: Floats) -> Floats:
    """Fit two components of a family to a histogram, shape (E + 1,), and return the masses of the mixture."""
    n_epochs = counts.size - 1

    def mix(theta: Floats) -> Floats:
        first, second = (compute_masses(family, part, n_epochs) for part in (theta[1:3], theta[3:]))
        weight = expit(theta[0])
        return np.asarray((1 - weight) * first + weight * second)

    starts = []
    for split in _SPLITS:
        upper = expit((np.arange(counts.size) - split * n_epochs) / (0.1 * n_epochs)) * counts
        parts = [fit_one(family, part + 1e-3)[0] for part in (counts - upper, upper)]
        share = np.clip(upper.sum() / counts.sum(), 0.01, 0.99)
        starts.append(np.concatenate(([np.log(share / (1 - share))], *parts)))
    return mix(_minimise(lambda theta: float(-(counts @ np.log(mix(theta))) / counts.sum()), starts))


def _minimise(objective: Callable[[Floats], float], starts: list[Floats]) -> Floats:
    """Return the best of the minima that are reached from the starting points."""
    bounds = [(-_BOUND, _BOUND)] * starts[0].size
    results = [minimize(objective, start, method="L-BFGS-B", bounds=bounds) for start in starts]
    return np.asarray(min(results, key=lambda result: float(result.fun)).x, dtype=np.float64)


def compute_fit(counts: Floats, masses: Floats) -> tuple[float, float, int]:
    """Compute how well masses describe held-out samples.

    Parameters
    ----------
    counts
        Histogram of samples that the masses were not fitted to, shape (E + 1,).
    masses
        Shape (E + 1,), sums to one.

    Returns
    -------
    log_likelihood
        Nats per sample.
    chi_square, n_degrees
        Pearson's statistic over cells of 5 expected samples or more, made of adjacent counts, and their number less 1.
    """
    expected, observed = [0.0], [0.0]
    for mass, count in zip(masses * counts.sum(), counts, strict=True):
        if expected[-1] >= 5:
            expected.append(0.0)
            observed.append(0.0)
        expected[-1] += mass
        observed[-1] += count
    if len(expected) > 1 and expected[-1] < 5:
        for cells in (expected, observed):
            last = cells.pop()
            cells[-1] += last
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    return float(counts @ np.log(masses) / max(counts.sum(), 1)), float(statistic), len(expected) - 1
