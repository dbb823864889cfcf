"""Two-component mixtures of other families on the same histograms, by expectation maximisation, for comparison only.

Scores are counts ``z = 0..E``. Gaussian: on ``z``. Log-normal and gamma: on ``z + 1/2``. Beta: on
``(z + 1/2) / (E + 1)``, with moments in the maximisation step, as in Arazo et al. 2019. Beta-binomial: on ``z`` of
``E``.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats: TypeAlias = NDArray[np.float64]
Family: TypeAlias = Callable[[Floats, Floats, int], Floats]
"""Function of counts ``z``, weights and ``E``: the log density of each ``z`` under the best fit, shape of `z`."""

_SPLITS = (0.3, 0.5, 0.7)
"""Shares of ``E`` at which the first responsibilities are one half."""
_STEPS = 100


def _compute_moments(x: Floats, weight: Floats, least: float) -> tuple[float, float]:
    mean = float(np.average(x, weights=weight))
    return mean, max(float(np.average((x - mean) ** 2, weights=weight)), least)


def _gaussian(z: Floats, weight: Floats, n_epochs: int) -> Floats:
    mean, variance = _compute_moments(z, weight, 1 / 12)
    return np.asarray(stats.norm.logpdf(z, mean, np.sqrt(variance)))


def _log_normal(z: Floats, weight: Floats, n_epochs: int) -> Floats:
    log_z = np.log(z + 0.5)
    mean, variance = _compute_moments(log_z, weight, 1e-3)
    return np.asarray(stats.norm.logpdf(log_z, mean, np.sqrt(variance)) - log_z)


def _gamma(z: Floats, weight: Floats, n_epochs: int) -> Floats:
    mean, variance = _compute_moments(z + 0.5, weight, 1 / 12)
    return np.asarray(stats.gamma.logpdf(z + 0.5, mean**2 / variance, scale=variance / mean))


def _beta(z: Floats, weight: Floats, n_epochs: int) -> Floats:
    x = (z + 0.5) / (n_epochs + 1)
    mean, variance = _compute_moments(x, weight, 1e-5)
    strength = max(mean * (1 - mean) / variance - 1, 1e-2)
    return np.asarray(stats.beta.logpdf(x, mean * strength, (1 - mean) * strength))


def _beta_binomial(z: Floats, weight: Floats, n_epochs: int) -> Floats:
    def log_density(theta: Floats) -> Floats:
        return np.asarray(stats.betabinom.logpmf(z, n_epochs, *np.exp(theta)))

    def objective(theta: Floats) -> float:
        return float(-(weight @ log_density(theta)) / weight.sum())

    mean = float(np.clip(np.average(z, weights=weight) / n_epochs, 0.01, 0.99))
    start = np.log(np.array([2 * mean, 2 * (1 - mean)]))
    fit = optimize.minimize(objective, start, method="L-BFGS-B", bounds=[(-5.0, 8.0), (-5.0, 8.0)])
    return log_density(np.asarray(fit.x))


FAMILIES: dict[str, Family] = {
    "Gaussian": _gaussian,
    "log-normal": _log_normal,
    "gamma": _gamma,
    "beta": _beta,
    "beta-binomial": _beta_binomial,
}


def find_best_cut(family: str, counts: Floats) -> int:
    """Find the cut with the fewest errors under the family's fit; bins ``0..cut`` are kept.

    Parameters
    ----------
    family
        A key of `FAMILIES`.
    counts
        Histogram, shape (E + 1,).
    """
    z, n_epochs = np.arange(counts.size, dtype=np.float64), counts.size - 1
    fits = [_maximise(FAMILIES[family], z, counts, n_epochs, split) for split in _SPLITS]
    _, density = max(fits, key=lambda fit: fit[0])
    means = density @ z / density.sum(axis=1)
    clean, noisy = density[np.argsort(means, kind="stable")]
    cost = np.concatenate(([0.0], np.cumsum(noisy))) + clean.sum() - np.concatenate(([0.0], np.cumsum(clean)))
    return int(np.argmin(cost)) - 1


def _maximise(family: Family, z: Floats, counts: Floats, n_epochs: int, split: float) -> tuple[float, Floats]:
    """Return the log likelihood, and the weighted densities, shape (2, n_bins)."""
    upper = 1 / (1 + np.exp(-(z - split * n_epochs) / (0.1 * n_epochs)))
    responsibility = np.stack((1 - upper, upper))
    steps = _STEPS if family is not _beta_binomial else _STEPS // 10
    last_log_likelihood, density = -np.inf, responsibility
    for _ in range(steps):
        weight = responsibility * counts + 1e-9
        share = weight.sum(axis=1) / weight.sum()
        log_density = np.stack([np.log(s) + family(z, w, n_epochs) for s, w in zip(share, weight, strict=True)])
        log_density = np.clip(log_density, -700, 700)
        density = np.exp(log_density)
        mixed = density.sum(axis=0)
        log_likelihood = float(counts @ np.log(mixed))
        responsibility = density / mixed
        if log_likelihood - last_log_likelihood < 1e-7 * abs(log_likelihood):
            return log_likelihood, density
        last_log_likelihood = log_likelihood
    return last_log_likelihood, density
