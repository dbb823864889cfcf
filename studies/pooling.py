"""Evidence of several rounds: the loss from adding up counts, since members and non-members are different populations.

From round 1 on a network is trained on some of the samples, its members, and has never learnt the others: a clean
sample that was dropped is misclassified more often than one that was kept, a mislabelled one that was kept is
memorised. Every recording of several rounds with all samples observed, after each round from 1 on: AUC, F1 of the best
cut in hindsight and F1 of the default cut, for the default (counts add up, members or not) and for the other
`studies.pooling_ways`. The last of those knows the truth: it is the most that a division of the populations could give.
All take the recorded members, chosen by the default.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.claims import Benchmark, Report, format_table
from benchmarks.recordings import FOLDER, HALVES, ROUNDS, Recording, load_recordings
from benchmarks.truth import auc, best_f1, f1
from mild_core import bitmap
from mild_core.selection import select
from studies.pooling_ways import DEFAULT, WAYS, Trace


@dataclass(frozen=True, slots=True)
class Row:
    """One way after one round: AUC, F1 of the best cut and of the way's cut."""

    name: str
    number: int
    way: str
    auc: float
    hindsight: float
    f1: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """One set: its agreement with its members, verdict, AUC after and before its round, and F1."""

    name: str
    number: int
    agreement: float
    by_chance: float
    verdict: str
    auc: float
    before: float
    f1: float


def measure_way(trace: Trace, way: str) -> Row:
    judgement, clean = WAYS[way](trace), trace.clean
    return Row(
        name=trace.name,
        number=len(trace.misclassified) - 1,
        way=way,
        auc=auc(judgement.suspicion, clean),
        hindsight=best_f1(judgement.suspicion, clean),
        f1=f1(judgement.kept, clean),
    )


def list_overlaps(recording: Recording) -> list[Overlap]:
    """List how far each set repeats its members, by the service's selection."""
    clean, rounds = recording.is_clean, recording.evidence()
    selections = [select(rounds[: number + 1]) for number in range(len(rounds))]
    aucs = [auc(selection.scores[selection.scored], clean[selection.scored]) for selection in selections]
    rows = []
    for number, selection in enumerate(selections):
        if selection.member_overlap is not None:
            overlap = (selection.member_overlap.agreement, selection.member_overlap.by_chance, selection.verdict)
            own_f1 = f1(bitmap.unpack(selection.bitmap, selection.n_samples), clean)
            rows.append(Overlap(recording.name, number, *overlap, aucs[number], aucs[number - 1], own_f1))
    return rows


def format_rows(rows: Sequence[Row], data: str) -> list[str]:
    """Format a line for each way: means over trainings and rounds, and its F1 relative to the default's."""
    own = [row for row in rows if row.name.startswith(data)]
    usual = {(row.name, row.number): row.f1 for row in own if row.way == DEFAULT}
    rows_of_ways = []
    for way in WAYS:
        alike = [row for row in own if row.way == way]
        means = (np.mean([getattr(row, name) for row in alike]) for name in ("auc", "hindsight", "f1"))
        gains = np.array([row.f1 - usual[row.name, row.number] for row in alike])
        cells = [*(f"{value:.4f}" for value in means), f"{gains.mean():+.4f}", f"{gains.min():+.3f}"]
        rows_of_ways.append((way, *cells, int((gains > 0).sum()), int((gains < 0).sum())))
    heads = ("way", "AUC", "F1, best cut", "F1, own cut", "against the default", "worst", "better", "worse")
    return format_table(heads, rows_of_ways)


def describe_populations(traces: Sequence[Trace], data: str) -> str:
    """Describe the share of round 1's epochs in which each kind of sample is misclassified, a mean over trainings."""
    parts = []
    for kind, is_clean in (("clean", True), ("mislabelled", False)):
        for part, is_member in (("members", True), ("non-members", False)):
            shares_and_masks = [
                (trace.misclassified[1], (trace.clean == is_clean) & (trace.members[1] == is_member))
                for trace in traces
                if trace.name.startswith(data) and len(trace.members) == 2
            ]
            share = np.mean([shares[mask].mean() for shares, mask in shares_and_masks if mask.any()])
            parts.append(f"{kind} {part} {share:.2f}")
    return f"Share of round 1's epochs in which samples are misclassified: {', '.join(parts)}."


def measure(options: Namespace) -> Report:
    several = [r for folder in (FOLDER, ROUNDS) for r in load_recordings(options.half, folder) if len(r.rounds) > 1]
    several = [recording for recording in several if not recording.is_clean.all()]  # without noise nothing is ranked
    traces = [Trace.of(recording, n) for recording in several for n in range(2, len(recording.rounds) + 1)]
    rows = [measure_way(trace, way) for trace in traces for way in WAYS]
    text = []
    for data in ("digits", "cifar16"):
        n_trainings = len({row.name for row in rows if row.name.startswith(data)})
        text += [f"## {data}, {n_trainings} trainings", "", describe_populations(traces, data), ""]
        text += [*format_rows(rows, data), ""]
    heads = ("training", "round", "agreement", "by chance", "verdict", "AUC", "AUC one round before", "F1")
    overlaps = [
        (row.name, row.number, f"{row.agreement:.3f}", f"{row.by_chance:.3f}", row.verdict, f"{row.auc:.3f}",
         f"{row.before:.3f}", f"{row.f1:.3f}")
        for recording in several
        for row in list_overlaps(recording)
    ]  # fmt: skip
    about = (
        f"The {options.half} half. Trainings of three or four rounds in which everyone is observed, judged after each "
        "round from 1 on: means over trainings and rounds. Names as in "
        "[selection.md](../../benchmarks/results/selection.md)."
    )
    text += ["## How far sets repeat their members", "", *format_table(heads, overlaps)]
    page = "pooling" if options.half == "judging" else "pooling-choosing"
    return Report("Evidence of several rounds", [], about, text, page=page)


STUDY = Benchmark(
    "pooling",
    "docs/method.md#rounds",
    measure,
    options={"half": "judging"},
    packages=("numpy",),
    choices={"half": HALVES},
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
