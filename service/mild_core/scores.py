"""Per-sample scores (low is clean), their bins, and the likelihood of scores of partly observed samples.

With ``z`` misclassified epochs in ``sz`` segments and ``m`` memorised epochs in ``sm`` segments (arXiv 2306.11560):

- ``mild``: ``z / max(sz, 1) - m / max(sm, 1)``, memorisation difficulty minus forgetting difficulty, in -E..E;
- ``mild-simple``: ``z - m``, in -E..E in steps of two: the simplified metric, which the published code computes;
- ``forgetting``: transitions from memorised to misclassified, in 0..E/2; E for a sample that was never memorised, which
  counts as forgotten without end (Toneva et al. 2019, section 3);
- ``first-learned``: misclassified epochs before the first memorised one, in 0..E.

Over several rounds of ``E_1, E_2, …`` epochs the score is ``sum(E) * mean(v_r / E_r)`` over the rounds in which the
sample was observed: the plain sum where all rounds are equally long, and equal weight for every round where they are
not. The counts of a round are scaled to its length where epochs were not observed; segments do not cross rounds.

A round in which a sample was planted (its label was broken on purpose) does not count for that sample. A sample that
was planted in all of its rounds is marked as `planted`: its score describes the broken label.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.dynamics import Dynamics, count_dynamics, count_epochs_to_learn
from mild_core.mixture.weibull import Floats
from mild_core.types import Metric, RoundBits

MAX_BINS = 512
"""Largest number of bins of a histogram: more would cost time and memory without improving a fit."""
EPSILON = 1e-6
"""Tolerance, in bins, for the rounding error of scores that are sums of fractions."""
_MAX_LEVELS = 16
"""Largest number of distinct observed-epoch counts; more are rounded to the nearest of that many levels."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all samples, and the grid of bins for a fit.

    Attributes
    ----------
    values
        Shape (n_samples,), low is clean; NaN where a sample was never observed.
    origin, width, n_bins
        Bin ``j`` of ``0..n_bins-1`` holds the scores in ``(origin + width * (j - 1), origin + width * j]``.
    observed
        Shape (n_samples,), number of epochs of all rounds in which the sample was observed.
    expected
        Shape (n_samples,), number of epochs of all rounds in which the sample should have been observed.
    coverage
        Shape (n_samples,), share of the epochs in which the sample was observed, with equal weight for every round.
    n_epochs
        Epochs of all rounds together.
    planted
        Shape (n_samples,), samples that were planted in every round in which they were observed; None if no round has
        planted samples.
    """

    values: Floats
    origin: float
    width: float
    n_bins: int
    observed: NDArray[np.int32]
    expected: NDArray[np.int32]
    coverage: Floats
    n_epochs: int
    planted: NDArray[np.bool_] | None = None

    @cached_property
    def sufficiently_observed(self) -> NDArray[np.bool_]:
        """Samples observed in at least half of their expected epochs, shape (n_samples,)."""
        return (self.observed > 0) & (2 * self.observed >= self.expected)

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """Sufficiently observed samples whose score describes their own label, shape (n_samples,)."""
        return self.sufficiently_observed if self.planted is None else self.sufficiently_observed & ~self.planted

    @property
    def unobserved(self) -> NDArray[np.bool_]:
        """Samples observed in less than half of their expected epochs, shape (n_samples,)."""
        return (self.expected > 0) & (2 * self.observed < self.expected)

    @cached_property
    def bins(self) -> NDArray[np.int64]:
        """Bin of every scored sample, shape (n_scored,)."""
        return assign_bins(self.values[self.scored], self.origin, self.width, self.n_bins)

    @property
    def planted_bins(self) -> NDArray[np.int64]:
        """Bin of every sufficiently observed planted sample, shape (n_planted,)."""
        observed = self.sufficiently_observed
        planted = np.zeros_like(observed) if self.planted is None else observed & self.planted
        return assign_bins(self.values[planted], self.origin, self.width, self.n_bins)

    def find_cut(self, value: float) -> int:
        """Return the last bin that holds no score above `value`; -1 if the first bin does."""
        position = np.floor((value - self.origin) / self.width + EPSILON)
        return int(np.clip(position, -1, self.n_bins - 1))

    def get_cut_value(self, cut: int) -> float:
        """Return the largest score that the bin `cut` can hold."""
        return self.origin + self.width * cut


def score_samples(rounds: Sequence[RoundBits], metric: Metric) -> Scores:
    """Compute the score of every sample over `rounds`, and the bins of the scores.

    Parameters
    ----------
    rounds
        One or more rounds of the same samples, oldest first.
    metric
        One of the four metrics that the docstring of this module defines.
    """
    n_samples = rounds[0].n_samples
    always_planted = find_always_planted(rounds)
    values, coverage = (np.zeros(n_samples) for _ in range(2))
    observed, expected = (np.zeros(n_samples, dtype=np.int32) for _ in range(2))
    n_observed_rounds = np.zeros(n_samples, dtype=np.uint16)
    for round_bits in rounds:
        bits, excluded = exclude_planted(round_bits, always_planted)
        counts = count_dynamics(bits)
        # Scaling by 1 / observed extrapolates from the observed epochs to the others. A sample that was not observed at
        # all has the value 0.
        rate = _METRICS[metric](counts, bits)
        rate /= np.maximum(counts.observed, 1)
        values += rate
        n_observed_rounds += counts.observed > 0
        observed += counts.observed
        expected += _count_expected_epochs(bits)
        if excluded is not None:
            expected[excluded] -= np.int32(bits.n_epochs)
        coverage += counts.observed / max(bits.n_epochs, 1)
    n_epochs = sum(bits.n_epochs for bits in rounds)
    coverage /= max(sum(bits.n_epochs > 0 for bits in rounds), 1)
    values *= n_epochs
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: the sample was never observed
        values /= n_observed_rounds
    origin, width, n_bins = _choose_grid(metric, n_epochs)
    planted = None if always_planted is None else bitmap.unpack(always_planted, n_samples)
    return Scores(values, origin, width, n_bins, observed, expected, coverage, n_epochs, planted)


def assign_bins(values: NDArray[np.floating], origin: float, width: float, n_bins: int) -> NDArray[np.int64]:
    """Return the bin of every score, shape of `values`; `Scores` describes the bins."""
    position: Floats = np.subtract(values, origin, dtype=np.float64)
    position /= width  # in place from here on: allocation costs more than the arithmetic
    position -= EPSILON
    np.ceil(position, out=position)
    np.clip(position, 0, n_bins - 1, out=position)
    bins: NDArray[np.int64] = position.astype(np.int64)
    return bins


def find_always_planted(rounds: Sequence[RoundBits]) -> Bitmap | None:
    """Find the samples that were planted in every round in which they were observed.

    Returns
    -------
    Bitmap | None
        Shape (n_bytes,); None if no round has planted samples.
    """
    planted_by_round = [bits.planted for bits in rounds if bits.planted is not None]
    if not planted_by_round:
        return None
    observed_unplanted = np.zeros(bitmap.n_bytes(rounds[0].n_samples), dtype=np.uint8)
    for bits in rounds:
        observed = bitmap.full(bits.n_samples) if bits.observed is None else np.bitwise_or.reduce(bits.observed, axis=0)
        observed_unplanted |= observed if bits.planted is None else observed & ~bits.planted
    planted: Bitmap = np.bitwise_or.reduce(planted_by_round, axis=0)
    return planted & ~observed_unplanted


def exclude_planted(bits: RoundBits, always_planted: Bitmap | None) -> tuple[RoundBits, NDArray[np.bool_] | None]:
    """Mark the planted samples of a round as unobserved, except those that were planted in all of their rounds.

    Parameters
    ----------
    bits
        The round.
    always_planted
        Shape (n_bytes,), the samples that remain observed: `find_always_planted` of all rounds.

    Returns
    -------
    bits
        The round without its planted samples.
    excluded
        Shape (n_samples,), the samples that are excluded although they should have been observed; None if no sample is
        excluded.
    """
    if bits.planted is None or always_planted is None:
        return bits, None
    excluded = bits.planted & ~always_planted
    if not excluded.any():
        return bits, None
    all_samples = np.broadcast_to(bitmap.full(bits.n_samples), bits.correct.shape)
    observed = (all_samples if bits.observed is None else bits.observed) & ~excluded
    remaining = replace(bits, correct=bits.correct & ~excluded, observed=observed)
    expected = _get_expected_samples(bits)
    return remaining, bitmap.unpack(excluded if expected is None else excluded & expected, bits.n_samples)


def _get_expected_samples(bits: RoundBits) -> Bitmap | None:
    """Return the samples that should be observed in a round, shape (n_bytes,); None stands for all samples."""
    return None if bits.expects == "all" else bits.members


def _count_expected_epochs(bits: RoundBits) -> NDArray[np.int32] | int:
    """Count the epochs in which a sample should be observed, shape (n_samples,), or one number for all samples."""
    expected = _get_expected_samples(bits)
    return bits.n_epochs if expected is None else bitmap.unpack(expected, bits.n_samples) * np.int32(bits.n_epochs)


def _choose_grid(metric: Metric, n_epochs: int) -> tuple[float, float, int]:
    """Choose origin, width and number of the bins of a metric, from the number of epochs alone.

    Adjacent values share a bin where there would be more than `MAX_BINS` bins.
    """
    lowest = -float(n_epochs) if metric in ("mild-simple", "mild") else 0.0
    step = 2.0 if metric == "mild-simple" else 1.0
    n_values = (2 if metric == "mild" else 1) * n_epochs + 1
    values_per_bin = -(-n_values // MAX_BINS)
    return lowest + step * (values_per_bin - 1), step * values_per_bin, -(-n_values // values_per_bin)


def _compute_mild(counts: Dynamics, _: RoundBits) -> Floats:
    """Compute the metric ``mild`` of one round, shape (n_samples,)."""
    memorisation = counts.misclassified / np.maximum(counts.misclassified_segments, 1)
    forgetting = counts.memorised / np.maximum(counts.memorised_segments, 1)
    return memorisation - forgetting


def _compute_mild_simple(counts: Dynamics, _: RoundBits) -> Floats:
    """Compute the metric ``mild-simple`` of one round, shape (n_samples,)."""
    return counts.misclassified.astype(np.float64) - counts.memorised


def _compute_forgetting(counts: Dynamics, _: RoundBits) -> Floats:
    """Compute the metric ``forgetting`` of one round, shape (n_samples,)."""
    return np.where(counts.memorised == 0, counts.observed, counts.forgotten).astype(np.float64)


def _compute_first_learned(_: Dynamics, bits: RoundBits) -> Floats:
    """Compute the metric ``first-learned`` of one round, shape (n_samples,)."""
    return count_epochs_to_learn(bits).astype(np.float64)


_METRICS: dict[Metric, Callable[[Dynamics, RoundBits], Floats]] = {
    "mild": _compute_mild,
    "mild-simple": _compute_mild_simple,
    "forgetting": _compute_forgetting,
    "first-learned": _compute_first_learned,
}


@dataclass(frozen=True, slots=True, eq=False)
class PartialObservation:
    """Scored samples grouped into cells, where some samples were not observed in every epoch.

    A cell ``(k, y)`` holds the samples that were observed in ``k`` epochs and misclassified in ``y`` of these.

    Attributes
    ----------
    counts
        Shape (n_cells,), number of scored samples in every cell.
    likelihood
        Shape (n_cells, n_bins), ``P(cell | z)``: probability of every cell if all epochs together put the sample into
        bin ``z``.
    cell_indices
        Shape (n_scored,), cell of every scored sample.

    Notes
    -----
    A sample observed in ``k`` of ``E`` epochs, ``y`` of them misclassified, is a draw without replacement from its
    ``z`` misclassified epochs: ``P(y | z, k) = Hypergeometric(y; E, z, k)``. Its likelihood under a component is the
    sum over ``z``, and its posterior depends on ``(y, k)``, so that few observations change the posterior little.
    """

    counts: Floats
    likelihood: Floats
    cell_indices: NDArray[np.intp]

    @classmethod
    def from_scores(cls, scores: Scores) -> Self | None:
        """Group the scored samples into cells; return None if all of them were observed in every epoch."""
        coverage = scores.coverage[scores.scored]
        if (coverage > 1 - EPSILON).all():
            return None
        # On the scale of the grid, one epoch per bin: plain counts would be on another scale where a bin holds several
        # epochs, and where rounds of different lengths have equal weight.
        top = scores.n_bins - 1
        rate = (scores.values[scores.scored] / scores.n_epochs + 1) / 2
        k = _round_to_levels(np.maximum(np.rint(coverage * top), 1).astype(np.int64))
        y = np.rint(rate * k).astype(np.int64)
        cells, cell_indices = np.unique(k * (top + 1) + y, return_inverse=True)
        k, y = np.divmod(cells, top + 1)
        likelihood = compute_hypergeometric_pmf(y[:, None], top, np.arange(top + 1)[None, :], k[:, None])
        return cls(np.bincount(cell_indices).astype(np.float64), likelihood, cell_indices)


def compute_hypergeometric_pmf(
    y: NDArray[np.int64], n_epochs: int, z: NDArray[np.int64], k: NDArray[np.int64]
) -> Floats:
    """Compute the hypergeometric probability ``P(y | z, k)``, with the broadcast shape of `y`, `z` and `k`.

    Parameters
    ----------
    y
        Number of misclassified epochs among the observed ones.
    n_epochs
        Number of all epochs.
    z
        Number of misclassified epochs among all epochs.
    k
        Number of observed epochs.
    """
    is_possible = (y <= z) & (k - y <= n_epochs - z)
    y, z = np.where(is_possible, y, 0), np.where(is_possible, z, 0)
    k = np.broadcast_to(k, y.shape)
    log_p = (
        _compute_log_binomial(z, y)
        + _compute_log_binomial(n_epochs - z, np.where(is_possible, k - y, 0))
        - _compute_log_binomial(n_epochs, k)
    )
    return np.where(is_possible, np.exp(log_p), 0.0)


def _compute_log_binomial(n: NDArray[np.int64] | int, r: NDArray[np.int64]) -> Floats:
    """Compute the logarithm of the binomial coefficient "n over r"."""
    return np.asarray(gammaln(np.asarray(n) + 1) - gammaln(r + 1) - gammaln(n - r + 1))


def _round_to_levels(k: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round numbers of observed epochs to at most `_MAX_LEVELS` distinct numbers."""
    levels = np.unique(k)
    if levels.size <= _MAX_LEVELS:
        return k
    grid = np.unique(np.linspace(levels[0], levels[-1], _MAX_LEVELS).round().astype(np.int64))
    return grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, k)]
