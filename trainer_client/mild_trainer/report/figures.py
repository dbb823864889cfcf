"""Figures of a training as SVG for light and dark pages, and the histogram of one selection as a file."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mild_client import RoundFit
from mild_core.inspect.histograms import DataMap

# Every colour has a contrast of at least 3 to 1 on white and on near-black.
CLEAN, NOISY, INK, BARS = "#2a9d8f", "#e76f51", "#8b929c", "#7c8798"


def draw_histogram(fit: RoundFit, summary: Mapping[str, Any], round: int) -> Markup:
    """Return a round's histogram of scores, with the fitted components and the threshold, as an ``<svg>`` element.

    Parameters
    ----------
    fit
        The histogram and its components.
    summary
        The round's selection as JSON values, as in the HTTP API.
    round
        Number of the round, for the title.
    """
    return render_svg(
        _create_histogram(fit, summary), f"Histogram of scores in round {round} with the fitted components and the cut"
    )


def save_histogram(fit: RoundFit, summary: Mapping[str, Any], path: Path) -> None:
    """Write a histogram of scores, with the fitted components and the threshold, to a file.

    Parameters
    ----------
    fit
        The histogram and its components.
    summary
        The selection as JSON values, as in the HTTP API.
    path
        The file, whose suffix determines the format.
    """
    _create_histogram(fit, summary).savefig(path, dpi=150, facecolor="white")


def _create_histogram(fit: RoundFit, summary: Mapping[str, Any]) -> Figure:
    """Create the figure of a histogram of scores, its components and the threshold."""
    figure, axes = create_axes(6.4, 2.9)
    x = fit.origin + fit.width * np.arange(len(fit.counts))
    axes.bar(x, fit.counts, width=0.9 * fit.width, color=BARS, alpha=0.55, label="samples")
    for density, colour, name in zip(fit.densities, (CLEAN, NOISY), ("clean", "noisy"), strict=False):
        axes.plot(x, density, color=colour, linewidth=2, label=f"{name} component")
    cut = summary["threshold"]["value"]
    if cut is not None:
        axes.axvline(cut + fit.width / 2, color=INK, linestyle="--", linewidth=1.5, label="cut")
    # A high peak of a component does not flatten the bars.
    axes.set_ylim(0, 1.15 * max(1.0, *fit.counts))
    axes.set_xlabel(f"{summary['metric']} (low is clean)")
    axes.set_ylabel("samples")
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return figure


_MAX_DOT_AREA = 120.0
"""Area of the largest dot of a data map, in points squared."""


def draw_data_map(data_map: DataMap, changes_label: str) -> Markup:
    """Return the data map as an ``<svg>`` element, with the kept and the dropped samples side by side.

    Every cell with samples is a dot, which is larger for more samples.

    Parameters
    ----------
    data_map
        Counts of samples by misclassified epochs and by changes.
    changes_label
        Label of the y axis.
    """
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    parts = ((data_map.n_kept, CLEAN, "kept"), (data_map.n_dropped, NOISY, "dropped"))
    max_count = max(int(counts.max(initial=1)) for counts, _, _ in parts)
    axes_of_parts = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (counts, colour, name) in zip(axes_of_parts, parts, strict=True):
        style_axes(axes)
        rows, columns = np.nonzero(counts)
        x, y = (
            axis.low + axis.width * positions + (axis.width - 1) / 2
            for axis, positions in ((data_map.x, columns), (data_map.y, rows))
        )
        sizes = 4 + _MAX_DOT_AREA * np.log1p(counts[rows, columns]) / np.log1p(max_count)
        axes.scatter(x, y, s=sizes, color=colour, alpha=0.7, linewidths=0)
        axes.set_title(f"{int(counts.sum()):,} {name}", color=INK, fontsize=10)
        axes.set_xlabel("misclassified epochs")
    axes_of_parts[0].set_ylabel(changes_label, fontsize=8)
    return render_svg(figure, "Data map of the samples kept and dropped")


def draw_training_curves(rounds: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the training loss and the accuracies over all epochs, as an ``<svg>`` element.

    Parameters
    ----------
    rounds
        The rounds of a ``summary.json``.
    """
    epochs = [epoch for record in rounds for epoch in record["epochs"]]
    x = np.arange(1, len(epochs) + 1)
    figure, axes = create_axes(9.6, 3.0)
    losses = axes.twinx()
    style_axes(losses)
    for part, name, colour, width, style in (
        (axes, "train_accuracy", NOISY, 1.5, "-"),
        (axes, "test_accuracy", CLEAN, 2, "-"),
        (axes, "validation_accuracy", BARS, 1.5, "-"),
        (losses, "train_loss", INK, 1.2, ":"),
    ):
        # A summary leaves a metric out where it was not finite.
        values = [epoch.get(name, math.nan) for epoch in epochs]
        if name.startswith("train") or not all(value is None or math.isnan(value) for value in values):
            label = name.replace("train_", "training_").replace("_", " ")
            part.plot(x, values, color=colour, linewidth=width, linestyle=style, label=label)
    axes.set_ylim(0, 1.02)
    losses.set_ylim(bottom=0)
    losses.set_ylabel("loss")
    handles = [*axes.get_lines(), *losses.get_lines()]
    for border in np.cumsum([len(record["epochs"]) for record in rounds])[:-1]:
        axes.axvline(border + 0.5, color=INK, linewidth=0.8, alpha=0.5)
    axes.set_xlabel("epoch, over all rounds")
    axes.set_ylabel("accuracy")
    axes.legend(handles=handles, frameon=False, labelcolor=INK, fontsize=8, loc="lower right")
    return render_svg(figure, "Training loss and every accuracy (training, test, validation) over all epochs")


def create_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Create a figure of `width` by `height` inches and its axes, readable on light and dark pages."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Set colours of the axes that are readable on light and dark pages."""
    axes.set_facecolor("none")
    axes.spines[["top"]].set_visible(False)
    axes.spines[:].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def render_svg(figure: Figure, title: str) -> Markup:
    """Return the figure as an ``<svg>`` element; equal figures with equal titles give equal text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
