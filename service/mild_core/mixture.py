"""Two-component Weibull mixtures on a histogram of counts; the cost never grows with the number of samples.

A score is a count: bin ``j`` of ``0..E`` stands for the interval ``[j, j + 1)``, and has probability
``(S(j) - S(j + 1)) / (1 - S(E + 1))`` under a component that ends with the top bin (`grouped`, `anchored`), or
``S(j) - S(j + 1)`` with ``S(E)`` for the top bin where "never memorised" means "at least this" (`censored`). The
likelihood of a histogram is bounded, so that, unlike a density's (`density`, as published), it cannot collapse onto
the samples that all sit on ``E``.

`anchored` adds weak priors and bounds that keep the noisy component where noise lives: a mixture left alone happily
spends it on the tail of the clean samples. The likelihood cannot make that choice; decisions on recorded sequences
did (docs/method.md).

Parameters are optimised as ``(logit w, log a1, log a2, log k1, log k2)`` by L-BFGS-B with analytic gradients from a
few fixed starts, so a fit is deterministic.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from mild_core import weibull
from mild_core.types import Component, Fit
from mild_core.weibull import Floats

_TINY = 1e-300
_FLOOR = 1e-12
"""Added to every cell's likelihood while fitting, so that a start far off has a finite value and gradient."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """A fitted mixture; index 0 is the clean component, 1 the noisy one (the larger mean within the bins).

    Attributes
    ----------
    kind
        Which fit.
    weights, scales, shapes, means
        Shape (2,), in bins; the means are those within the bins.
    masses
        Shape (2, n_bins), each row a component's probabilities, summing to one.
    log_likelihood
        Of the histogram, natural logarithm, without priors.
    """

    kind: Fit
    weights: Floats
    scales: Floats
    shapes: Floats
    means: Floats
    masses: Floats
    log_likelihood: float

    @property
    def densities(self) -> Floats:
        """Weighted masses, shape (2, n_bins)."""
        return self.weights[:, None] * self.masses

    @property
    def noisy_posterior(self) -> Floats:
        """Probability of the noisy component in each bin, shape (n_bins,)."""
        clean, noisy = self.densities
        posterior: Floats = noisy / np.maximum(clean + noisy, _TINY)
        return posterior

    @property
    def components(self) -> tuple[Component, Component]:
        """Both components as plain numbers, the clean one first."""
        rows = zip(self.weights, self.scales, self.shapes, self.means, strict=True)
        clean, noisy = (Component(*(float(v) for v in row)) for row in rows)
        return clean, noisy


@dataclass(frozen=True, slots=True)
class _Prior:
    """A normal prior on the logarithm of a parameter, and its bounds; scales are in units of the number of epochs."""

    low: float
    high: float
    centre: float = 1.0
    log_sd: float = np.inf


@dataclass(frozen=True, slots=True)
class _Family:
    """What tells the fits on counts apart."""

    open_top: bool
    scale: tuple[_Prior, _Prior]
    shape: tuple[_Prior, _Prior]


# The noisy shape's upper bound decides most: at 30 the component closes in on the pile at the top and leaves the other
# mislabelled samples to the clean one (docs/method.md).
_FREE_SCALE, _FREE_SHAPE = _Prior(1e-2, 1e2), _Prior(0.1, 1e3)
_FAMILIES: dict[Fit, _Family] = {
    "anchored": _Family(
        open_top=False,
        scale=(_Prior(1e-3, 0.7, 0.15, 1.0), _Prior(0.6, 3.0, 1.0, 0.5)),
        shape=(_Prior(0.6, 6.0, 1.0, 0.7), _Prior(1.5, 8.0, 4.0, 0.8)),
    ),
    "grouped": _Family(open_top=False, scale=(_FREE_SCALE,) * 2, shape=(_FREE_SHAPE,) * 2),
    "censored": _Family(open_top=True, scale=(_FREE_SCALE,) * 2, shape=(_FREE_SHAPE,) * 2),
}
_STARTS: tuple[tuple[float, float, float], ...] = (
    # weight of the noisy component, clean scale, noisy scale (in epochs of E)
    (0.2, 0.1, 0.9),
    (0.5, 0.15, 0.95),
    (0.8, 0.3, 1.1),
)
_DENSITY_SHAPE_LIMIT = 1e3
"""The published density fit runs away towards a spike of infinite likelihood; here it is stopped."""


def fit_mixture(
    counts: Floats, kind: Fit = "anchored", observation: Floats | None = None, start: Mixture | None = None
) -> Mixture:
    """Fit two Weibull components to a histogram.

    Parameters
    ----------
    counts
        Number of samples, shape (n_bins,) for bins ``0..E``; or (n_cells,) together with `observation`.
    kind
        ``anchored``, ``grouped``, ``censored`` or ``density``.
    observation
        Shape (n_cells, n_bins): probability of each observed cell given each true count, for samples that were not
        observed in every epoch. None: cells are bins.
    start
        A fit to nearly the same histogram to start from, instead of the fixed starts.

    Returns
    -------
    Mixture
        The best of the fixed starts. Never raises for finite, non-negative counts of two bins or more.
    """
    n_bins = counts.size if observation is None else observation.shape[1]
    total = max(float(counts.sum()), 1.0)
    likelihood = _density_likelihood(n_bins) if kind == "density" else _mass_likelihood(n_bins, _FAMILIES[kind])
    if observation is not None:
        likelihood = _seen_through(observation, likelihood)
    family = _FAMILIES.get(kind, _Family(True, (_FREE_SCALE,) * 2, (_Prior(0.1, _DENSITY_SHAPE_LIMIT),) * 2))
    n_epochs = max(n_bins - 1, 1)
    priors = (*family.scale, *family.shape)
    unit = np.log([n_epochs, n_epochs, 1.0, 1.0])
    low, high, centre = (np.log([getattr(p, name) for p in priors]) + unit for name in ("low", "high", "centre"))
    precision = np.array([p.log_sd for p in priors]) ** -2

    def objective(theta: Floats) -> tuple[float, Floats]:
        weight = np.array([expit(-theta[0]), expit(theta[0])])
        probability, by_scale, by_shape = likelihood(theta[1:3, None], theta[3:5, None])
        mixed = weight @ probability + _FLOOR
        ratio = counts / mixed
        gradient = np.empty(5)
        gradient[0] = -weight[0] * weight[1] * ((probability[1] - probability[0]) @ ratio)
        gradient[1:3] = -weight * (by_scale @ ratio)
        gradient[3:5] = -weight * (by_shape @ ratio)
        offset = theta[1:] - centre
        gradient[1:] += precision * offset
        value = -(counts @ np.log(mixed)) + 0.5 * (precision * offset) @ offset
        return value / total, gradient / total

    bounds = [(-12.0, 12.0), *zip(low, high, strict=True)]
    results = [
        minimize(objective, theta, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 300, "gtol": 1e-7})
        for theta in _starts(start, n_epochs, low, high)
    ]
    theta = min(results, key=lambda result: float(result.fun)).x
    return _described(kind, theta, n_bins, counts, likelihood)


def _starts(near: Mixture | None, n_epochs: int, low: Floats, high: Floats) -> list[Floats]:
    """Starting points inside the bounds."""
    if near is not None:
        points = [np.concatenate((logit(near.weights[1:]), np.log(near.scales), np.log(near.shapes)))]
    else:
        points = [
            np.concatenate(([logit(weight)], np.log([clean * n_epochs, noisy * n_epochs, 1.0, 6.0])))
            for weight, clean, noisy in _STARTS
        ]
    return [np.concatenate((np.clip(p[:1], -12.0, 12.0), np.clip(p[1:], low, high))) for p in points]


_Likelihood = Callable[[Floats, Floats], tuple[Floats, Floats, Floats]]
"""Of log scales and log shapes, shape (2, 1) each: likelihood of every cell and its derivatives, (2, n_cells) each."""


def _mass_likelihood(n_bins: int, family: _Family) -> _Likelihood:
    """Interval probabilities of the bins."""
    with np.errstate(divide="ignore"):
        log_edges = np.log(np.arange(n_bins + 1, dtype=np.float64))

    def likelihood(log_scale: Floats, log_shape: Floats) -> tuple[Floats, Floats, Floats]:
        s, by_scale, by_shape = weibull.survival_gradient(log_edges, log_scale, log_shape)
        if family.open_top:
            s[:, -1] = by_scale[:, -1] = by_shape[:, -1] = 0.0
        inside = np.maximum(1.0 - s[:, -1:], _TINY)
        mass = -np.diff(s, axis=1) / inside
        return (
            mass,
            (-np.diff(by_scale, axis=1) + mass * by_scale[:, -1:]) / inside,
            (-np.diff(by_shape, axis=1) + mass * by_shape[:, -1:]) / inside,
        )

    return likelihood


def _seen_through(observation: Floats, likelihood: _Likelihood) -> _Likelihood:
    """The likelihood of what was observed, for samples that were not observed in every epoch."""

    def seen(log_scale: Floats, log_shape: Floats) -> tuple[Floats, Floats, Floats]:
        mass, by_scale, by_shape = likelihood(log_scale, log_shape)
        return mass @ observation.T, by_scale @ observation.T, by_shape @ observation.T

    return seen


def _density_likelihood(n_bins: int) -> _Likelihood:
    """As published: counts taken for continuous scores, 0 replaced by 0.1."""
    points = np.arange(n_bins, dtype=np.float64)
    points[0] = 0.1
    log_x = np.log(points)
    return lambda log_scale, log_shape: weibull.density_gradient(log_x, log_scale, log_shape)


def _described(kind: Fit, theta: Floats, n_bins: int, counts: Floats, likelihood: _Likelihood) -> Mixture:
    """Order the components by their mean within the bins and compute what the caller reads."""
    weights = np.array([expit(-theta[0]), expit(theta[0])])
    probability, _, _ = likelihood(theta[1:3, None], theta[3:5, None])
    log_likelihood = float(counts @ np.log(np.maximum(weights @ probability, _TINY)))
    masses = component_masses(theta[1:3], theta[3:5], n_bins, open_top=kind in ("censored", "density"))
    means = masses @ np.arange(n_bins)
    order = np.argsort(means, kind="stable")
    scales, shapes = np.exp(theta[1:3]), np.exp(theta[3:5])
    return Mixture(kind, weights[order], scales[order], shapes[order], means[order], masses[order], log_likelihood)


def component_masses(log_scales: Floats, log_shapes: Floats, n_bins: int, *, open_top: bool) -> Floats:
    """Probability of each bin under each component, shape (n_components, n_bins), rows summing to one."""
    with np.errstate(divide="ignore"):
        log_edges = np.log(np.arange(n_bins + 1, dtype=np.float64))
    s = weibull.survival(log_edges, log_scales[:, None], log_shapes[:, None])
    if open_top:
        s[:, -1] = 0.0
    masses = np.maximum(-np.diff(s, axis=1), 0.0)
    # A component that lies wholly above the bins leaves nothing inside them: it is a spike on the top bin.
    masses[masses.sum(axis=1) <= _TINY, -1] = 1.0
    shares: Floats = masses / masses.sum(axis=1, keepdims=True)
    return shares
