"""Sufficient statistics of a selection: what a fit and its verdict need, as sums over the samples.

A selection reads its samples block by block, adds up the statistics of the blocks, fits once, and cuts the bins of the
samples. Of a sample only its bin is kept.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.bitmap import Bitmap
from mild_core.dynamics import BLOCK_BYTES, count_late_dynamics
from mild_core.errors import ParameterError
from mild_core.forgetting import count_late_memorisation, shorten_round, sum_forgetting, take_first_quarter
from mild_core.learning import LearningCounts, count_learning
from mild_core.mixture.weibull import Floats
from mild_core.score_groups import GroupedScores, group_scores
from mild_core.scores import Grid
from mild_core.sources import SampleBlock, SamplePart, split_bytes
from mild_core.types import RoundBits, SelectionOptions

COLUMNS = ("count", "memorised", "forgotten", "clean", "wrong", "drawn", "wrong_drawn")
"""Columns of a `Table`: scored samples; the two counts of `Forgetting`; samples that an audit marks as clean, and as
mislabelled; samples that were drawn at random, and those of them that are mislabelled."""

MAX_CLASSES = 10_000
"""Most classes of a selection that uses given labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Sums over the samples with the same key; tables add up.

    Attributes
    ----------
    keys
        Shape (n_rows,), distinct, ascending.
    sums
        Shape (n_columns, n_rows).
    """

    keys: NDArray[np.int64]
    sums: Floats

    @classmethod
    def from_rows(cls, keys: NDArray[np.integer], sums: Floats) -> "Table":
        """Add up rows with the same key, shapes (n,) and (n_columns, n)."""
        distinct, rows = np.unique(keys.astype(np.int64), return_inverse=True)
        if distinct.size == keys.size:
            return cls(distinct, sums[:, np.argsort(rows)])
        return cls(distinct, np.stack([np.bincount(rows, column, distinct.size) for column in sums]))

    def __add__(self, other: "Table") -> "Table":
        if np.array_equal(self.keys, other.keys):
            return Table(self.keys, self.sums + other.sums)
        return Table.from_rows(np.concatenate((self.keys, other.keys)), np.concatenate((self.sums, other.sums), axis=1))

    def expand(self, n_rows: int) -> Floats:
        """Return the sums of the keys 0 to ``n_rows - 1``, shape (n_columns, n_rows)."""
        expanded = np.zeros((len(self.sums), n_rows))
        expanded[:, self.keys] = self.sums
        return expanded


@dataclass(frozen=True, slots=True, eq=False)
class ClassTables:
    """Scored samples by given label, with the bin and with the cell of a sample; tables add up.

    Attributes
    ----------
    labels
        Shape (n_classes,), the labels that occur, ascending; at most `MAX_CLASSES`, checked before they are counted.
    by_bin, by_cell
        Number of samples by the key ``label * n_bins + bin``, and ``label * n_bins**2 + cell``.
    """

    labels: NDArray[np.int64]
    by_bin: Table
    by_cell: Table

    def __add__(self, other: "ClassTables") -> "ClassTables":
        labels = _check_classes(np.union1d(self.labels, other.labels))
        return ClassTables(labels, self.by_bin + other.by_bin, self.by_cell + other.by_cell)


def _check_classes(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return distinct labels. Raises `ParameterError` if they are more than `MAX_CLASSES`."""
    if labels.size > MAX_CLASSES:
        raise ParameterError(
            f"the labels have at least {labels.size} classes, at most {MAX_CLASSES} are fitted; leave out per_class "
            "and min_keep_class"
        )
    return labels


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Sums over samples; statistics add up.

    Attributes
    ----------
    by_bin, by_cell
        `COLUMNS` by bin, and by encoded cell (`partial_observation`), of those with samples. The cells are the bins
        by every metric but ``mild-simple``.
    n_partial
        Scored samples that were not observed in every epoch; 0 by every metric but ``mild-simple``, whose cells count
        them.
    lowest
        Lowest score of a scored sample; infinity without one.
    n_unobserved, n_planted
        As `Selection.unobserved` and `Selection.planted`.
    late_memorised, late_observed, n_hard
        `count_late_memorisation` of the samples that were misclassified in most epochs, and the number of these.
    planted_counts
        Shape (2, n_bins), histograms of the others and of the planted samples of the first round that has any, in the
        bins of that round; zeros of shape (2, 1) without such a round.
    learning
        Signs that the network was still learning in the last round.
    classes
        The samples by given label; None where the selection uses no labels.
    """

    by_bin: Table
    by_cell: Table
    n_partial: int
    lowest: float
    n_unobserved: int
    n_planted: int
    late_memorised: int
    late_observed: int
    n_hard: int
    planted_counts: Floats
    learning: LearningCounts
    classes: ClassTables | None

    def __add__(self, other: "Statistics") -> "Statistics":
        sums: dict[str, Any] = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in fields(self)
            if getattr(self, field.name) is not None
        }
        return Statistics(**{"classes": None, **sums, "lowest": min(self.lowest, other.lowest)})


@dataclass(frozen=True, slots=True)
class Query:
    """What a selection asks of its samples; it is sent to the processes that read them.

    Attributes
    ----------
    options
        The options of the selection.
    early
        How often every round is cut to its first quarter.
    planted_round
        Index of the first round with planted samples; None without any.
    levels
        Numbers of observed epochs to which those of a sample are rounded (`partial_observation`); None if they are not.
    """

    options: SelectionOptions
    early: int
    planted_round: int | None
    levels: NDArray[np.int64] | None = None

    def take_rounds(self, rounds: Sequence[RoundBits]) -> tuple[Sequence[RoundBits], Sequence[RoundBits]]:
        """Return the epochs of all rounds that are asked for, and of the rounds that are scored."""
        for _ in range(self.early):
            rounds = take_first_quarter(rounds)
        return rounds, rounds if self.options.evidence == "pooled" else rounds[-1:]

    def shorten(self, lengths: Sequence[int]) -> list[int]:
        """Return how many epochs of all rounds are asked for, of rounds of these lengths."""
        for _ in range(self.early):
            lengths = [shorten_round(n_epochs) for n_epochs in lengths]
        return list(lengths)

    def take_lengths(self, lengths: Sequence[int]) -> list[int]:
        """Return how many epochs of the rounds that are scored are asked for."""
        return self.shorten(lengths if self.options.evidence == "pooled" else lengths[-1:])


def count_part(query: Query, part: SamplePart) -> tuple[Statistics, NDArray[np.unsignedinteger]]:
    """Count the samples of one part of a source.

    Returns
    -------
    statistics
        The sums.
    bins
        Shape (n_samples,), bin of every sample; the largest number of the type for one that is not scored.
    """
    return join_counts(_count_block(block, query) for block in part.read().split())


def join_counts(
    counted: Iterable[tuple[Statistics, NDArray[np.unsignedinteger]]],
) -> tuple[Statistics, NDArray[np.unsignedinteger]]:
    """Add up the statistics of consecutive samples as they come, and join their bins."""
    iterator = iter(counted)
    total, first_bins = next(iterator)
    bins = [first_bins]
    for statistics, next_bins in iterator:
        total += statistics
        bins.append(next_bins)
    return total, np.concatenate(bins)


def _count_block(block: SampleBlock, query: Query) -> tuple[Statistics, NDArray[np.unsignedinteger]]:
    """Count the samples of one block; `count_part` describes the result."""
    metric = query.options.metric
    all_rounds, rounds = query.take_rounds(block.rounds)
    dynamics = [count_late_dynamics(bits) for bits in rounds]
    scores = group_scores(rounds, metric, dynamics, query.levels)
    groups, indices = scores.groups, scores.indices
    n_bins = Grid.for_metric(metric, sum(bits.n_epochs for bits in rounds)).n_bins
    sums = _sum_groups(scores, sum_forgetting(rounds, dynamics), block.audit)
    occupied = np.flatnonzero(sums[0])
    by_bin = Table.from_rows(groups.bins[occupied], sums[:, occupied])
    by_cell = by_bin if groups.cells is None else Table.from_rows(groups.cells[occupied], sums[:, occupied])
    simple = scores if metric == "mild-simple" else group_scores(rounds, "mild-simple", dynamics)
    hard = bitmap.pack(_expand(simple.find_hard(), simple.scored, False, block.n_samples))
    late_memorised, late_observed = count_late_memorisation(rounds, hard)
    statistics = Statistics(
        by_bin=by_bin,
        by_cell=by_cell,
        n_partial=int(sums[0, ~groups.complete].sum()),
        lowest=float(np.min(scores.get_values() if groups.values is None else groups.values[occupied], initial=np.inf)),
        n_unobserved=scores.n_unobserved,
        n_planted=scores.n_planted,
        late_memorised=late_memorised,
        late_observed=late_observed,
        n_hard=bitmap.popcount(hard),
        planted_counts=_count_planted(all_rounds, rounds, scores, query),
        learning=count_learning(rounds[-1], dynamics[-1]),
        classes=None if block.labels is None else _count_classes(scores, block.labels, n_bins),
    )
    dtype = np.min_scalar_type(n_bins)
    bins = _expand(groups.bins.astype(dtype)[indices], scores.scored, np.iinfo(dtype).max, block.n_samples)
    return statistics, bins


def _sum_groups(
    scores: GroupedScores, forgetting: tuple[NDArray[np.integer], NDArray[np.integer]], audit: Audit | None
) -> Floats:
    """Sum the `COLUMNS` of every group, shape (n_columns, n_groups)."""
    n_groups = scores.groups.bins.size
    sums = np.zeros((len(COLUMNS), n_groups))
    sums[0] = np.bincount(scores.indices, minlength=n_groups)
    for column, counts in enumerate(forgetting, start=1):
        sums[column] = np.bincount(scores.indices, scores.take_scored(counts), n_groups)
    if audit is not None:
        checked, clean, drawn = (scores.take_scored(mask) for mask in (*audit.masks, audit.random_mask))
        wrong = checked & ~clean
        for column, mask in enumerate((clean, wrong, drawn, drawn & wrong), start=3):
            sums[column] = np.bincount(scores.indices[mask], minlength=n_groups)
    return sums


def _count_classes(scores: GroupedScores, labels: NDArray[np.integer], n_bins: int) -> ClassTables:
    """Count the scored samples of every given label by bin and by cell."""
    n_groups = scores.groups.bins.size
    joint_groups = scores.take_scored(labels).astype(np.int64) * n_groups + scores.indices
    keys, counts = np.unique(joint_groups, return_counts=True)
    sums = counts[None].astype(np.float64)
    label, group = np.divmod(keys, n_groups)
    distinct = _check_classes(np.unique(label))
    bins = scores.groups.bins[group].astype(np.int64)
    cells = bins if scores.groups.cells is None else scores.groups.cells[group]
    by_bin, by_cell = (Table.from_rows(label * n + key, sums) for n, key in ((n_bins, bins), (n_bins**2, cells)))
    return ClassTables(distinct, by_bin, by_cell)


def _count_planted(
    all_rounds: Sequence[RoundBits], rounds: Sequence[RoundBits], scores: GroupedScores, query: Query
) -> Floats:
    """Count the other and the planted samples of the first round that has any by bin, shape (2, n_bins)."""
    if query.planted_round is None:
        return np.zeros((2, 1))
    # Only the counts of that round are used: in later rounds, planted samples have their own label again.
    planted_round = all_rounds[query.planted_round]
    if len(rounds) != 1 or rounds[0] is not planted_round:
        scores = group_scores([planted_round], query.options.metric, [count_late_dynamics(planted_round)])
    n_bins = Grid.for_metric(query.options.metric, planted_round.n_epochs).n_bins
    return np.stack(
        [
            np.bincount(bins, minlength=n_bins).astype(np.float64)
            for bins in (scores.groups.bins[scores.indices], scores.planted_bins)
        ]
    )


def count_bins(bins: NDArray[np.unsignedinteger], n_bins: int, samples: Bitmap) -> NDArray[np.intp]:
    """Count the scored samples of a bitmap by bin, shape (n_bins,), block by block."""
    counts = np.zeros(n_bins, dtype=np.intp)
    for part in split_bytes(samples.size, BLOCK_BYTES):
        block = bins[part.start * 8 : part.stop * 8]
        counts += np.bincount(block[bitmap.unpack(samples[part], block.size)], minlength=n_bins)[:n_bins]
    return counts


def _expand(values: NDArray[Any], scored: NDArray[np.bool_] | None, fill: int | bool, n_samples: int) -> NDArray[Any]:
    """Expand values of the scored samples to all samples, shape (n_samples,), with `fill` for the others."""
    if scored is None:
        return values
    expanded = np.full(n_samples, fill, dtype=values.dtype)
    expanded[scored] = values
    return expanded
