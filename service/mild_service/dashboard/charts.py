"""Geometry of the SVG charts, in percent of the drawing, so that texts keep their size at every size of a chart."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from mild_core.inspect.histograms import Axis, Counts

_FAINTEST = 0.28
"""Opacity of a cell with a single sample."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis; `at` is its distance from the beginning of the axis in percent."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a grid that has samples.

    Attributes
    ----------
    column, row
        Numbers from the left and from the bottom.
    x, y, width, height
        Position and size, in percent of the drawing from the upper left.
    n_kept, n_dropped
        Numbers of samples.
    strength
        Opacity, by the logarithm of the number of samples.
    """

    column: int
    row: int
    x: float
    y: float
    width: float
    height: float
    n_kept: int
    n_dropped: int
    strength: float

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.n_kept + self.n_dropped

    @property
    def dropped_height(self) -> float:
        """The part of the height for dropped samples."""
        return self.height * self.n_dropped / self.n


def make_cells(n_kept: Counts, n_dropped: Counts) -> list[Cell]:
    """Return the cells of a grid that have samples, row by row from the bottom.

    Parameters
    ----------
    n_kept, n_dropped
        Numbers of samples; shape (n_rows, n_columns).
    """
    counts = n_kept + n_dropped
    n_rows, n_columns = counts.shape
    max_log = math.log1p(int(counts.max(initial=1)))
    width, height = 100 / n_columns, 100 / n_rows
    return [
        Cell(
            column=column,
            row=row,
            x=width * column,
            y=height * (n_rows - 1 - row),
            width=width,
            height=height,
            n_kept=int(n_kept[row, column]),
            n_dropped=int(n_dropped[row, column]),
            strength=_FAINTEST + (1 - _FAINTEST) * math.log1p(int(counts[row, column])) / max_log,
        )
        for row, column in np.argwhere(counts).tolist()
    ]


def make_count_ticks(axis: Axis, n_ticks: int) -> list[Tick]:
    """Return about `n_ticks` labels of an axis of counts, each in the middle of its bin."""
    largest = axis.n_bins * axis.width - 1
    step = _round_up_step(max(largest / n_ticks, 1))
    scale = 100 / (axis.n_bins * axis.width)
    values = range(0, int(largest) + 1, int(step))
    return [Tick((axis.width * (value // axis.width) + axis.width / 2) * scale, f"{value:,}") for value in values]


def make_value_ticks(low: float, high: float, n_ticks: int) -> list[Tick]:
    """Return about `n_ticks` labels of an axis of scores from `low` to `high`."""
    if high <= low:
        return [Tick(50.0, f"{low:g}")]
    step = _round_up_step((high - low) / n_ticks)
    first = math.ceil(low / step)
    last = math.floor(high / step)
    return [Tick(100 * (n * step - low) / (high - low), f"{n * step:g}") for n in range(first, last + 1)]


def _round_up_step(step: float) -> float:
    """Round a step up to 1, 2 or 5 times a power of ten."""
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= step * (1 - 1e-9))


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin of a histogram, in percent of the drawing."""

    x: float
    width: float
    height: float
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Distribution:
    """Layout of a histogram of scores, with the cut and the score of one sample.

    Attributes
    ----------
    bars
        Bins that have samples.
    cut, sample
        Distance of the cut, and of the sample's score, from the left in percent; None if there is none.
    ticks
        Labels of the scores.
    """

    bars: list[Bar]
    cut: float | None
    sample: float | None
    ticks: list[Tick]


def make_distribution(fit: Mapping[str, Any], score: float | None) -> Distribution | None:
    """Lay out the histogram of a selection. Heights are square roots of counts, so that small counts are visible.

    Parameters
    ----------
    fit
        JSON of the fit, with the histogram and the threshold; without a histogram, the result is None.
    score
        Score of the sample to show; None for no sample.
    """
    histogram, last_kept = fit["histogram"], fit["threshold"]["cut"]
    if histogram is None:
        return None
    counts = np.sqrt(np.asarray(histogram["counts"], dtype=np.float64))
    n_bins = counts.size
    high = float(counts.max(initial=0.0)) or 1.0
    low: float = histogram["origin"] - histogram["width"] / 2  # a score is in the middle of its bin
    span: float = histogram["width"] * n_bins
    cut = n_bins if last_kept is None else last_kept + 1

    def position(value: float) -> float:
        return 100 * min(max((value - low) / span, 0.0), 1.0)

    return Distribution(
        bars=[
            Bar(100 * at / n_bins, 100 / n_bins, 100 * float(counts[at]) / high, at < cut)
            for at in np.flatnonzero(counts).tolist()
        ],
        cut=None if last_kept is None else 100 * cut / n_bins,
        sample=None if score is None else position(score),
        ticks=make_value_ticks(low, low + span, 6),
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive equal epochs of a sample's history, in percent of the strip; `kind` is their character."""

    x: float
    width: float
    kind: str


def make_history_segments(history: str, max_single: int = 120) -> list[Segment]:
    """Return a segment per epoch of a sample's history in one round, or per run of equal epochs if there are many.

    Parameters
    ----------
    history
        One character per epoch, as in `SampleHistory`.
    max_single
        Most epochs for which each gets its own segment.
    """
    lengths = [1] * len(history)
    if len(history) > max_single:
        lengths = [len(list(epochs)) for _, epochs in groupby(history)]
    segments, start = [], 0
    for length in lengths:
        segments.append(Segment(100 * start / len(history), 100 * length / len(history), history[start]))
        start += length
    return segments
