"""Evidence of several rounds: what adding up counts loses, as members and non-members are different populations.

usage: python -m studies.pooling [--half judging|choosing] [--out DIR]

From round 1 on a network is trained on some of the samples, its members, and has never learnt the others: a clean
sample that was dropped is misclassified more often than one that was kept, a mislabelled one that was kept is learnt by
heart. Every recording of several rounds with everyone observed, after each round from 1 on: AUC, F1 of the best cut in
hindsight and F1 of the default cut, for the default (counts add up, whoever was a member) and for the other
`studies.pooling_ways`. The last of those knows the truth: it is what telling the populations apart could give at
most. All take the members as they were, chosen by the default. Writes ``results/pooling.md``.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.recordings import FOLDER, ROUNDS, Recording, recordings
from benchmarks.timing import machine
from benchmarks.truth import Mask, auc, best_f1, f1
from mild_core import bitmap
from mild_core.results import Selection
from mild_core.selection import select
from studies.pooling_ways import DEFAULT, WAYS, Trace

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One way after one round: AUC, F1 of the best cut and of the way's own."""

    name: str
    number: int
    way: str
    auc: float
    hindsight: float
    f1: float


@dataclass(frozen=True, slots=True)
class Repeated:
    """One set: what it says of itself, and what it is."""

    name: str
    number: int
    agreement: float
    by_chance: float
    verdict: str
    auc: float
    before: float
    f1: float


def measured(trace: Trace, way: str) -> Row:
    judged, clean = WAYS[way](trace), trace.clean
    return Row(
        name=trace.name,
        number=len(trace.misclassified) - 1,
        way=way,
        auc=auc(judged.suspicion, clean),
        hindsight=best_f1(judged.suspicion, clean),
        f1=f1(judged.kept, clean),
    )


def repeated(recording: Recording) -> list[Repeated]:
    """How far each set repeats its members, by the service's own selection."""
    clean, rounds = recording.is_clean, recording.evidence()
    chosen = [select(rounds[: number + 1]) for number in range(len(rounds))]
    aucs = [auc(found.scores[found.scored], clean[found.scored]) for found in chosen]
    rows = []
    for number, found in enumerate(chosen):
        if found.member_overlap is not None:
            told = (found.member_overlap.agreement, found.member_overlap.by_chance, found.verdict)
            rows.append(Repeated(recording.name, number, *told, aucs[number], aucs[number - 1], _f1(found, clean)))
    return rows


def _f1(found: Selection, clean: Mask) -> float:
    return f1(bitmap.unpack(found.bitmap, found.n_samples), clean)


def table(rows: Sequence[Row], data: str) -> list[str]:
    """A line a way: means over trainings and rounds, and its F1 beside the default's."""
    own = [row for row in rows if row.name.startswith(data)]
    usual = {(row.name, row.number): row.f1 for row in own if row.way == DEFAULT}
    lines = [
        "| way | AUC | F1, best cut | F1, own cut | against the default | worst | better | worse |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        found = [row for row in own if row.way == way]
        means = (np.mean([getattr(row, name) for row in found]) for name in ("auc", "hindsight", "f1"))
        gains = np.array([row.f1 - usual[row.name, row.number] for row in found])
        cells = " | ".join(f"{value:.4f}" for value in means)
        better, worse = int((gains > 0).sum()), int((gains < 0).sum())
        lines.append(f"| {way} | {cells} | {gains.mean():+.4f} | {gains.min():+.3f} | {better} | {worse} |")
    return lines


def apart(traces: Sequence[Trace], data: str) -> str:
    """What share of round 1's epochs each kind of sample is misclassified in, a mean over trainings."""
    told = []
    for kind, is_clean in (("clean", True), ("mislabelled", False)):
        for part, inside in (("members", True), ("non-members", False)):
            chosen = [
                (trace.misclassified[1], (trace.clean == is_clean) & (trace.members[1] == inside))
                for trace in traces
                if trace.name.startswith(data) and len(trace.members) == 2
            ]
            share = np.mean([shares[who].mean() for shares, who in chosen if who.any()])
            told.append(f"{kind} {part} {share:.2f}")
    return f"Share of round 1's epochs in which samples are misclassified: {', '.join(told)}."


def report(traces: Sequence[Trace], rows: Sequence[Row], overlaps: Sequence[Repeated], half: str) -> str:
    trainings = {name: len({row.name for row in rows if row.name.startswith(name)}) for name in ("digits", "cifar16")}
    lines = [
        f"# Evidence of several rounds: the {half} half",
        "",
        f"`python -m studies.pooling --half {half}`, {machine('numpy')}. Trainings of three or four rounds in",
        "which everyone is observed, judged after each round from 1 on: means over trainings and rounds. Names as in",
        "[selection.md](../../benchmarks/results/selection.md).",
    ]
    for data, n_trainings in trainings.items():
        lines += ["", f"## {data}, {n_trainings} trainings", "", apart(traces, data), "", *table(rows, data)]
    lines += [
        "",
        "## How far sets repeat their members",
        "",
        "| training | round | agreement | by chance | verdict | AUC | AUC one round before | F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in overlaps:
        lines.append(
            f"| {row.name} | {row.number} | {row.agreement:.3f} | {row.by_chance:.3f} | {row.verdict} "
            f"| {row.auc:.3f} | {row.before:.3f} | {row.f1:.3f} |"
        )
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=("judging", "choosing"), default="judging")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    half = ("choosing", "judging").index(arguments.half)
    several = [r for folder in (FOLDER, ROUNDS) for r in recordings(half, folder) if len(r.rounds) > 1]
    several = [recording for recording in several if not recording.is_clean.all()]  # without noise nothing is ranked
    traces = [Trace.of(recording, n) for recording in several for n in range(2, len(recording.rounds) + 1)]
    rows = [measured(trace, way) for trace in traces for way in WAYS]
    overlaps = [row for recording in several for row in repeated(recording)]
    text = report(traces, rows, overlaps, arguments.half)
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "pooling" if arguments.half == "judging" else "pooling-choosing"
    (arguments.out / f"{name}.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
