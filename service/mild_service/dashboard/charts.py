"""What is drawn as SVG here: cells, bars, ticks, all in percent of the drawing, so that its texts keep their size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.inspect.histograms import Axis, Counts
from mild_core.results import Histogram, Threshold

_FAINTEST = 0.28
"""Opacity of a cell with a single sample."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A label beside an axis; `at` is in percent from its beginning."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell that has samples.

    Attributes
    ----------
    column, row
        From the left, and from the bottom.
    x, y, width, height
        Percent of the drawing, from the upper left.
    kept, dropped
        Samples.
    strength
        Opacity: the logarithm of how many they are.
    """

    column: int
    row: int
    x: float
    y: float
    width: float
    height: float
    kept: int
    dropped: int
    strength: float

    @property
    def n(self) -> int:
        """Samples of the cell."""
        return self.kept + self.dropped

    @property
    def dropped_height(self) -> float:
        """The part of its height that stands for the dropped ones."""
        return self.height * self.dropped / self.n


def cells(kept: Counts, dropped: Counts) -> list[Cell]:
    """The cells of a grid that have samples, row by row from the bottom; both arrays have shape (n_rows, n_columns)."""
    both = kept + dropped
    n_rows, n_columns = both.shape
    most = math.log1p(int(both.max(initial=1)))
    width, height = 100 / n_columns, 100 / n_rows
    return [
        Cell(
            column=column,
            row=row,
            x=width * column,
            y=height * (n_rows - 1 - row),
            width=width,
            height=height,
            kept=int(kept[row, column]),
            dropped=int(dropped[row, column]),
            strength=_FAINTEST + (1 - _FAINTEST) * math.log1p(int(both[row, column])) / most,
        )
        for row, column in np.argwhere(both).tolist()
    ]


def count_ticks(axis: Axis, wanted: int) -> list[Tick]:
    """Labels of an axis of whole numbers, in the middle of the bins that hold them."""
    most = axis.n_bins * axis.width - 1
    step = _nice(max(most / wanted, 1))
    whole = 100 / (axis.n_bins * axis.width)
    bins = range(0, int(most) + 1, int(step))
    return [Tick((axis.width * (value // axis.width) + axis.width / 2) * whole, f"{value:,}") for value in bins]


def value_ticks(low: float, high: float, wanted: int) -> list[Tick]:
    """Labels of an axis of scores from `low` to `high`."""
    if high <= low:
        return [Tick(50.0, f"{low:g}")]
    step = _nice((high - low) / wanted)
    first = math.ceil(low / step)
    last = math.floor(high / step)
    return [Tick(100 * (n * step - low) / (high - low), f"{n * step:g}") for n in range(first, last + 1)]


def _nice(step: float) -> float:
    """The next of 1, 2, 5, 10, …, or a tenth of those."""
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= step * (1 - 1e-9))


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin of a histogram, in percent of the drawing."""

    x: float
    width: float
    height: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram of scores with the cut and one sample's place in it.

    Attributes
    ----------
    bars
        Bins that have samples.
    cut, sample
        Percent from the left; None where there is none.
    ticks
        Labels of the scores.
    """

    bars: list[Bar]
    cut: float | None
    sample: float | None
    ticks: list[Tick]


def distribution(histogram: Histogram, threshold: Threshold, score: float | None) -> Distribution:
    """Draw the histogram that a selection was read off; heights are square roots, so that few samples can be seen."""
    counts = np.sqrt(np.asarray(histogram.counts, dtype=np.float64))
    n_bins = counts.size
    high = float(counts.max(initial=0.0)) or 1.0
    low = histogram.origin - histogram.width / 2  # a score stands in the middle of its bin
    span = histogram.width * n_bins
    cut = n_bins if threshold.cut is None else threshold.cut + 1

    def place(value: float) -> float:
        return 100 * min(max((value - low) / span, 0.0), 1.0)

    return Distribution(
        bars=[
            Bar(100 * at / n_bins, 100 / n_bins, 100 * float(counts[at]) / high, at < cut)
            for at in np.flatnonzero(counts).tolist()
        ],
        cut=None if threshold.cut is None else 100 * cut / n_bins,
        sample=None if score is None else place(score),
        ticks=value_ticks(low, low + span, 6),
    )


@dataclass(frozen=True, slots=True)
class Stretch:
    """Equal epochs in a row of a sample's history, in percent of the strip; `kind` is a character of the history."""

    x: float
    width: float
    kind: str


def stretches(history: str, single: int = 120) -> list[Stretch]:
    """A sample's history in one round: an epoch by itself, or, of more than `single`, equal ones together."""
    lengths = [1] * len(history) if len(history) <= single else _runs(history)
    out, at = [], 0
    for length in lengths:
        out.append(Stretch(100 * at / len(history), 100 * length / len(history), history[at]))
        at += length
    return out


def _runs(history: str) -> Sequence[int]:
    letters: NDArray[np.uint8] = np.frombuffer(history.encode(), dtype=np.uint8)
    ends = np.concatenate((np.flatnonzero(np.diff(letters)) + 1, [letters.size]))
    lengths: list[int] = np.diff(ends, prepend=0).tolist()
    return lengths
