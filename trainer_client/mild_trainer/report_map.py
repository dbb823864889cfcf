"""The data map of a report: how often samples were misclassified, and how often that changed."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mild_core.data_map import DataMap
from mild_trainer import figures

_LARGEST = 120.0
"""Area of the largest dot, in points squared."""


def draw(found: DataMap, changes: str) -> str:
    """Draw the map as SVG: a dot for each cell with samples, larger where there are more; kept beside dropped.

    Parameters
    ----------
    found
        The counts.
    changes
        What `found` counts upwards.
    """
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    kept, dropped = figure.subplots(1, 2, sharex=True, sharey=True)
    most = max(int(found.kept.max(initial=0)), int(found.dropped.max(initial=0)), 1)
    for axes, counts, colour, name in (
        (kept, found.kept, figures.CLEAN, "kept"),
        (dropped, found.dropped, figures.NOISY, "dropped"),
    ):
        _dots(axes, found, counts, most, colour)
        axes.set_title(f"{int(counts.sum()):,} {name}", color=figures.INK, fontsize=10)
        axes.set_xlabel("misclassified epochs")
    kept.set_ylabel(changes, fontsize=8)
    return figures.svg(figure, "Data map of the samples kept and dropped")


def _dots(axes: Axes, found: DataMap, counts: NDArray[np.int64], most: int, colour: str) -> None:
    figures.plain(axes)
    rows, columns = np.nonzero(counts)
    x, y = (axis.low + axis.width * at + (axis.width - 1) / 2 for axis, at in ((found.x, columns), (found.y, rows)))
    sizes = 4 + _LARGEST * np.log1p(counts[rows, columns]) / np.log1p(most)
    axes.scatter(x, y, s=sizes, color=colour, alpha=0.7, linewidths=0)
