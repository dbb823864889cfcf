"""Figures of a training as SVG for light and dark pages, and the histogram of one selection as a file."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mild_client import RoundFit

# Every colour has a contrast of at least 3 to 1 on white and on near-black.
CLEAN, NOISY, INK, BARS = "#2a9d8f", "#e76f51", "#8b929c", "#7c8798"


def draw_histogram(fit: RoundFit, summary: Mapping[str, Any], round: int) -> str:
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
    _limit_y_axis(axes, fit)
    axes.set_xlabel(f"{summary['metric']} (low is clean)")
    axes.set_ylabel("samples")
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return figure


def draw_training_curves(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Return the training loss and the accuracies over all epochs, as an ``<svg>`` element.

    Parameters
    ----------
    rounds
        The rounds of a ``summary.json``.
    """
    epochs = [epoch for record in rounds for epoch in record["epochs"]]
    figure, axes = create_axes(9.6, 3.0)
    x = np.arange(1, len(epochs) + 1)
    axes.plot(x, _get_epoch_values(epochs, "train_accuracy"), color=NOISY, linewidth=1.5, label="training accuracy")
    if any(epoch.get("test_accuracy") is not None for epoch in epochs):
        axes.plot(x, _get_epoch_values(epochs, "test_accuracy"), color=CLEAN, linewidth=2, label="test accuracy")
    if any("validation_accuracy" in epoch for epoch in epochs):
        axes.plot(
            x, _get_epoch_values(epochs, "validation_accuracy"), color=BARS, linewidth=1.5, label="validation accuracy"
        )
    accuracies = axes.get_lines()
    axes.set_ylim(0, 1.02)
    losses = axes.twinx()
    losses.plot(
        x, _get_epoch_values(epochs, "train_loss"), color=INK, linewidth=1.2, linestyle=":", label="training loss"
    )
    losses.set_ylim(bottom=0)
    losses.set_ylabel("loss")
    style_axes(losses)
    for border in np.cumsum([len(record["epochs"]) for record in rounds])[:-1]:
        axes.axvline(border + 0.5, color=INK, linewidth=0.8, alpha=0.5)
    axes.set_xlabel("epoch, over all rounds")
    axes.set_ylabel("accuracy")
    handles = [*accuracies, *losses.get_lines()]
    axes.legend(handles=handles, frameon=False, labelcolor=INK, fontsize=8, loc="lower right")
    return render_svg(figure, "Training loss and every accuracy (training, test, validation) over all epochs")


def _get_epoch_values(epochs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """Return the metric `name` of every epoch; NaN where the summary leaves it out because it was not finite."""
    return [epoch.get(name, math.nan) for epoch in epochs]


def _limit_y_axis(axes: Axes, fit: RoundFit) -> None:
    """Limit the y axis by the counts, so that a high peak of a component does not flatten the bars."""
    highest = max(fit.counts, default=0.0)
    axes.set_ylim(0, 1.15 * max(highest, 1.0))


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


def render_svg(figure: Figure, title: str) -> str:
    """Return the figure as an ``<svg>`` element; equal figures with equal titles give equal text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
