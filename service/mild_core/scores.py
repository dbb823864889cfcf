"""Per-sample scores (low is clean) and their bins.

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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.dynamics import LateDynamics, count_dynamics, count_epochs_to_learn, count_late_dynamics
from mild_core.mixture.weibull import Floats
from mild_core.types import Metric, RoundBits

MAX_BINS = 512
"""Largest number of bins of a histogram: more would cost time and memory without improving a fit."""
EPSILON = 1e-6
"""Tolerance, in bins, for the rounding error of scores that are sums of fractions."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The bins of a histogram of scores.

    Attributes
    ----------
    origin, width, n_bins
        Bin ``j`` of ``0..n_bins-1`` holds the scores in ``(origin + width * (j - 1), origin + width * j]``.
    """

    origin: float
    width: float
    n_bins: int

    @classmethod
    def for_metric(cls, metric: Metric, n_epochs: int) -> Self:
        """Choose the bins of a metric from the number of epochs alone.

        Adjacent values share a bin where there would be more than `MAX_BINS` bins.
        """
        lowest = -float(n_epochs) if metric in ("mild-simple", "mild") else 0.0
        step = 2.0 if metric == "mild-simple" else 1.0
        n_values = (2 if metric == "mild" else 1) * n_epochs + 1
        values_per_bin = -(-n_values // MAX_BINS)
        return cls(lowest + step * (values_per_bin - 1), step * values_per_bin, -(-n_values // values_per_bin))

    def assign_bins(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the bin of every score, shape of `values`; scores outside the grid are in its first or last bin."""
        position: Floats = np.subtract(values, self.origin, dtype=np.float64)
        position /= self.width  # in place from here on: allocation costs more than the arithmetic
        position -= EPSILON
        np.ceil(position, out=position)
        np.clip(position, 0, self.n_bins - 1, out=position)
        bins: NDArray[np.int64] = position.astype(np.int64)
        return bins

    def find_cut(self, value: float) -> int:
        """Return the last bin that holds no score above `value`; -1 if the first bin does."""
        position = np.floor((value - self.origin) / self.width + EPSILON)
        return int(np.clip(position, -1, self.n_bins - 1))

    def get_limit(self, value: float) -> float:
        """Return the largest computed score that counts as `value`: sums of fractions may have been rounded up."""
        return value + self.width * EPSILON

    def get_cut_value(self, cut: int) -> float:
        """Return the largest score that the bin `cut` can hold."""
        return self.origin + self.width * cut


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all samples, and the grid of bins for a fit.

    Attributes
    ----------
    values
        Shape (n_samples,), low is clean; NaN where a sample was never observed.
    grid
        The bins.
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
    grid: Grid
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
        return self.grid.assign_bins(self.values[self.scored])

    @property
    def planted_bins(self) -> NDArray[np.int64]:
        """Bin of every sufficiently observed planted sample, shape (n_planted,)."""
        observed = self.sufficiently_observed
        planted = np.zeros_like(observed) if self.planted is None else observed & self.planted
        return self.grid.assign_bins(self.values[planted])


def score_samples(
    rounds: Sequence[RoundBits], metric: Metric, dynamics: Sequence[LateDynamics] | None = None
) -> Scores:
    """Compute the score of every sample over `rounds`, and the bins of the scores.

    Parameters
    ----------
    rounds
        One or more rounds of the same samples, oldest first.
    metric
        One of the four metrics that the docstring of this module defines.
    dynamics
        `count_late_dynamics` of every round, where the caller has them.
    """
    n_samples = rounds[0].n_samples
    always_planted = find_always_planted(rounds)
    values, coverage = (np.zeros(n_samples) for _ in range(2))
    observed, expected = (np.zeros(n_samples, dtype=np.int32) for _ in range(2))
    n_observed_rounds = np.zeros(n_samples, dtype=np.uint16)
    for position, round_bits in enumerate(rounds):
        bits, excluded = exclude_planted(round_bits, always_planted)
        # Scaling by 1 / observed extrapolates from the observed epochs to the others. A sample that was not observed at
        # all has the value 0.
        if metric == "mild-simple":
            late = count_late_dynamics(bits) if dynamics is None or excluded is not None else dynamics[position]
            n_observed, rate = late.observed, late.misclassified.astype(np.float64) - late.memorised
        else:
            n_observed, rate = _compute_metric(metric, bits)
        rate /= np.maximum(n_observed, 1)
        values += rate
        n_observed_rounds += n_observed > 0
        observed += n_observed
        expected += _count_expected_epochs(bits)
        coverage += n_observed / max(bits.n_epochs, 1)
        if excluded is not None:
            expected[excluded] -= np.int32(bits.n_epochs)
    n_epochs = sum(bits.n_epochs for bits in rounds)
    coverage /= max(sum(bits.n_epochs > 0 for bits in rounds), 1)
    values *= n_epochs
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: the sample was never observed
        values /= n_observed_rounds
    planted = None if always_planted is None else bitmap.unpack(always_planted, n_samples)
    grid = Grid.for_metric(metric, n_epochs)
    return Scores(values, grid, observed, expected, coverage, n_epochs, planted)


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


def _compute_metric(metric: Metric, bits: RoundBits) -> tuple[NDArray[np.uint16], Floats]:
    """Compute the observed epochs and the metric of one round, shape (n_samples,) each; not for ``mild-simple``."""
    counts = count_dynamics(bits)
    if metric == "mild":
        memorisation = counts.misclassified / np.maximum(counts.misclassified_segments, 1)
        return counts.observed, memorisation - counts.memorised / np.maximum(counts.memorised_segments, 1)
    if metric == "forgetting":
        values: NDArray[np.integer] = np.where(counts.memorised == 0, counts.observed, counts.forgotten)
    else:
        values = count_epochs_to_learn(bits)
    return counts.observed, values.astype(np.float64)
