"""Held-out agreement on digits: that labels are all random is to be told, and only then.

usage: python -m studies.agreement [--seeds 0 1 …] [--noise symmetric:1.0 …] [--processes 2]

Every run does what ``mild train --verify`` does before its rounds, with the trainer's defaults for digits.
Writes ``results/agreement.md`` and exits with 1 if a bar is missed.
"""

import argparse
import multiprocessing
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mild_core.agreement import HeldOutAgreement
from mild_trainer import data as datasets
from mild_trainer.settings import TrainSettings
from mild_trainer.training.progress import Reporter
from mild_trainer.training.trainer import Trainer
from mild_trainer.training.verification import measure_held_out_agreement

EXPECTED: dict[str, bool | None] = {
    "symmetric:1.0": False,
    "symmetric:0.95": None,
    "symmetric:0.8": True,
    "pairflip:0.4": True,
    "none": True,
}
"""Whether labels with this noise carry signal; None: so little that it is only reported."""
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One verification."""

    noise: str
    seed: int
    found: HeldOutAgreement
    seconds: float


def measure(job: tuple[str, int]) -> Outcome:
    noise, seed = job
    torch.set_num_threads(1)
    settings = TrainSettings.for_dataset("digits", noise=noise, seed=seed, device="cpu")
    data = datasets.load("digits").with_noise(noise, seed)
    started = time.perf_counter()
    found = measure_held_out_agreement(settings, data, Trainer(settings, data), Reporter())
    return Outcome(noise, seed, found, time.perf_counter() - started)


def row(noise: str, outcomes: Sequence[Outcome]) -> str:
    found = [o.found for o in outcomes if o.noise == noise]
    agreement, z = [f.agreement for f in found], [f.z for f in found]
    n_signal, expected = sum(f.carries_signal for f in found), EXPECTED.get(noise)
    bar = {None: "reported only", True: f"signal in {len(found)}", False: "signal in 0"}[expected]
    cells = (
        noise,
        f"{np.median(agreement):.3f} ({min(agreement):.3f} to {max(agreement):.3f})",
        f"{np.median([f.chance for f in found]):.3f}",
        f"{np.median([f.standard_error for f in found]):.4f}",
        f"{np.median(z):.1f} ({min(z):.1f} to {max(z):.1f})",
        f"{n_signal} of {len(found)}",
        bar,
    )
    return "| " + " | ".join(cells) + " |"


def holds(outcome: Outcome) -> bool:
    return EXPECTED.get(outcome.noise) in (None, outcome.found.carries_signal)


def provenance(arguments: argparse.Namespace) -> str:
    machine = f"virtual {platform.machine()} machine, {multiprocessing.cpu_count()} CPU cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return f"`python -m studies.agreement --seeds {' '.join(map(str, arguments.seeds))}`, {machine}, {versions}"


def report(arguments: argparse.Namespace, outcomes: Sequence[Outcome]) -> str:
    reached = "reached" if all(map(holds, outcomes)) else "MISSED"
    return "\n".join(
        (
            "# Held-out agreement",
            "",
            f"{provenance(arguments)}. Digits, ResNet-8, two folds; median (least to greatest) over "
            f"{len(arguments.seeds)} seeds.",
            "",
            "| noise | agreement | chance | standard error | z | signal found | bar |",
            "|---|---|---|---|---|---|---|",
            *(row(noise, outcomes) for noise in arguments.noise),
            "",
            f"Signal wherever there is some, and none in labels that are all random: {reached}.",
            "",
        )
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--noise", nargs="+", default=list(EXPECTED))
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    jobs = [(noise, seed) for seed in arguments.seeds for noise in arguments.noise]
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for outcome in pool.imap_unordered(measure, jobs):
            print(
                f"{outcome.noise} seed {outcome.seed}: {outcome.found.summary_text} ({outcome.seconds:.0f} s)",
                flush=True,
            )
            outcomes.append(outcome)
    text = report(arguments, outcomes)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "agreement.md").write_text(text)
    print("\n" + text)
    return 0 if all(map(holds, outcomes)) else 1


if __name__ == "__main__":
    sys.exit(main())
