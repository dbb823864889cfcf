"""Whole loops with another way to combine rounds: whether a better ranking of recorded rounds gives better sets.

The trainings of `studies.pooling` on digits took their members by the default. Here each is trained again from the same
seed with the members of every round chosen by another of the `studies.pooling_ways`, and the sets after the last rounds
are compared, each by the way of its loop. Round 0 is the same in both, so that they differ from round 1 on. Takes about
a minute a training; `--keep` leaves the recordings in a folder and reuses those that are there.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.claims import Benchmark, Report, format_table
from benchmarks.record import Case, Recorder, list_cases, load_case
from benchmarks.recordings import HALVES, ROUNDS, Recording, Round, load_recordings
from benchmarks.truth import auc, f1
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from studies.pooling_ways import DEFAULT, WAYS, Judgement, Trace


class Loop(Recorder):
    """A training whose members are chosen by a way."""

    def __init__(self, case: Case, way: Callable[[Trace], Judgement]) -> None:
        super().__init__(case, load_case(case, None))
        self.way = way

    def select_members(self, rounds: list[Round], planted: Bitmap | None) -> Bitmap:
        """Select the members of the next round; after round 0, which is one population, every way is the default."""
        if len(rounds) == 1:
            return super().select_members(rounds, planted)
        n = self.data.n_samples
        so_far = Recording(self.case.name, n, bitmap.full(n), planted, tuple(rounds))
        return bitmap.pack(self.way(Trace.of(so_far, len(rounds))).kept)


@dataclass(frozen=True, slots=True)
class Row:
    """One training: AUC and F1 after its last round, of the default's loop and of the other one."""

    name: str
    auc: tuple[float, float]
    f1: tuple[float, float]


def compare_loops(usual: Recording, other: Recording, way: str) -> Row:
    measures = []
    for recording, by in ((usual, DEFAULT), (other, way)):
        trace = Trace.of(recording, len(recording.rounds))
        judgement = WAYS[by](trace)
        measures.append((auc(judgement.suspicion, trace.clean), f1(judgement.kept, trace.clean)))
    (a, b), (c, d) = measures
    return Row(usual.name, (a, c), (b, d))


def measure(options: Namespace) -> Report:
    torch.set_num_threads(1)
    case_of = {case.name: case for case in list_cases() if case.data == "digits"}
    usual = [recording for recording in load_recordings(options.half, ROUNDS) if recording.name in case_of]
    rows = []
    with TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        for recording in usual:
            path = folder / f"{recording.name}.npz"
            if not path.exists():
                Loop(case_of[recording.name], WAYS[options.way]).run().save(path)
            rows.append(compare_loops(recording, Recording.load(path), options.way))
    cells = [(row.name, *(f"{value:.4f}" for value in (*row.auc, *row.f1))) for row in rows]
    text = [*format_table(("training", "AUC, default", "AUC", "F1, default", "F1"), cells), ""]
    for name in ("auc", "f1"):
        gain = np.array([np.diff(getattr(row, name))[0] for row in rows])
        error = gain.std(ddof=1) / np.sqrt(gain.size) if gain.size > 1 else np.nan
        signs = f"{int((gain > 0).sum())} better, {int((gain < 0).sum())} worse"
        text.append(f"- {name.upper()}: {gain.mean():+.4f} on the mean, standard error {error:.4f}; {signs}")
    about = f"The {options.half} half. After the last round, of the loop by the default and of the loop by this way."
    return Report(f"Whole loops: {options.way}", [], about, text, page="pooling-loop")


STUDY = Benchmark(
    "pooling_loop",
    "docs/method.md#rounds",
    measure,
    options={"way": "held-out rounds weigh 3", "half": "choosing", "keep": ""},
    packages=("numpy", "torch"),
    choices={"way": tuple(WAYS), "half": HALVES},
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
