"""Two-dimensional histograms of samples: the data map, and one selection's scores against another's.

A selection class by class: who is kept, how noisy each given label seems, and what the others were taken for.

Two selections of the same samples: what they share, who moved, and how their scores agree.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import InvalidInput
from mild_core.inspect.sample_table import SampleTable

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One direction of a grid.

    Attributes
    ----------
    low, width, n_bins
        Bin ``j`` of ``0..n_bins-1`` begins at ``low + width * j``; the last one includes its end.
    """

    low: float
    width: float
    n_bins: int

    @classmethod
    def of_counts(cls, most: int, max_bins: int) -> "Axis":
        """Bins of whole numbers ``0..most``, at most `max_bins` of them and all equally wide."""
        width = -(-(most + 1) // max_bins)
        return cls(0.0, float(width), -(-(most + 1) // width))

    @classmethod
    def of_values(cls, values: NDArray[np.floating], n_bins: int) -> "Axis":
        """Bins over the range of `values`; a single one where they are all the same, or none is there."""
        if not values.size or values.min() == values.max():
            return cls(float(values[0]) if values.size else 0.0, 1.0, 1)
        low, high = float(values.min()), float(values.max())
        return cls(low, (high - low) / n_bins, n_bins)

    def bins(self, values: NDArray[np.number]) -> NDArray[np.int64]:
        """Bin of each value, shape of `values`."""
        bins: NDArray[np.int64] = np.floor((values - self.low) / self.width).astype(np.int64)
        return np.clip(bins, 0, self.n_bins - 1)

    def edge(self, number: int) -> float:
        """Where a bin begins."""
        return self.low + self.width * number


@dataclass(frozen=True, slots=True, eq=False)
class DataMap:
    """Samples that were seen, by misclassified epochs (`x`) and transitions (`y`).

    Attributes
    ----------
    x, y
        The axes, of whole numbers.
    kept, dropped
        Samples per cell, shape (y.n_bins, x.n_bins) each.
    """

    x: Axis
    y: Axis
    kept: Counts
    dropped: Counts


def data_map(table: SampleTable, max_x: int = 40, max_y: int = 20) -> DataMap:
    """Count the samples of a table; neighbouring numbers share a cell where there would be more than that many."""
    seen = table.observed > 0
    return counted(table.misclassified[seen], table.transitions[seen], table.kept[seen], max_x, max_y)


def counted(
    misclassified: NDArray[np.number],
    transitions: NDArray[np.number],
    kept: NDArray[np.bool_],
    max_x: int = 40,
    max_y: int = 20,
) -> DataMap:
    """Count samples that were seen by their whole numbers, arrays of shape (n_samples,) each."""
    x = Axis.of_counts(int(misclassified.max(initial=0)), max_x)
    y = Axis.of_counts(int(transitions.max(initial=0)), max_y)
    inside, outside = (grid(x, y, misclassified[side], transitions[side]) for side in (kept, ~kept))
    return DataMap(x, y, inside, outside)


def grid(x: Axis, y: Axis, x_values: NDArray[np.number], y_values: NDArray[np.number]) -> Counts:
    """How many samples each cell has, shape (y.n_bins, x.n_bins)."""
    cells = y.bins(y_values) * x.n_bins + x.bins(x_values)
    return np.bincount(cells, minlength=x.n_bins * y.n_bins).reshape(y.n_bins, x.n_bins)


@dataclass(frozen=True, slots=True, eq=False)
class ClassTable:
    """Samples by their given label, arrays of shape (n_classes,); classes that no sample has are left out.

    Attributes
    ----------
    classes
        The labels, ascending.
    n_samples, n_scored, n_kept
        Samples, those that were judged, and those in the set.
    noise
        Mean probability of being mislabelled of those that were judged; NaN where there is none.
    """

    classes: NDArray[np.int64]
    n_samples: NDArray[np.int64]
    n_scored: NDArray[np.int64]
    n_kept: NDArray[np.int64]
    noise: NDArray[np.float64]


def class_table(table: SampleTable, labels: NDArray[np.integer]) -> ClassTable:
    """Count a table's samples by their given labels, shape (n_samples,)."""
    classes, place = np.unique(labels, return_inverse=True)
    judged = table.scored & ~np.isnan(table.noisy_posterior)
    n_samples, n_scored, n_kept, n_judged = (
        np.bincount(place[mask], minlength=classes.size)
        for mask in (np.ones(labels.size, dtype=np.bool_), table.scored, table.kept, judged)
    )
    sums = np.bincount(place[judged], table.noisy_posterior[judged], minlength=classes.size)
    noise = np.divide(sums, n_judged, out=np.full(classes.size, np.nan), where=n_judged > 0)
    return ClassTable(classes.astype(np.int64), n_samples, n_scored, n_kept, noise)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Samples of one given label that were mostly predicted as another one."""

    given: int
    suggested: int
    n_samples: int


def confusions(given: NDArray[np.integer], suggested: NDArray[np.integer], limit: int) -> list[Confusion]:
    """The most frequent pairs of given and other label, the most frequent first.

    Parameters
    ----------
    given, suggested
        Shape (n,) each, of the samples that have both.
    limit
        Most pairs.
    """
    pairs, counts = np.unique(np.stack((given, suggested)), axis=1, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:limit]
    return [Confusion(int(pairs[0, at]), int(pairs[1, at]), int(counts[at])) for at in first]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A second selection against a first one.

    Attributes
    ----------
    n_first, n_second, n_both
        Samples kept by each, and by both.
    jaccard
        Samples kept by both over those kept by either; 1 where nobody is kept.
    moved_in, moved_out
        Samples that only the second one keeps, cleanest first, and that only the first one keeps, noisiest first, both
        by the second one's scores.
    x, y
        Axes of the first one's and of the second one's scores.
    scores
        Samples per cell that have a score in both, shape (y.n_bins, x.n_bins).
    """

    n_first: int
    n_second: int
    n_both: int
    jaccard: float
    moved_in: NDArray[np.int64]
    moved_out: NDArray[np.int64]
    x: Axis
    y: Axis
    scores: Counts


def compare(first: SampleTable, second: SampleTable, n_bins: int = 30) -> Comparison:
    """Compare two selections sample by sample.

    Raises
    ------
    InvalidInput
        If they are of different numbers of samples.
    """
    if first.n_samples != second.n_samples:
        raise InvalidInput(
            f"selections of {first.n_samples} and of {second.n_samples} samples cannot be compared sample by sample; "
            "choose two of the same data set"
        )
    either = int((first.kept | second.kept).sum())
    both = int((first.kept & second.kept).sum())
    scored = ~(np.isnan(first.scores) | np.isnan(second.scores))
    values = [table.scores[scored] for table in (first, second)]
    x, y = (Axis.of_values(found, n_bins) for found in values)
    moved_in, moved_out = np.flatnonzero(second.kept & ~first.kept), np.flatnonzero(first.kept & ~second.kept)
    return Comparison(
        n_first=int(first.kept.sum()),
        n_second=int(second.kept.sum()),
        n_both=both,
        jaccard=both / either if either else 1.0,
        moved_in=moved_in[np.argsort(second.scores[moved_in], kind="stable")],
        moved_out=moved_out[np.argsort(-second.scores[moved_out], kind="stable")],
        x=x,
        y=y,
        scores=grid(x, y, *values),
    )
