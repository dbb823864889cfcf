"""Two-dimensional histograms of samples: the data map, and one selection's scores against another's."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.table import SampleTable

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
