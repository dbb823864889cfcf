"""The families of ``sequences/families`` in the table of `benchmarks.selection`: each family apart.

A family is the first part of a recording's name (`benchmarks.record_families`). Beside the gap to the best cut stand
the share of samples that is dropped where nothing is wrong, and how often a fit is called ``separable`` where that
cannot be right: without noise, and in trainings that are still learning.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from mild_core import bitmap
from mild_core.selection import select
from mild_core.types import Fit, SelectionOptions

if TYPE_CHECKING:
    from benchmarks.selection import Trace

LEARNING = "learning"
"""The family of the trainings that are still learning; all other families are finished."""
FITS: tuple[Fit, ...] = ("anchored", "tailed", "grouped")
_GAP_BAR, _DROPPED_BAR = 0.05, 0.02


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One sequence under one fit.

    Attributes
    ----------
    family, name, fit
        What was recorded and how it was fitted.
    noise, dropped
        Shares of the judged samples that are mislabelled and that are dropped.
    gap
        F1 of the best cut in hindsight minus that of the set.
    verdict
        The verdict on the fit.
    """

    family: str
    name: str
    fit: str
    noise: float
    dropped: float
    gap: float
    verdict: str


def judge_families(traces: Sequence["Trace"], fits: Sequence[Fit] = FITS) -> list[FamilyRow]:
    """Select from every sequence by every fit."""
    return [_judge(trace, fit) for fit in fits for trace in traces]


def _judge(trace: "Trace", fit: Fit) -> FamilyRow:
    selection = select(trace.rounds, SelectionOptions(fit=fit))
    kept = bitmap.unpack(selection.bitmap, selection.n_samples) & trace.judged
    n_judged = int(trace.judged.sum())
    return FamilyRow(
        family=trace.name.partition("_")[0],
        name=trace.name,
        fit=fit,
        noise=float(1 - (trace.clean & trace.judged).sum() / n_judged),
        dropped=float(1 - kept.sum() / n_judged),
        gap=trace.hindsight() - trace.f1(kept),
        verdict=selection.verdict,
    )


def report_families(rows: Sequence[FamilyRow]) -> list[str]:
    """Format the table, a row per family and fit, and the sequences with the largest gaps."""
    heads = (
        "family", "fit", "sequences", "mean gap", "worst", f"above {_GAP_BAR:g}",
        "dropped without noise, mean", "most", "verdicts", "separable without noise",
    )  # fmt: skip
    ordered = sorted(rows, key=_by_family_and_fit)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for (family, fit), group in groupby(ordered, key=_by_family_and_fit):
        lines.append(_format_row(family, fit, list(group)))
    for fit in dict.fromkeys(row.fit for row in rows):
        lines.append(_format_row("all", fit, [row for row in rows if row.fit == fit]))
    default = SelectionOptions().fit
    own = [row for row in rows if row.fit == default]
    lines += [
        "",
        f"`{default}` loses most in:",
        "",
        "| sequence | noise | gap | dropped | verdict |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(own, key=lambda row: -row.gap)[:15]:
        lines.append(f"| {row.name} | {row.noise:.3f} | {row.gap:.3f} | {row.dropped:.3f} | {row.verdict} |")
    return [*lines, "", *_summarise_learning(own), *_compare_with_default(rows)]


def _by_family_and_fit(row: FamilyRow) -> tuple[str, str]:
    return row.family, row.fit


def _format_row(family: str, fit: str, rows: Sequence[FamilyRow]) -> str:
    gaps = np.array([row.gap for row in rows])
    without_noise = [row for row in rows if row.noise == 0]
    dropped = [row.dropped for row in without_noise]
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(row.verdict for row in rows).most_common())
    separable = sum(row.verdict == "separable" for row in without_noise)
    cells = (
        family, fit, str(len(rows)), f"{gaps.mean():.4f}", f"{gaps.max():.3f}", str(int((gaps > _GAP_BAR).sum())),
        f"{np.mean(dropped):.3f}" if dropped else "", f"{max(dropped):.3f}" if dropped else "", verdicts,
        f"{separable} of {len(without_noise)}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _summarise_learning(rows: Sequence[FamilyRow]) -> list[str]:
    """Summarise how the verdicts divide trainings that are still learning from finished ones."""
    counts: Mapping[str, Callable[[FamilyRow], bool]] = {
        "called `separable`": lambda row: row.verdict == "separable",
        "called `learning`": lambda row: row.verdict == "learning",
        f"with more than {_DROPPED_BAR:.0%} dropped where nothing is wrong": lambda row: (
            row.noise == 0 and row.dropped > _DROPPED_BAR
        ),
    }
    lines = []
    for name, is_learning in (("still learning", True), ("finished", False)):
        chosen = [row for row in rows if (row.family == LEARNING) == is_learning]
        figures = ", ".join(f"{sum(map(holds, chosen))} {text}" for text, holds in counts.items())
        lines.append(f"- {name}: {len(chosen)} sequences, {figures}")
    return lines


def _compare_with_default(rows: Sequence[FamilyRow]) -> list[str]:
    """Compare every fit with the default: the mean gap, and the families in which it drops too much without noise."""
    default = SelectionOptions().fit
    default_gap = np.mean([row.gap for row in rows if row.fit == default])
    lines = []
    for fit in dict.fromkeys(row.fit for row in rows if row.fit != default):
        own = sorted((row for row in rows if row.fit == fit), key=_by_family_and_fit)
        too_many = []
        for (family, _), group in groupby(own, key=_by_family_and_fit):
            dropped = [row.dropped for row in group if row.noise == 0]
            if dropped and np.mean(dropped) > _DROPPED_BAR:
                too_many.append(f"{family} ({np.mean(dropped):.1%})")
        lines.append(
            f"- `{fit}` instead of `{default}`: mean gap {np.mean([row.gap for row in own]):.4f} instead of "
            f"{default_gap:.4f}; families of which it drops more than {_DROPPED_BAR:.0%} without noise, which keeps it "
            f"from being the default: {', '.join(too_many) or 'none'}"
        )
    return lines
