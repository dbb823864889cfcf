"""Two-component Weibull mixtures fitted to a histogram of counts, at a cost independent of the number of samples.

The fits ``anchored`` and ``tailed`` have bounds that keep the noisy component at high counts; without these, it often
fits the tail of the clean samples. The bounds were chosen by the decisions that they lead to on recorded sequences,
since the likelihood does not determine them (docs/method.md). `weibull` defines the other fits.

The parameters ``theta = (logit w, log a1, log a2, log k1, log k2)`` are the weight of the noisy component and the
scales and shapes of both, followed by ``logit q`` of `tails` where the fit has tails. Newton's method optimises them
from a few fixed starts, so a fit is deterministic.

A cell is a pair of the observed and the misclassified epochs of a sample (`partial_observation`). Where all
samples were observed in every epoch, the cells are the bins of the histogram.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logit

from mild_core.mixture.newton import Objective, QuadraticModel, minimise
from mild_core.mixture.tails import TailDerivatives, add_tails, compute_tail_masses, differentiate_tailed
from mild_core.mixture.weibull import FAMILIES, TINY, Derivatives, Floats, compute_component_masses, make_likelihood
from mild_core.results import Component
from mild_core.types import Fit

_FLOOR = 1e-12
"""Added to the likelihood of every cell while fitting, so that a distant start has a finite value and gradient."""
_LOGIT_BOUND = 12.0
_GROUP_SD = np.array([2.0, 0.3, 0.3, 0.6, 0.6, 0.6])
"""Standard deviation of the parameters of groups around those of all samples."""
_OPEN_TOP_GAIN = 0.15
"""Nats per sample that an open top bin must gain to be chosen. Below that gain a closed one makes better decisions on
recorded sequences; histograms whose counts pile up beyond the last epoch gain more (docs/method.md)."""
_BATCH = 64
"""Number of groups that are fitted at once, which bounds the memory for their cells."""
_TAIL_START = 0.1
"""Tail weight ``q`` of every starting point."""
_SIGNS = np.array([-1.0, 1.0])
"""Signs of the derivatives of both weights by ``logit w``, in units of their product."""
_ENTRIES = np.array(
    [
        [1, 2, 3, 4, 5, 12],
        [2, 6, 0, 10, 0, 13],
        [3, 0, 7, 0, 11, 14],
        [4, 10, 0, 8, 0, 15],
        [5, 0, 11, 0, 9, 16],
        [12, 13, 14, 15, 16, 17],
    ]
)
"""Distinct entries of the matrix of second derivatives by ``theta``; 0 stands for none."""
_STARTS: tuple[tuple[float, float, float], ...] = (
    # weight of the noisy component, clean scale, noisy scale (in epochs of E)
    (0.2, 0.1, 0.9),
    (0.5, 0.15, 0.95),
    (0.8, 0.3, 1.1),
)


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """A fitted mixture; index 0 is the clean component, index 1 the noisy one, which has the larger mean.

    Attributes
    ----------
    kind
        The kind of fit.
    weights
        Shape (2,), shares of the samples; they sum to one.
    scales, shapes
        Shape (2,) each, Weibull parameters; the scales are in bins.
    means
        Shape (2,), mean bin of each component over the bins of the histogram.
    masses
        Shape (2, n_bins), probability of every bin under each component; rows sum to one.
    log_likelihood
        Log-likelihood of the histogram in nats, without priors.
    open_top
        Whether the top bin stands for "at least this".
    tail
        Weight ``q`` of the clean component's tail (`tails`); 0 in a fit without tails.
    """

    kind: Fit
    weights: Floats
    scales: Floats
    shapes: Floats
    means: Floats
    masses: Floats
    log_likelihood: float
    open_top: bool
    tail: float = 0.0

    @property
    def densities(self) -> Floats:
        """Weight times mass of each component in every bin, shape (2, n_bins)."""
        return self.weights[:, None] * self.masses

    def compute_noisy_posterior(self, cell_likelihood: Floats | None = None) -> Floats:
        """Compute the probability of the noisy component in every bin, shape (n_bins,), or in every cell.

        Parameters
        ----------
        cell_likelihood
            Shape (n_cells, n_bins), as in `fit_mixture`; the result then has the shape (n_cells,).
        """
        clean, noisy = self.densities if cell_likelihood is None else self.densities @ cell_likelihood.T
        posterior: Floats = noisy / np.maximum(clean + noisy, TINY)
        return posterior

    @property
    def components(self) -> tuple[Component, Component]:
        """The two components as Python numbers, the clean one first."""
        rows = zip(self.weights, self.scales, self.shapes, self.means, strict=True)
        clean, noisy = (Component(*(float(value) for value in row)) for row in rows)
        return clean, noisy


def fit_mixture(
    counts: Floats,
    kind: Fit = "anchored",
    cell_likelihood: Floats | None = None,
    checked_counts: Floats | None = None,
) -> Mixture:
    """Fit two Weibull components to a histogram.

    Parameters
    ----------
    counts
        Number of samples in every bin, shape (n_bins,); or in every cell, shape (n_cells,), with `cell_likelihood`.
    kind
        ``anchored``, ``tailed``, ``grouped``, ``censored`` or ``density``.
    cell_likelihood
        Shape (n_cells, n_bins), probability of every cell given the bin that a sample would have if it were observed in
        every epoch. None if the cells are the bins.
    checked_counts
        Shape (2, n_cells), how many of the samples in `counts` an audit marks as clean and as mislabelled. Audited
        samples may have been chosen by their score, so the fit uses the probability of the mark given the score.

    Returns
    -------
    Mixture
        The best fit of all starts. Does not raise for finite, non-negative counts of two bins or more.

    Notes
    -----
    If the kind of fit allows an open and a closed top bin, the first of `Family.tops` is preferred. The other one is
    used only if its log-likelihood is larger by `_OPEN_TOP_GAIN` per sample.
    """
    n_bins = counts.size if cell_likelihood is None else cell_likelihood.shape[1]
    top, *other_tops = FAMILIES[kind].tops
    preferred = _fit_from_starts(counts, _FitProblem(kind, n_bins, cell_likelihood, checked_counts, open_top=top))
    required = preferred.log_likelihood + _OPEN_TOP_GAIN * float(counts.sum())
    if cell_likelihood is None and _compute_max_log_likelihood(counts) <= required:
        return preferred
    others = (
        _fit_from_starts(counts, _FitProblem(kind, n_bins, cell_likelihood, checked_counts, open_top=top))
        for top in other_tops
    )
    return next((other for other in others if other.log_likelihood > required), preferred)


def fit_groups(mixture: Mixture, group_counts: Floats, cell_likelihood: Floats | None = None) -> list[Mixture]:
    """Fit the histogram of every group of samples with partial pooling.

    Every parameter has a normal prior around its value in `mixture`, with the standard deviations `_GROUP_SD`. So the
    fewer samples a group has, the closer its fit is to `mixture`.

    Parameters
    ----------
    mixture
        The fit of all samples together.
    group_counts
        Number of samples of every group in every bin, shape (n_groups, n_bins); or in every cell, shape (n_groups,
        n_cells), with `cell_likelihood`.
    cell_likelihood
        As in `fit_mixture`.
    """
    problem = _FitProblem(mixture.kind, mixture.masses.shape[1], cell_likelihood, open_top=mixture.open_top)
    start = np.clip(_compute_theta(mixture), problem.low, problem.high)
    problem.centre, problem.precision = start, _GROUP_SD[: start.size] ** -2
    fits = []
    for first in range(0, len(group_counts), _BATCH):
        batch = group_counts[first : first + _BATCH]
        theta, _ = minimise(problem.make_objective(batch), np.tile(start, (len(batch), 1)), problem.low, problem.high)
        fits += [problem.make_mixture(row, counts) for row, counts in zip(theta, batch, strict=True)]
    return fits


def _fit_from_starts(counts: Floats, problem: "_FitProblem") -> Mixture:
    """Fit from all fixed starts, and return the fit with the best objective."""
    starts = problem.make_starts()
    objective = problem.make_objective(np.broadcast_to(counts, (len(starts), counts.size)))
    theta, value = minimise(objective, starts, problem.low, problem.high)
    return problem.make_mixture(theta[value.argmin()], counts)


def _compute_max_log_likelihood(counts: Floats) -> float:
    """Compute the largest log-likelihood that any distribution over the bins has."""
    positive = counts[counts > 0]
    return float(positive @ np.log(positive / positive.sum()))


def _compute_theta(mixture: Mixture) -> Floats:
    """Compute the parameters ``theta`` of a mixture, shape (n_parameters,)."""
    tail: Floats = logit(np.array([mixture.tail] if FAMILIES[mixture.kind].has_tails else []))
    return np.concatenate((logit(mixture.weights[1:]), np.log(mixture.scales), np.log(mixture.shapes), tail))


class _FitProblem:
    """Likelihood and bounds of one kind of fit for a number of bins.

    Every parameter has a normal prior with `centre` and `precision`, which is flat unless these are set.
    """

    def __init__(
        self,
        kind: Fit,
        n_bins: int,
        cell_likelihood: Floats | None,
        checked_counts: Floats | None = None,
        *,
        open_top: bool,
    ) -> None:
        self.kind, self.n_bins, self.open_top = kind, n_bins, open_top
        self.checked_counts = checked_counts
        self.n_epochs = max(n_bins - 1, 1)
        self.likelihood = make_likelihood(kind, n_bins, cell_likelihood, open_top=open_top)
        bounds = np.log([*FAMILIES[kind].scale, *FAMILIES[kind].shape])
        bounds[:2] += np.log(self.n_epochs)
        logit_bounds = (-_LOGIT_BOUND, _LOGIT_BOUND)
        self.tails: Floats | None = None
        if FAMILIES[kind].has_tails:
            tails = compute_tail_masses(n_bins)
            self.tails = tails if cell_likelihood is None else tails @ cell_likelihood.T
        self.low, self.high = np.array([logit_bounds, *bounds, *[logit_bounds] * FAMILIES[kind].has_tails]).T
        self.centre, self.precision = np.zeros_like(self.low), np.zeros_like(self.low)

    def make_starts(self) -> Floats:
        """Create the fixed starting points of ``theta``, shape (n_starts, n_parameters), within the bounds."""
        tail = () if self.tails is None else (logit(_TAIL_START),)
        points = [
            (logit(weight), np.log(clean * self.n_epochs), np.log(noisy * self.n_epochs), 0.0, np.log(6.0), *tail)
            for weight, clean, noisy in _STARTS
        ]
        clipped: Floats = np.clip(np.array(points), self.low, self.high)
        return clipped

    def make_objective(self, counts: Floats) -> Objective:
        """Create the objective: the negative log posterior per sample of `counts`, shape (n_problems, n_cells)."""
        n_samples = np.maximum(counts.sum(axis=1), 1.0)
        if self.checked_counts is not None:  # the component of checked samples is known
            counts = np.maximum(counts - self.checked_counts.sum(axis=0), 0.0)

        prior_fisher = np.diag(self.precision)

        def objective(theta: Floats, problems: NDArray[np.intp]) -> QuadraticModel:
            likelihoods = self.likelihood(theta[:, 1:3, None], theta[:, 3:5, None])
            by_tail: TailDerivatives | None = None
            if self.tails is not None:
                likelihoods, by_tail = differentiate_tailed(likelihoods, self.tails, theta[:, 5])
            weight = np.stack((expit(-theta[:, 0]), expit(theta[:, 0])), axis=1)
            mixed = (weight[:, :, None] * likelihoods.value).sum(axis=1) + _FLOOR
            weight_product = weight[:, :1] * weight[:, 1:]
            jacobian = np.empty((*theta.shape, mixed.shape[1]))
            by_logit = jacobian[:, 0]
            np.multiply(weight_product, likelihoods.value[:, 1] - likelihoods.value[:, 0], out=by_logit)
            np.multiply(weight[:, :, None], likelihoods.first[0], out=jacobian[:, 1:3])
            np.multiply(weight[:, :, None], likelihoods.first[1], out=jacobian[:, 3:5])
            if by_tail is not None:
                np.sum(weight[:, :, None] * by_tail.s, axis=1, out=jacobian[:, 5])
            offset, active_counts = theta - self.centre, counts[problems]
            prior_gradient = self.precision * offset
            ratio = active_counts / mixed
            value = 0.5 * (prior_gradient * offset).sum(axis=1) - (active_counts * np.log(mixed)).sum(axis=1)
            gradient = prior_gradient - (jacobian @ ratio[:, :, None])[:, :, 0]
            fisher = (jacobian * (ratio / mixed)[:, None]) @ jacobian.swapaxes(1, 2) + prior_fisher
            hessian = fisher - _sum_second_derivatives(likelihoods, by_tail, weight, weight_product, by_logit, ratio)
            if self.checked_counts is not None:
                terms = _compute_checked_terms(likelihoods, by_tail, self.checked_counts)
                for total, term in zip((value, gradient, fisher, hessian), terms, strict=True):
                    total += term
                clean, noisy = self.checked_counts.sum(axis=1)
                value -= clean * log_expit(-theta[:, 0]) + noisy * log_expit(theta[:, 0])
                gradient[:, 0] += clean * weight[:, 1] - noisy * weight[:, 0]
                fisher[:, 0, 0] += (clean + noisy) * weight_product[:, 0]
                hessian[:, 0, 0] += (clean + noisy) * weight_product[:, 0]
            n_active = n_samples[problems, None]
            return QuadraticModel(
                value / n_active[:, 0],
                gradient / n_active,
                hessian / n_active[:, None],
                np.einsum("bii->bi", fisher) / n_active,
            )

        return objective

    def make_mixture(self, theta: Floats, counts: Floats) -> Mixture:
        """Create the mixture with the parameters `theta`; its components are ordered by their means."""
        weights = np.array([expit(-theta[0]), expit(theta[0])])
        cells = self.likelihood(theta[None, 1:3, None], theta[None, 3:5, None]).value[0]
        masses = compute_component_masses(theta[1:3], theta[3:5], self.n_bins, open_top=self.open_top)
        tail = 0.0
        if self.tails is not None:
            tail = float(expit(theta[5]))
            cells = add_tails(cells, self.tails, tail)
            masses = add_tails(masses, compute_tail_masses(self.n_bins), tail)
        log_likelihood = float(counts @ np.log(np.maximum(weights @ cells, TINY)))
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
            tail=tail,
        )


def _sum_second_derivatives(
    likelihoods: Derivatives,
    by_tail: TailDerivatives | None,
    weight: Floats,
    weight_product: Floats,
    by_logit: Floats,
    ratio: Floats,
) -> Floats:
    """Sum the second derivatives of the mixed likelihood over all cells, weighted by `ratio`.

    Parameters
    ----------
    likelihoods, by_tail
        Derivatives of both components.
    weight, weight_product
        Shapes (n_problems, 2) and (n_problems, 1), the weights of the components and their product.
    by_logit, ratio
        Shape (n_problems, n_cells) each, derivative of the mixed likelihood by ``logit w``, and factor of each cell.

    Returns
    -------
    Floats
        Shape (n_problems, n_parameters, n_parameters).
    """
    n_problems, column = len(ratio), ratio[:, :, None]
    # The distinct entries of the matrix, as `_ENTRIES` counts them.
    entries = np.zeros((n_problems, 12 if by_tail is None else 18))
    entries[:, 1] = (weight[:, 0] - weight[:, 1]) * (by_logit * ratio).sum(axis=1)
    sums = (likelihoods.parts[1:] @ column)[..., 0]
    pairs = entries[:, 2:12].reshape(n_problems, 5, 2).swapaxes(0, 1)
    np.multiply(weight_product * _SIGNS, sums[:2], out=pairs[:2])
    np.multiply(weight, sums[2:], out=pairs[2:])
    if by_tail is not None:
        tail_sums = (by_tail.parts @ column)[..., 0]
        entries[:, 12] = weight_product[:, 0] * (tail_sums[0, :, 1] - tail_sums[0, :, 0])
        entries[:, 13:15], entries[:, 15:17] = weight * tail_sums[1:3]
        entries[:, 17] = (weight * tail_sums[3]).sum(axis=1)
    n_parameters = 5 if by_tail is None else 6
    return entries[:, _ENTRIES[:n_parameters, :n_parameters]]


def _compute_checked_terms(
    likelihoods: Derivatives, by_tail: TailDerivatives | None, checked_counts: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Compute what checked samples add to the objective, its gradient, its Fisher information and its Hessian."""
    n_problems, n_parameters = len(likelihoods.value), 5 if by_tail is None else 6
    likelihood = likelihoods.value + _FLOOR
    ratio = checked_counts / likelihood
    value = -(checked_counts * np.log(likelihood)).sum(axis=(1, 2))
    gradient = np.zeros((n_problems, n_parameters))
    fisher, hessian = (np.zeros((n_problems, n_parameters, n_parameters)) for _ in range(2))
    first_parts = [*likelihoods.first]
    aa, kk, ak = likelihoods.second
    second_parts = [[aa, ak], [ak, kk]]
    if by_tail is not None:
        first_parts.append(by_tail.s)
        sa, sk = by_tail.mixed
        second_parts = [[aa, ak, sa], [ak, kk, sk], [sa, sk, by_tail.ss]]
    for component in (0, 1):
        parameters = [1 + component, 3 + component, 5][: len(first_parts)]
        first = np.stack([part[:, component] for part in first_parts], axis=1)
        component_ratio = ratio[:, component, None]
        gradient[:, parameters] -= (first * component_ratio).sum(axis=2)
        square = (first * (component_ratio / likelihood[:, component, None])) @ first.swapaxes(1, 2)
        second = [[(part[:, component] * ratio[:, component]).sum(axis=1) for part in row] for row in second_parts]
        block = np.ix_(range(n_problems), parameters, parameters)
        fisher[block] += square
        hessian[block] += square - np.array(second).transpose(2, 0, 1)
    return value, gradient, fisher, hessian
