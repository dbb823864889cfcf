"""Samples grouped by score: what is alike for all samples of a group is computed once.

By the metric ``mild-simple``, the score of one round is a function of two counts, the observed and the misclassified
epochs. The scores of all pairs are computed once, so that a sample costs two counters and one count of its group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.dynamics import MAX_EPOCHS, LateDynamics
from mild_core.mixture.weibull import Floats
from mild_core.partial_observation import encode_cells, round_to_levels
from mild_core.scores import EPSILON, MAX_BINS, Grid, Scores, score_samples
from mild_core.types import Metric, RoundBits


@dataclass(frozen=True, slots=True, eq=False)
class ScoreGroups:
    """Groups of samples with the same bin and cell.

    Attributes
    ----------
    bins
        Shape (n_groups,), bin of the samples of each group.
    cells
        Shape (n_groups,), their encoded cell (`partial_observation`); None where the cells are the bins, as by every
        metric but ``mild-simple``.
    complete
        Shape (n_groups,), whether they were observed in every epoch.
    values
        Shape (n_groups,), their score; None where the samples of a group may have several scores.
    """

    bins: NDArray[np.uint16]
    cells: NDArray[np.int64] | None
    complete: NDArray[np.bool_]
    values: Floats | None


@dataclass(frozen=True, slots=True, eq=False)
class GroupedScores:
    """Scores of some samples, by group.

    Attributes
    ----------
    groups
        The groups.
    indices
        Shape (n_scored,), group of every scored sample.
    scored
        Shape (n_samples,), the scored samples; None for all.
    n_unobserved, n_planted
        Number of samples that were observed in less than half of their epochs, and of those that were planted in every
        round that observed them.
    planted_bins
        Shape (n,), bin of each of the latter that was observed often enough.
    scores
        The scores of the samples where `ScoreGroups.values` is None.
    """

    groups: ScoreGroups
    indices: NDArray[np.integer]
    scored: NDArray[np.bool_] | None
    n_unobserved: int
    n_planted: int
    planted_bins: NDArray[np.integer]
    scores: Scores | None

    def take_scored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values of the scored samples, shape (n_scored,), of values of all samples."""
        return values if self.scored is None else values[self.scored]

    def get_values(self) -> Floats:
        """Return the score of every scored sample, shape (n_scored,), where `ScoreGroups.values` is None."""
        assert self.scores is not None, "groups without values have scores"
        values: Floats = self.scores.values[self.scores.scored]
        return values

    def find_hard(self) -> NDArray[np.bool_]:
        """Find the scored samples that were misclassified in most epochs, shape (n_scored,); by ``mild-simple``."""
        if self.groups.values is None:
            return self.get_values() > EPSILON
        hard: NDArray[np.bool_] = (self.groups.values > EPSILON)[self.indices]
        return hard


def group_scores(
    rounds: Sequence[RoundBits],
    metric: Metric,
    dynamics: Sequence[LateDynamics],
    levels: NDArray[np.int64] | None = None,
) -> GroupedScores:
    """Score samples, and group them by their scores.

    Parameters
    ----------
    rounds
        The rounds that count, oldest first.
    metric
        The metric.
    dynamics
        `count_late_dynamics` of every round.
    levels
        As in `group_samples`.
    """
    n_epochs = sum(bits.n_epochs for bits in rounds)
    if metric == "mild-simple":
        if n_epochs <= MAX_EPOCHS and _is_like_one_complete_round(rounds):
            misclassified = dynamics[0].misclassified
            for counts in dynamics[1:]:
                misclassified = misclassified + counts.misclassified
            groups = _tabulate_groups(n_epochs, complete=True)
            return GroupedScores(groups, misclassified, None, 0, 0, misclassified[:0], None)
        if len(rounds) == 1 and 0 < n_epochs < MAX_BINS:
            return _group_round(rounds[0], dynamics[0])
    return group_samples(score_samples(rounds, metric, dynamics), metric, levels)


def _is_like_one_complete_round(rounds: Sequence[RoundBits]) -> bool:
    """Whether all rounds are equally long and observed all samples with their own label, so that their counts add."""
    return rounds[0].n_epochs > 0 and all(
        bits.n_epochs == rounds[0].n_epochs and bits.observed is None and bits.planted is None for bits in rounds
    )


def _group_round(bits: RoundBits, counts: LateDynamics) -> GroupedScores:
    """Group the samples of one round by their observed and their misclassified epochs."""
    n_samples, n_epochs = bits.n_samples, bits.n_epochs
    indices = counts.observed.astype(np.int32)
    indices *= n_epochs + 1
    indices += counts.misclassified
    is_frequent = 2 * counts.observed.astype(np.int32) >= n_epochs
    if bits.expects == "members" and bits.members is not None:
        is_expected = bitmap.unpack(bits.members, n_samples)
        n_unobserved = int((is_expected & ~is_frequent).sum())
        is_observed = (counts.observed > 0) & (is_frequent | ~is_expected)
    else:
        n_unobserved, is_observed = int((~is_frequent).sum()), is_frequent
    groups = _tabulate_groups(n_epochs, complete=False)
    scored, n_planted, planted_bins = is_observed, 0, groups.bins[:0]
    if bits.planted is not None:
        planted = bitmap.unpack(bits.planted, n_samples)
        scored, n_planted = is_observed & ~planted, int(planted.sum())
        planted_bins = groups.bins[indices[is_observed & planted]]
    return GroupedScores(groups, indices[scored], scored, n_unobserved, n_planted, planted_bins, None)


@lru_cache(maxsize=16)
def _tabulate_groups(n_epochs: int, *, complete: bool) -> ScoreGroups:
    """Tabulate the groups of one round: group ``observed * (n_epochs + 1) + misclassified``.

    With `complete`, all samples were observed in every epoch, and their group is ``misclassified``.
    """
    if complete:
        observed, misclassified = np.full(n_epochs + 1, n_epochs), np.arange(n_epochs + 1)
    else:
        observed, misclassified = (axis.ravel() for axis in np.indices((n_epochs + 1, n_epochs + 1)))
        observed = np.maximum(observed, 1)
    grid = Grid.for_metric("mild-simple", n_epochs)
    # In the order of `score_samples`, so that rounding is the same. Groups that cannot occur have any value.
    values = (2.0 * misclassified - observed) / observed * n_epochs
    k = np.rint(observed / n_epochs * (grid.n_bins - 1)).astype(np.int64)
    return ScoreGroups(
        bins=grid.assign_bins(values).astype(np.uint16),
        cells=_encode_cells(values, k, n_epochs, grid.n_bins),
        complete=observed == n_epochs,
        values=values,
    )


def _encode_cells(values: Floats, k: NDArray[np.int64], n_epochs: int, n_bins: int) -> NDArray[np.int64]:
    """Encode the cells of scores by ``mild-simple`` of samples that were observed in `k` epochs of the grid."""
    rate = (values / n_epochs + 1) / 2
    return encode_cells(k, np.rint(rate * k).astype(np.int64), n_bins)


def group_samples(scores: Scores, metric: Metric, levels: NDArray[np.int64] | None = None) -> GroupedScores:
    """Group samples by the bin, and by ``mild-simple`` the cell, of any scores.

    The cells have numbers of observed epochs that are rounded to `levels`, where these are given.
    """
    bins, n_bins = scores.bins, scores.grid.n_bins
    if metric != "mild-simple":
        groups = ScoreGroups(np.arange(n_bins, dtype=np.uint16), None, np.ones(n_bins, dtype=np.bool_), None)
        indices: NDArray[np.integer] = bins
    else:
        coverage = scores.coverage[scores.scored]
        k = round_to_levels(np.maximum(np.rint(coverage * (n_bins - 1)), 1).astype(np.int64), levels)
        cells = _encode_cells(scores.values[scores.scored], k, max(scores.n_epochs, 1), n_bins)
        is_complete = coverage > 1 - EPSILON
        codes, indices = np.unique((cells * n_bins + bins) * 2 + is_complete, return_inverse=True)
        groups = ScoreGroups((codes // 2 % n_bins).astype(np.uint16), codes // (2 * n_bins), codes % 2 == 1, None)
    n_planted = 0 if scores.planted is None else int(scores.planted.sum())
    return GroupedScores(
        groups, indices, scores.scored, int(scores.unobserved.sum()), n_planted, scores.planted_bins, scores
    )
