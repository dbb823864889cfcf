"""Two-component Weibull mixtures on a histogram of counts; the cost never grows with the number of samples.

`anchored` adds weak priors and bounds that keep the noisy component where noise lives: a mixture left alone happily
spends it on the tail of the clean samples. The likelihood cannot make that choice; decisions on recorded sequences
did (docs/method.md). The other fits are those of `likelihood`.

Parameters are optimised as ``(logit w, log a1, log a2, log k1, log k2)`` by Newton's method from a few fixed starts, so
a fit is deterministic.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logit

from mild_core.mixture.newton import Local, Objective, minimise
from mild_core.mixture.weibull import FAMILIES, TINY, Derivatives, Floats, component_masses, likelihood_of
from mild_core.results import Component
from mild_core.types import Fit

_FLOOR = 1e-12
"""Added to every cell's likelihood while fitting, so that a start far off has a finite value and gradient."""
_LOGIT_BOUND = 12.0
_APART = np.array([2.0, 0.3, 0.3, 0.6, 0.6])
"""How far a group's parameters lie from those of all samples: a standard deviation each."""
_FAR_BETTER = 0.15
"""Nats per sample by which an open top has to explain a histogram better to be chosen. On recorded sequences the closed
one decides better up to there; counts that pile up beyond the last epoch are further off (docs/method.md)."""
_BATCH = 64
"""Groups that are fitted at once: each takes room for its cells."""
_STARTS: tuple[tuple[float, float, float], ...] = (
    # weight of the noisy component, clean scale, noisy scale (in epochs of E)
    (0.2, 0.1, 0.9),
    (0.5, 0.15, 0.95),
    (0.8, 0.3, 1.1),
)


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
    open_top
        Whether the top bin stands for "at least this".
    """

    kind: Fit
    weights: Floats
    scales: Floats
    shapes: Floats
    means: Floats
    masses: Floats
    log_likelihood: float
    open_top: bool

    @property
    def densities(self) -> Floats:
        """Weighted masses, shape (2, n_bins)."""
        return self.weights[:, None] * self.masses

    def noisy_posterior(self, observation: Floats | None = None) -> Floats:
        """Probability of the noisy component in each bin, or in each cell of `observation`, (n_cells, n_bins)."""
        clean, noisy = self.densities if observation is None else self.densities @ observation.T
        posterior: Floats = noisy / np.maximum(clean + noisy, TINY)
        return posterior

    @property
    def components(self) -> tuple[Component, Component]:
        """Both components as plain numbers, the clean one first."""
        rows = zip(self.weights, self.scales, self.shapes, self.means, strict=True)
        clean, noisy = (Component(*(float(v) for v in row)) for row in rows)
        return clean, noisy


def fit_mixture(
    counts: Floats,
    kind: Fit = "anchored",
    observation: Floats | None = None,
    checked: Floats | None = None,
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
    checked
        Samples per cell, among `counts`, that were found to be clean and to be noisy, shape (2, n_cells). They may have
        been chosen by their score: what they say of the weights and components is what was found, given the score.

    Returns
    -------
    Mixture
        The best of the fixed starts; of an open and a closed top, where the fit may choose, the closed one unless the
        open one explains the counts far better. Never raises for finite, non-negative counts of two bins or more.
    """
    n_bins = counts.size if observation is None else observation.shape[1]
    top, *other_tops = FAMILIES[kind].tops
    preferred = _best(counts, _Problem(kind, n_bins, observation, checked, open_top=top))
    enough = preferred.log_likelihood + _FAR_BETTER * float(counts.sum())
    if observation is None and _most_likely(counts) <= enough:
        return preferred
    others = (_best(counts, _Problem(kind, n_bins, observation, checked, open_top=top)) for top in other_tops)
    return next((other for other in others if other.log_likelihood > enough), preferred)


def _most_likely(counts: Floats) -> float:
    """Log-likelihood that no distribution over the bins exceeds."""
    taken = counts[counts > 0]
    return float(taken @ np.log(taken / taken.sum()))


def _best(counts: Floats, problem: "_Problem") -> Mixture:
    """The best of the fixed starts."""
    starts = problem.starts()
    theta, value = minimise(
        problem.objective(np.broadcast_to(counts, (len(starts), counts.size))), starts, problem.low, problem.high
    )
    return problem.described(theta[value.argmin()], counts)


def refit(mixture: Mixture, histograms: Floats, checked: Floats | None = None) -> list[Mixture]:
    """Fit each of `histograms`, shape (n_problems, n_bins), as `mixture` was, starting from it."""
    problem = _Problem(mixture.kind, histograms.shape[1], None, checked, open_top=mixture.open_top)
    start = np.tile(np.clip(_parameters(mixture), problem.low, problem.high), (len(histograms), 1))
    theta, _ = minimise(problem.objective(histograms), start, problem.low, problem.high)
    return [problem.described(row, counts) for row, counts in zip(theta, histograms, strict=True)]


def fit_groups(mixture: Mixture, groups: Floats, observation: Floats | None = None) -> list[Mixture]:
    """Fit the histogram of each group of samples, partially pooled: the fewer its samples, the closer to `mixture`.

    Each parameter is drawn to the one of all samples by a normal prior, of `_APART` as its standard deviation.

    Parameters
    ----------
    mixture
        The fit of all samples together.
    groups
        Shape (n_groups, n_bins), or (n_groups, n_cells) together with `observation`, as in `fit_mixture`.
    """
    problem = _Problem(mixture.kind, mixture.masses.shape[1], observation, open_top=mixture.open_top)
    start = np.clip(_parameters(mixture), problem.low, problem.high)
    problem.centre, problem.precision = start, _APART**-2
    fits = []
    for first in range(0, len(groups), _BATCH):
        batch = groups[first : first + _BATCH]
        theta, _ = minimise(problem.objective(batch), np.tile(start, (len(batch), 1)), problem.low, problem.high)
        fits += [problem.described(row, counts) for row, counts in zip(theta, batch, strict=True)]
    return fits


def _parameters(mixture: Mixture) -> Floats:
    """As they are optimised, shape (5,)."""
    return np.concatenate((logit(mixture.weights[1:]), np.log(mixture.scales), np.log(mixture.shapes)))


class _Problem:
    """One kind of fit on bins of one number: bounds, priors, likelihood."""

    def __init__(
        self,
        kind: Fit,
        n_bins: int,
        observation: Floats | None,
        checked: Floats | None = None,
        *,
        open_top: bool,
    ) -> None:
        self.kind, self.n_bins, self.open_top = kind, n_bins, open_top
        self.checked = checked
        self.n_epochs = max(n_bins - 1, 1)
        self.likelihood = likelihood_of(kind, n_bins, observation, open_top=open_top)
        priors = (*FAMILIES[kind].scale, *FAMILIES[kind].shape)
        unit = np.log([self.n_epochs, self.n_epochs, 1.0, 1.0])
        low, high, centre = (np.log([getattr(p, name) for p in priors]) + unit for name in ("low", "high", "centre"))
        self.low = np.concatenate(([-_LOGIT_BOUND], low))
        self.high = np.concatenate(([_LOGIT_BOUND], high))
        self.centre = np.concatenate(([0.0], centre))
        self.precision = np.array([0.0, *(p.log_sd**-2 for p in priors)])

    def starts(self) -> Floats:
        """The fixed starting points, shape (n_starts, 5), inside the bounds."""
        points = [
            (logit(weight), np.log(clean * self.n_epochs), np.log(noisy * self.n_epochs), 0.0, np.log(6.0))
            for weight, clean, noisy in _STARTS
        ]
        clipped: Floats = np.clip(np.array(points), self.low, self.high)
        return clipped

    def objective(self, counts: Floats) -> Objective:
        """Negative log posterior per sample of `counts`, shape (n_problems, n_cells)."""
        totals = np.maximum(counts.sum(axis=1), 1.0)
        if self.checked is not None:  # which component they are of is no longer open
            counts = np.maximum(counts - self.checked.sum(axis=0), 0.0)

        def local(theta: Floats, which: NDArray[np.intp]) -> Local:
            count, total = counts[which], totals[which]
            cell = self.likelihood(theta[:, 1:3, None], theta[:, 3:5, None])
            weight = np.stack((expit(-theta[:, 0]), expit(theta[:, 0])), axis=1)[:, :, None]
            mixed = (weight * cell.value).sum(axis=1) + _FLOOR
            both = weight[:, 0] * weight[:, 1]
            by_logit = both * (cell.value[:, 1] - cell.value[:, 0])
            jacobian = np.concatenate((by_logit[:, None], weight * cell.a, weight * cell.k), axis=1)
            offset = theta - self.centre
            pull = self.precision * offset
            ratio = count / mixed
            value = 0.5 * (pull * offset).sum(axis=1) - (count * np.log(mixed)).sum(axis=1)
            gradient = pull - (jacobian @ ratio[:, :, None])[:, :, 0]
            fisher = (jacobian * (ratio / mixed)[:, None]) @ jacobian.swapaxes(1, 2) + np.diag(self.precision)
            hessian = fisher - _second(cell, weight[:, :, 0], both, by_logit, ratio)
            if self.checked is not None:
                for part, added in zip((value, gradient, fisher, hessian), _told(cell, self.checked), strict=True):
                    part += added
                clean, noisy = self.checked.sum(axis=1)
                value -= clean * log_expit(-theta[:, 0]) + noisy * log_expit(theta[:, 0])
                gradient[:, 0] += clean * weight[:, 1, 0] - noisy * weight[:, 0, 0]
                fisher[:, 0, 0] += (clean + noisy) * both[:, 0]
                hessian[:, 0, 0] += (clean + noisy) * both[:, 0]
            diagonal = np.einsum("bii->bi", fisher)
            return Local(
                *(part / total.reshape(-1, *[1] * (part.ndim - 1)) for part in (value, gradient, hessian, diagonal))
            )

        return local

    def described(self, theta: Floats, counts: Floats) -> Mixture:
        """Order the components by their mean within the bins and compute what the caller reads."""
        weights = np.array([expit(-theta[0]), expit(theta[0])])
        cell = self.likelihood(theta[None, 1:3, None], theta[None, 3:5, None])
        log_likelihood = float(counts @ np.log(np.maximum(weights @ cell.value[0], TINY)))
        masses = component_masses(theta[1:3], theta[3:5], self.n_bins, open_top=self.open_top)
        means = masses @ np.arange(self.n_bins)
        order = np.argsort(means, kind="stable")
        scales, shapes = np.exp(theta[1:3]), np.exp(theta[3:5])
        return Mixture(
            kind=self.kind,
            weights=weights[order],
            scales=scales[order],
            shapes=shapes[order],
            means=means[order],
            masses=masses[order],
            log_likelihood=log_likelihood,
            open_top=self.open_top,
        )


def _second(cell: Derivatives, weight: Floats, both: Floats, by_logit: Floats, ratio: Floats) -> Floats:
    """Second derivatives of the mixed likelihood, summed over the cells with `ratio`, shape (n_problems, 5, 5)."""
    a, k, aa, ak, kk = ((part @ ratio[:, :, None])[:, :, 0] for part in (cell.a, cell.k, cell.aa, cell.ak, cell.kk))
    out = np.zeros((len(ratio), 5, 5))
    out[:, 0, 0] = (weight[:, 0] - weight[:, 1]) * (by_logit * ratio).sum(axis=1)
    out[:, 0, 1:3] = out[:, 1:3, 0] = both * [-1.0, 1.0] * a
    out[:, 0, 3:5] = out[:, 3:5, 0] = both * [-1.0, 1.0] * k
    for component in (0, 1):
        scale, shape = 1 + component, 3 + component
        out[:, scale, scale] = weight[:, component] * aa[:, component]
        out[:, scale, shape] = out[:, shape, scale] = weight[:, component] * ak[:, component]
        out[:, shape, shape] = weight[:, component] * kk[:, component]
    return out


def _told(cell: Derivatives, known: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """What samples of a known component add to the objective, its gradient, its Fisher information and its Hessian."""
    n_problems = len(cell.value)
    likelihood = cell.value + _FLOOR
    ratio = known / likelihood
    value = -(known * np.log(likelihood)).sum(axis=(1, 2))
    gradient, fisher, hessian = np.zeros((n_problems, 5)), np.zeros((n_problems, 5, 5)), np.zeros((n_problems, 5, 5))
    for component in (0, 1):
        own = [1 + component, 3 + component]
        first = np.stack((cell.a[:, component], cell.k[:, component]), axis=1)
        r = ratio[:, component, None]
        gradient[:, own] = -(first * r).sum(axis=2)
        square = (first * (r / likelihood[:, component, None])) @ first.swapaxes(1, 2)
        aa, ak, kk = ((part[:, component] * ratio[:, component]).sum(axis=1) for part in (cell.aa, cell.ak, cell.kk))
        block = np.ix_(range(n_problems), own, own)
        fisher[block] = square
        hessian[block] = square - np.stack((np.stack((aa, ak), axis=1), np.stack((ak, kk), axis=1)), axis=1)
    return value, gradient, fisher, hessian
