"""Pictures of a training as SVG text, drawn to be readable on a light and on a dark page; and of one fit as a file."""

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

# Mid tones: each keeps a contrast of at least 3 to 1 on white and on near-black.
CLEAN, NOISY, INK, BARS = "#2a9d8f", "#e76f51", "#8b929c", "#7c8798"


def histogram(fit: RoundFit, summary: Mapping[str, Any], round: int) -> str:
    """Draw a round's histogram of scores, both components and the cut."""
    return svg(_fitted(fit, summary), f"Histogram of scores in round {round} with the fitted components and the cut")


def save_histogram(fit: RoundFit, summary: Mapping[str, Any], path: Path) -> None:
    """Draw a selection's histogram, components and cut into a file on white; its ending (such as png) says how."""
    _fitted(fit, summary).savefig(path, dpi=150, facecolor="white")


def _fitted(fit: RoundFit, summary: Mapping[str, Any]) -> Figure:
    figure, axes = canvas(6.4, 2.9)
    at = fit.origin + fit.width * np.arange(len(fit.counts))
    axes.bar(at, fit.counts, width=0.9 * fit.width, color=BARS, alpha=0.55, label="samples")
    for density, colour, name in zip(fit.densities, (CLEAN, NOISY), ("clean", "noisy"), strict=False):
        axes.plot(at, density, color=colour, linewidth=2, label=f"{name} component")
    cut = summary["threshold"]["value"]
    if cut is not None:
        axes.axvline(cut + fit.width / 2, color=INK, linestyle="--", linewidth=1.5, label="cut")
    _limit(axes, fit)
    axes.set_xlabel(f"{summary['metric']} (low is clean)")
    axes.set_ylabel("samples")
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return figure


def curves(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Draw training loss and the accuracies over all epochs of the rounds of a ``summary.json``."""
    epochs = [epoch for told in rounds for epoch in told["epochs"]]
    figure, axes = canvas(9.6, 3.0)
    at = np.arange(1, len(epochs) + 1)
    axes.plot(at, _over(epochs, "train_accuracy"), color=NOISY, linewidth=1.5, label="training accuracy")
    axes.plot(at, _over(epochs, "test_accuracy"), color=CLEAN, linewidth=2, label="test accuracy")
    if any("validation_accuracy" in epoch for epoch in epochs):
        axes.plot(at, _over(epochs, "validation_accuracy"), color=BARS, linewidth=1.5, label="validation accuracy")
    accuracies = axes.get_lines()
    axes.set_ylim(0, 1.02)
    losses = axes.twinx()
    losses.plot(at, _over(epochs, "train_loss"), color=INK, linewidth=1.2, linestyle=":", label="training loss")
    losses.set_ylim(bottom=0)
    losses.set_ylabel("loss")
    plain(losses)
    for border in np.cumsum([len(told["epochs"]) for told in rounds])[:-1]:
        axes.axvline(border + 0.5, color=INK, linewidth=0.8, alpha=0.5)
    axes.set_xlabel("epoch, over all rounds")
    axes.set_ylabel("accuracy")
    handles = [*accuracies, *losses.get_lines()]
    axes.legend(handles=handles, frameon=False, labelcolor=INK, fontsize=8, loc="lower right")
    return svg(figure, "Training loss and every accuracy (training, test, validation) over all epochs")


def _over(epochs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A scalar of every epoch; what was not finite is left out of a summary, and of the curve."""
    return [epoch.get(name, math.nan) for epoch in epochs]


def _limit(axes: Axes, fit: RoundFit) -> None:
    """Keep a spike of a component from flattening everything else."""
    highest = max(fit.counts, default=0.0)
    axes.set_ylim(0, 1.15 * max(highest, 1.0))


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of so many inches, readable on light and on dark."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    plain(axes)
    return figure, axes


def plain(axes: Axes) -> None:
    """Give axes the colours that are readable on both."""
    axes.set_facecolor("none")
    axes.spines[["top"]].set_visible(False)
    axes.spines[:].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def svg(figure: Figure, title: str) -> str:
    """Return the figure as an ``<svg>`` element; the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
