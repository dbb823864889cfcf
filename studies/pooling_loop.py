"""Whole loops with another way to put rounds together: whether what ranks recorded rounds better trains better sets.

usage: python -m studies.pooling_loop [--way WAY] [--half choosing|judging] [--keep DIR] [--out DIR]

The trainings of `studies.pooling` on digits took their members by the default. Here each is trained again with the
members of every round chosen by another of the `studies.pooling_ways`, from the same seed, and the sets that the
last rounds end with are compared: each loop's by its own way. Round 0 is the same in both, so that they part with round
1. Takes about a minute a training; `--keep` leaves the recordings in a folder and takes those that lie there already.
Writes ``results/pooling-loop.md``.
"""

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.record import Case, Recorder, cases, dataset
from benchmarks.recordings import ROUNDS, Recording, Round, recordings
from benchmarks.truth import auc, f1
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from studies.pooling_ways import DEFAULT, WAYS, Judged, Trace

RESULTS = Path(__file__).parent / "results"


class Loop(Recorder):
    """A training whose members a given way chooses."""

    def __init__(self, case: Case, way: Callable[[Trace], Judged]) -> None:
        super().__init__(case, dataset(case, None))
        self.way = way

    def selected(self, rounds: list[Round], planted: Bitmap | None) -> Bitmap:
        """Members of the next round; round 0 is one population, where every way is the default."""
        if len(rounds) == 1:
            return super().selected(rounds, planted)
        n = self.data.n_samples
        so_far = Recording(self.case.name, n, bitmap.full(n), planted, tuple(rounds))
        return bitmap.pack(self.way(Trace.of(so_far, len(rounds))).kept)


@dataclass(frozen=True, slots=True)
class Row:
    """One training: AUC and F1 after its last round, of the default's loop and of the other one."""

    name: str
    auc: tuple[float, float]
    f1: tuple[float, float]


def compared(usual: Recording, other: Recording, way: str) -> Row:
    judged = []
    for recording, by in ((usual, DEFAULT), (other, way)):
        trace = Trace.of(recording, len(recording.rounds))
        found = WAYS[by](trace)
        judged.append((auc(found.suspicion, trace.clean), f1(found.kept, trace.clean)))
    (a, b), (c, d) = judged
    return Row(usual.name, (a, c), (b, d))


def report(rows: Sequence[Row], way: str, half: str) -> str:
    gains = {name: np.array([np.diff(getattr(row, name))[0] for row in rows]) for name in ("auc", "f1")}
    lines = [
        f"# Whole loops: {way}, the {half} half",
        "",
        f'`python -m studies.pooling_loop --way "{way}" --half {half}`, 2 shared cores,',
        f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__.partition('+')[0]}.",
        "After the last round, of the loop by the default and of the loop by this way.",
        "",
        "| training | AUC, default | AUC | F1, default | F1 |",
        "|---|---|---|---|---|",
        *(f"| {row.name} | {row.auc[0]:.4f} | {row.auc[1]:.4f} | {row.f1[0]:.4f} | {row.f1[1]:.4f} |" for row in rows),
        "",
    ]
    for name, gain in gains.items():
        error = gain.std(ddof=1) / np.sqrt(gain.size) if gain.size > 1 else np.nan
        signs = f"{int((gain > 0).sum())} better, {int((gain < 0).sum())} worse"
        lines.append(f"- {name.upper()}: {gain.mean():+.4f} on the mean, standard error {error:.4f}; {signs}")
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=list(WAYS), default="held-out rounds weigh 3")
    parser.add_argument("--half", choices=("choosing", "judging"), default="choosing")
    parser.add_argument("--keep", type=Path, help="folder for the recordings")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    half = ("choosing", "judging").index(arguments.half)
    known = {case.name: case for case in cases() if case.data == "digits"}
    usual = [recording for recording in recordings(half, ROUNDS) if recording.name in known]
    rows = []
    with TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        for recording in usual:
            path = folder / f"{recording.name}.npz"
            if not path.exists():
                Loop(known[recording.name], WAYS[arguments.way]).run().save(path)
            rows.append(compared(recording, Recording.load(path), arguments.way))
    text = report(rows, arguments.way, arguments.half)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "pooling-loop.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
