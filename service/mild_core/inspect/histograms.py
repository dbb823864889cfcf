"""Histograms of the samples of a selection: data map, counts by class, and comparison of two selections."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import InvalidInput
from mild_core.inspect.sample_table import SampleTable

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Bins of equal width along one axis of a histogram.

    Attributes
    ----------
    low, width, n_bins
        Bin ``j`` of ``0..n_bins-1`` begins at ``low + width * j``; the last one includes its end.
    """

    low: float
    width: float
    n_bins: int

    @classmethod
    def for_counts(cls, largest: int, max_bins: int) -> "Axis":
        """Create an axis with at most `max_bins` bins for the integers ``0..largest``."""
        width = -(-(largest + 1) // max_bins)
        return cls(0.0, float(width), -(-(largest + 1) // width))

    @classmethod
    def for_values(cls, values: NDArray[np.floating], n_bins: int) -> "Axis":
        """Create an axis with `n_bins` bins over the range of `values`; one bin if the range is empty or one point."""
        if not values.size or values.min() == values.max():
            return cls(float(values[0]) if values.size else 0.0, 1.0, 1)
        low, high = float(values.min()), float(values.max())
        return cls(low, (high - low) / n_bins, n_bins)

    def assign_bins(self, values: NDArray[np.number]) -> NDArray[np.int64]:
        """Return the bin of every value, shape of `values`; values outside the axis are put into its end bins."""
        bins: NDArray[np.int64] = np.floor((values - self.low) / self.width).astype(np.int64)
        return np.clip(bins, 0, self.n_bins - 1)

    def get_edge(self, bin_index: int) -> float:
        """Return the lower edge of the bin `bin_index`; `n_bins` gives the end of the axis."""
        return self.low + self.width * bin_index


@dataclass(frozen=True, slots=True, eq=False)
class DataMap:
    """Two-dimensional histogram of the observed samples by misclassified epochs (`x`) and transitions (`y`).

    Attributes
    ----------
    x, y
        The axes.
    n_kept, n_dropped
        Number of kept and of dropped samples in every cell, shape (y.n_bins, x.n_bins) each.
    """

    x: Axis
    y: Axis
    n_kept: Counts
    n_dropped: Counts


@dataclass(frozen=True, slots=True)
class ClassRow:
    """The samples of one class.

    Attributes
    ----------
    label
        The class.
    n_samples, n_kept
        Number of its samples, and of the kept ones among them.
    noise
        Share of wrong labels by the class's own fit, or else the mean noisy posterior of its scored samples; None where
        neither is known.
    is_floored
        Whether a floor keeps samples that the rule would have dropped.
    """

    label: int
    n_samples: int
    n_kept: int
    noise: float | None
    is_floored: bool

    @property
    def share(self) -> float:
        """Share of the kept samples."""
        return self.n_kept / self.n_samples


@dataclass(frozen=True, slots=True)
class Confusion:
    """Number of samples with the given label `label` that were mostly predicted as the class `suggested`."""

    label: int
    suggested: int
    n_samples: int


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Comparison of a second selection with a first one of the same samples.

    Attributes
    ----------
    n_first, n_second, n_both
        Number of samples kept by the first selection, by the second one, and by both.
    jaccard
        Samples kept by both over samples kept by either; 1 if both sets are empty.
    moved_in
        Indices of the samples that only the second selection keeps, by ascending score of the second selection.
    moved_out
        Indices of the samples that only the first selection keeps, by descending score of the second selection.
    x, y
        Axes of the scores of the first and of the second selection.
    scores
        Number of samples in every cell, shape (y.n_bins, x.n_bins), among those with a score in both selections.
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


def build_data_map(table: SampleTable, max_x: int = 40, max_y: int = 20) -> DataMap:
    """Build the data map of a table with at most `max_x` by `max_y` cells."""
    is_observed = table.observed > 0
    columns = (table.misclassified[is_observed], table.transitions[is_observed], table.is_kept[is_observed])
    return count_data_map(*columns, max_x, max_y)


def count_data_map(
    misclassified: NDArray[np.number],
    transitions: NDArray[np.number],
    is_kept: NDArray[np.bool_],
    max_x: int = 40,
    max_y: int = 20,
) -> DataMap:
    """Build the data map of observed samples from their counts, with at most `max_x` by `max_y` cells.

    Parameters
    ----------
    misclassified, transitions
        Number of misclassified epochs and of transitions of every sample, shape (n_samples,) each.
    is_kept
        Whether each sample is kept, shape (n_samples,).
    max_x, max_y
        Largest numbers of bins of the two axes; adjacent counts share a bin where there would be more bins.
    """
    x = Axis.for_counts(int(misclassified.max(initial=0)), max_x)
    y = Axis.for_counts(int(transitions.max(initial=0)), max_y)
    n_kept, n_dropped = (count_cells(x, y, misclassified[mask], transitions[mask]) for mask in (is_kept, ~is_kept))
    return DataMap(x, y, n_kept, n_dropped)


def count_cells(x: Axis, y: Axis, x_values: NDArray[np.number], y_values: NDArray[np.number]) -> Counts:
    """Count the samples in every cell of a two-dimensional histogram, shape (y.n_bins, x.n_bins).

    Parameters
    ----------
    x, y
        The axes.
    x_values, y_values
        Values of every sample along the two axes, shape (n_samples,) each.
    """
    cells = y.assign_bins(y_values) * x.n_bins + x.assign_bins(x_values)
    return np.bincount(cells, minlength=x.n_bins * y.n_bins).reshape(y.n_bins, x.n_bins)


def build_class_table(table: SampleTable, labels: NDArray[np.integer]) -> list[ClassRow]:
    """Count the samples of every class that has some, the noisiest class first.

    Parameters
    ----------
    table
        The samples.
    labels
        Shape (n_samples,), their given labels.
    """
    classes, class_indices = np.unique(labels, return_inverse=True)
    cuts = {cut.label: cut for cut in table.selection.classes}
    has_posterior = table.scored & ~np.isnan(table.noisy_posterior)
    n_samples, n_kept, n_posteriors = (
        np.bincount(class_indices[mask], minlength=classes.size).tolist()
        for mask in (np.ones(labels.size, dtype=np.bool_), table.is_kept, has_posterior)
    )
    sums = np.bincount(class_indices[has_posterior], table.noisy_posterior[has_posterior], minlength=classes.size)
    rows = []
    for position, label in enumerate(classes.tolist()):
        cut, n = cuts.get(label), n_posteriors[position]
        noise = None if cut is None else cut.noise_rate
        if noise is None and n:
            noise = float(sums[position]) / n
        rows.append(ClassRow(label, n_samples[position], n_kept[position], noise, cut is not None and cut.floored))
    return sorted(rows, key=lambda row: (-(row.noise or 0.0), row.share, row.label))


def find_confusions(labels: NDArray[np.integer], suggested: NDArray[np.integer], limit: int) -> list[Confusion]:
    """Find the most frequent pairs of given label and suggested class, the most frequent one first.

    Parameters
    ----------
    labels, suggested
        Given label and suggested class of the samples that have both, shape (n_samples,) each.
    limit
        Largest number of pairs to return.
    """
    pairs, counts = np.unique(np.stack((labels, suggested)), axis=1, return_counts=True)
    most_frequent = np.argsort(-counts, kind="stable")[:limit]
    return [Confusion(int(pairs[0, pair]), int(pairs[1, pair]), int(counts[pair])) for pair in most_frequent]


def compare_selections(first: SampleTable, second: SampleTable, n_bins: int = 30) -> Comparison:
    """Compare two selections sample by sample.

    Parameters
    ----------
    first, second
        Tables of the two selections.
    n_bins
        Number of bins of each axis of scores.
    """
    if first.n_samples != second.n_samples:
        raise InvalidInput(
            f"selections of {first.n_samples} and of {second.n_samples} samples cannot be compared sample by sample; "
            "choose two of the same data set"
        )
    n_union = int((first.is_kept | second.is_kept).sum())
    n_both = int((first.is_kept & second.is_kept).sum())
    has_scores = ~(np.isnan(first.scores) | np.isnan(second.scores))
    scores = [table.scores[has_scores] for table in (first, second)]
    x, y = (Axis.for_values(values, n_bins) for values in scores)
    moved_in, moved_out = (
        np.flatnonzero(second.is_kept & ~first.is_kept),
        np.flatnonzero(first.is_kept & ~second.is_kept),
    )
    return Comparison(
        n_first=int(first.is_kept.sum()),
        n_second=int(second.is_kept.sum()),
        n_both=n_both,
        jaccard=n_both / n_union if n_union else 1.0,
        moved_in=moved_in[np.argsort(second.scores[moved_in], kind="stable")],
        moved_out=moved_out[np.argsort(-second.scores[moved_out], kind="stable")],
        x=x,
        y=y,
        scores=count_cells(x, y, *scores),
    )
