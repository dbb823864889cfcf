"""Held-out agreement on digits: whether it finds labels that are all random, and only those.

Every run is the verification of ``mild train --verify`` with the trainer's defaults for digits.
"""

import multiprocessing
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.claims import Benchmark, Report, claim_none, format_spread, format_table
from mild_core.agreement import HeldOutAgreement
from mild_trainer import data as datasets
from mild_trainer.settings import TrainSettings
from mild_trainer.training.loop import measure_held_out_agreement
from mild_trainer.training.progress import Reporter
from mild_trainer.training.trainer import Trainer

EXPECTED: dict[str, bool | None] = {
    "symmetric:1.0": False,
    "symmetric:0.95": None,
    "symmetric:0.8": True,
    "pairflip:0.4": True,
    "none": True,
}
"""Whether labels with this noise carry signal; None: so little that it is only reported."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One verification."""

    noise: str
    seed: int
    agreement: HeldOutAgreement
    seconds: float


def verify(job: tuple[str, int]) -> Outcome:
    noise, seed = job
    torch.set_num_threads(1)
    settings = TrainSettings.for_dataset("digits", noise=noise, seed=seed, device="cpu")
    data = datasets.load("digits").with_noise(noise, seed)
    started = time.perf_counter()
    agreement = measure_held_out_agreement(settings, data, Trainer(settings, data), Reporter())
    return Outcome(noise, seed, agreement, time.perf_counter() - started)


def format_row(noise: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    agreements = [o.agreement for o in outcomes if o.noise == noise]
    shares, z = [each.agreement for each in agreements], [each.z for each in agreements]
    return (
        noise,
        format_spread(shares),
        f"{np.median([each.chance for each in agreements]):.3f}",
        f"{np.median([each.standard_error for each in agreements]):.4f}",
        format_spread(z, 1),
        f"{sum(each.carries_signal for each in agreements)} of {len(agreements)}",
    )


def measure(options: Namespace) -> Report:
    jobs = [(noise, seed) for seed in options.seeds for noise in options.noise]
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for outcome in pool.imap_unordered(verify, jobs):
            text = f"{outcome.noise} seed {outcome.seed}: {outcome.agreement.summary_text} ({outcome.seconds:.0f} s)"
            print(text, flush=True)
            outcomes.append(outcome)
    wrong = [o for o in outcomes if EXPECTED.get(o.noise) not in (None, o.agreement.carries_signal)]
    claims = [claim_none("labels with signal in which none is found, or random ones in which some is", wrong)]
    about = f"Digits, ResNet-8, two folds; median (least to greatest) over {len(options.seeds)} seeds."
    heads = ("noise", "agreement", "chance", "standard error", "z", "signal found")
    rows = [format_row(noise, outcomes) for noise in options.noise]
    return Report("Held-out agreement", claims, about, format_table(heads, rows))


STUDY = Benchmark(
    "agreement",
    "docs/trainer.md#do-the-labels-carry-signal-at-all",
    measure,
    options={"seeds": tuple(range(5)), "noise": tuple(EXPECTED), "processes": multiprocessing.cpu_count()},
    packages=("torch", "numpy"),
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
