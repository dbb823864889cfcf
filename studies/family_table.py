"""Decisions on families of trainings that no default was chosen on, by family.

A family is the first part of a recording's name (`benchmarks.record_families`). The table has the gap to the best cut,
the share of samples that is dropped where nothing is wrong, and how often a fit is called ``separable`` where that
cannot be right: without noise, and in trainings that are still learning.
"""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np

from benchmarks.claims import Benchmark, Report, format_table
from benchmarks.record_families import FAMILIES
from benchmarks.recordings import HALVES, load_recordings
from benchmarks.selection import MEAN_GAP_BAR, WORST_GAP_BAR, Trace, sequences
from mild_core import bitmap
from mild_core.scores import score_samples
from mild_core.selection import select
from mild_core.types import Fit, SelectionOptions

LEARNING = "learning"
"""The family of the trainings that are still learning; all other families are finished."""
FITS: tuple[Fit, ...] = ("anchored", "tailed", "grouped")
_GAP_BAR, _DROPPED_BAR = 0.05, 0.02
_SAME, _OTHER_TRUTH = 0.05, 0.1
"""Two sequences are twins if their histograms differ by at most the first, in total variation, and their noise rates by
at least the second."""


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


@dataclass(frozen=True, slots=True)
class Twins:
    """Two sequences with the same histogram and different truths, which no fit can tell apart.

    Attributes
    ----------
    names, noise
        Of both.
    distance
        Total variation between their histograms.
    """

    names: tuple[str, str]
    noise: tuple[float, float]
    distance: float


def find_twins(traces: Sequence[Trace]) -> list[Twins]:
    """Find the pairs of sequences whose histograms are equal and whose noise rates are not."""
    histograms = []
    for trace in traces:
        scores = score_samples(trace.rounds, "mild-simple")
        counts = np.bincount(scores.bins, minlength=scores.grid.n_bins)
        noise = float(1 - trace.clean[trace.judged].mean())
        histograms.append((trace.name, noise, counts / counts.sum()))
    twins = []
    for (name, noise, shares), (other, other_noise, other_shares) in combinations(histograms, 2):
        if shares.size == other_shares.size and abs(noise - other_noise) >= _OTHER_TRUTH:
            distance = float(np.abs(shares - other_shares).sum() / 2)
            if distance <= _SAME:
                twins.append(Twins((name, other), (noise, other_noise), distance))
    return sorted(twins, key=lambda pair: pair.distance)


def report_twins(rows: Sequence[FamilyRow], twins: Sequence[Twins]) -> list[str]:
    """Format the pairs, and the gaps of the default fit in every family without their sequences."""
    twin_names = {name for pair in twins for name in pair.names}
    pairs = []
    for pair in twins:
        (name, other), (noise, other_noise) = pair.names, pair.noise
        pairs.append((name, f"{noise:.3f}", other, f"{other_noise:.3f}", f"{pair.distance:.3f}"))
    families = []
    own = sorted((row for row in rows if row.name not in twin_names), key=_by_family_and_fit)
    for family, group in groupby(own, key=lambda row: row.family):
        gaps = np.array([row.gap for row in group])
        is_reached = gaps.mean() <= MEAN_GAP_BAR and gaps.max() <= WORST_GAP_BAR
        verdict = "reached" if is_reached else "MISSED"
        families.append((family, gaps.size, f"{gaps.mean():.4f}", f"{gaps.max():.3f}", verdict))
    return [
        f"{len(twins)} pairs, of {len(twin_names)} sequences, whose histograms differ by at most {_SAME:g} (total "
        f"variation) and whose noise rates by at least {_OTHER_TRUTH:g}. What is right for one is wrong for the other.",
        "",
        *format_table(("sequence", "noise", "sequence", "noise", "total variation"), pairs),
        "",
        *format_table(("family, without these", "sequences", "mean gap", "worst", "bars"), families),
    ]


def judge_families(traces: Sequence[Trace], fits: Sequence[Fit] = FITS) -> list[FamilyRow]:
    """Select from every sequence by every fit."""
    return [_judge(trace, fit) for fit in fits for trace in traces]


def _judge(trace: Trace, fit: Fit) -> FamilyRow:
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
    groups = groupby(sorted(rows, key=_by_family_and_fit), key=_by_family_and_fit)
    cells = [_list_cells(family, fit, list(group)) for (family, fit), group in groups]
    for fit in dict.fromkeys(row.fit for row in rows):
        cells.append(_list_cells("all", fit, [row for row in rows if row.fit == fit]))
    default = SelectionOptions().fit
    own = [row for row in rows if row.fit == default]
    worst = [
        (row.name, f"{row.noise:.3f}", f"{row.gap:.3f}", f"{row.dropped:.3f}", row.verdict)
        for row in sorted(own, key=lambda row: -row.gap)[:15]
    ]
    return [
        *format_table(heads, cells),
        *("", f"`{default}` loses most in:", ""),
        *format_table(("sequence", "noise", "gap", "dropped", "verdict"), worst),
        *("", *_summarise_learning(own), *_compare_with_default(rows)),
    ]


def _by_family_and_fit(row: FamilyRow) -> tuple[str, str]:
    return row.family, row.fit


def _list_cells(family: str, fit: str, rows: Sequence[FamilyRow]) -> tuple[object, ...]:
    gaps = np.array([row.gap for row in rows])
    without_noise = [row for row in rows if row.noise == 0]
    dropped = [row.dropped for row in without_noise]
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(row.verdict for row in rows).most_common())
    separable = sum(row.verdict == "separable" for row in without_noise)
    return (
        family, fit, len(rows), f"{gaps.mean():.4f}", f"{gaps.max():.3f}", int((gaps > _GAP_BAR).sum()),
        f"{np.mean(dropped):.3f}" if dropped else "", f"{max(dropped):.3f}" if dropped else "", verdicts,
        f"{separable} of {len(without_noise)}",
    )  # fmt: skip


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
        alike = [row for row in rows if (row.family == LEARNING) == is_learning]
        figures = ", ".join(f"{sum(map(holds, alike))} {text}" for text, holds in counts.items())
        lines.append(f"- {name}: {len(alike)} sequences, {figures}")
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


def measure(options: Namespace) -> Report:
    traces = sequences(load_recordings(options.half, FAMILIES))
    rows = judge_families(traces)
    own = [row for row in rows if row.fit == SelectionOptions().fit]
    text = [*report_families(rows), "", *report_twins(own, find_twins(traces))]
    return Report(f"Families of trainings: the {options.half} half", [], text=text, page="families")


STUDY = Benchmark(
    "family_table",
    "docs/method.md#verdicts-what-was-done",
    measure,
    options={"half": "judging"},
    packages=("numpy",),
    choices={"half": HALVES},
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
