"""Digits with broken labels, over seeds: our loop beside the published one and beside keeping everything.

Every run trains ResNet-8 on the 8 x 8 handwritten digits that scikit-learn ships (1,437 for training, 360 for testing).
The settings are the trainer's defaults for digits, chosen on seeds 100 and above. The published loop scores only the
members, fits the density, cuts at the noisy component's scale, carries the weights on, and has the same epochs.
A third loop, ``--loops ours weights``, trains later rounds on everyone by their weights. Writes ``digits.json``, too.
"""

import json
import multiprocessing
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from benchmarks.claims import Benchmark, Claim, Report, format_table
from mild_core.types import SelectionOptions
from mild_trainer.settings import TrainSettings
from mild_trainer.training.loop import run_rounds

PUBLISHED: dict[str, Any] = {
    "observe": "members",
    "weights": "carry",
    "selection": SelectionOptions(fit="density", threshold="scale", evidence="latest"),
}
LOOPS: dict[str, dict[str, Any]] = {"ours": {}, "published": PUBLISHED, "weights": {"use": "weights"}}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One training; lists hold one entry a round, and `delivered` is the round whose set the training delivers."""

    loop: str
    noise: str
    seed: int
    delivered: int
    precision: list[float]
    recall: list[float]
    f1: list[float]
    test_accuracy: list[float]
    fitted_noise: list[float | None]
    verdict: list[str]
    true_noise: float
    seconds: float

    @property
    def noise_error(self) -> float:
        """Error of the noise estimate of the delivered set; 1 if there is none."""
        estimate = self.fitted_noise[self.delivered]
        return 1.0 if estimate is None else abs(estimate - self.true_noise)


def train(job: tuple[str, str, int]) -> Outcome:
    loop, noise, seed = job
    torch.set_num_threads(1)
    settings = TrainSettings.for_dataset("digits", noise=noise, seed=seed, device="cpu", agree=1.0, **LOOPS[loop])
    started = time.perf_counter()
    history = run_rounds(settings)
    seconds = time.perf_counter() - started
    agreements = [r.agreement for r in history.rounds if r.agreement is not None]
    assert history.true_noise is not None
    return Outcome(
        loop=loop,
        noise=noise,
        seed=seed,
        delivered=history.set_round.round,
        precision=[a.precision for a in agreements],
        recall=[a.recall for a in agreements],
        f1=[a.f1 for a in agreements],
        test_accuracy=[r.test_accuracy or 0.0 for r in history.rounds],
        fitted_noise=[r.fitted_noise for r in history.rounds],
        verdict=[str(r.summary["verdict"]) for r in history.rounds],
        true_noise=history.true_noise,
        seconds=seconds,
    )


def median(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> float:
    return statistics.median(value(o) for o in outcomes)


def claim(noise: str, found: Sequence[Outcome]) -> list[Claim]:
    """What is claimed of our loop on one noise."""
    outcomes, published = ([o for o in found if (o.noise, o.loop) == (noise, loop)] for loop in ("ours", "published"))
    f1, worst_f1, noise_error = BARS[noise]
    gain = median(outcomes, lambda o: o.test_accuracy[-1]) - median(outcomes, lambda o: o.test_accuracy[0])
    claims = [
        Claim("median F1", median(outcomes, lambda o: o.f1[o.delivered]), "at least", f1, "{:.3f}"),
        Claim(
            "median error of the noise rate",
            median(outcomes, lambda o: o.noise_error),
            "at most",
            noise_error,
            "{:.3f}",
        ),
        Claim("median test accuracy above that of all labels", gain, "above", 0, "{:.3f}"),
    ]
    if worst_f1 is not None:
        claims.append(Claim("least F1", min(o.f1[o.delivered] for o in outcomes), "at least", worst_f1, "{:.3f}"))
    if noise == "symmetric:0.8":
        gained = min(o.f1[o.delivered] - o.f1[0] for o in outcomes)
        claims.append(Claim("F1 of the set less that of round 1, least", gained, "at least", -0.02, "{:.3f}"))
    if published:
        ahead = median(outcomes, lambda o: o.f1[o.delivered]) - median(published, lambda o: o.f1[o.delivered])
        claims.append(Claim("median F1 less that of the published loop", ahead, "above", 0, "{:.3f}"))
    return [replace(each, text=f"digits, {noise}: {each.text}") for each in claims]


BARS: dict[str, tuple[float, float | None, float]] = {
    "symmetric:0.4": (0.985, None, 0.03),
    "symmetric:0.8": (0.88, None, 0.10),
    "pairflip:0.4": (0.88, 0.80, 0.05),
}
"""By noise: median F1, least F1, median error of the noise rate."""


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def summary_row(noise: str, name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    n_rounds = max(len(o.f1) for o in outcomes)
    rounds = ", ".join(
        f"{statistics.median(o.f1[min(r, len(o.f1) - 1)] for o in outcomes):.3f}" for r in range(n_rounds)
    )
    precision, recall = (
        statistics.median(getattr(o, field)[o.delivered] for o in outcomes) for field in ("precision", "recall")
    )
    return (
        noise,
        name,
        spread([o.f1[o.delivered] for o in outcomes]),
        f"{precision:.3f} / {recall:.3f}",
        rounds,
        # The published loop's last fit sees its members alone, so it estimates another quantity.
        f"{median(outcomes, lambda o: o.noise_error):.3f}" if name == "ours" else "",
        spread([o.test_accuracy[-1] for o in outcomes]),
    )


def everything_row(noise: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Keeping everything: precision is the share of clean labels, recall is 1, and training is round 1's."""
    clean = [1 - o.true_noise for o in outcomes]
    return (
        noise,
        "keep everything",
        spread([2 * c / (1 + c) for c in clean]),
        f"{statistics.median(clean):.3f} / 1.000",
        "",
        "",
        spread([o.test_accuracy[0] for o in outcomes]),
    )


def table(outcomes: Sequence[Outcome]) -> list[str]:
    rows = []
    for noise in dict.fromkeys(o.noise for o in outcomes):
        for loop in LOOPS:
            chosen = [o for o in outcomes if (o.noise, o.loop) == (noise, loop)]
            if chosen:
                rows.append(summary_row(noise, loop, chosen))
        rows.append(everything_row(noise, [o for o in outcomes if (o.noise, o.loop) == (noise, "ours")]))
    heads = ("noise", "loop", "F1", "precision / recall", "F1 after each round", "noise error", "test accuracy")
    return format_table(heads, rows)


def measure(options: Namespace) -> Report:
    jobs = [(loop, noise, seed) for seed in options.seeds for noise in options.noise for loop in options.loops]
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for outcome in pool.imap_unordered(train, jobs):
            f1 = " ".join(f"{v:.3f}" for v in outcome.f1)
            print(f"{outcome.noise} seed {outcome.seed} {outcome.loop}: F1 {f1} ({outcome.seconds:.0f} s)", flush=True)
            outcomes.append(outcome)
    outcomes.sort(key=lambda o: (options.noise.index(o.noise), o.seed, o.loop))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "digits.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    claims = [each for noise in options.noise for each in claim(noise, outcomes)]
    return Report("Digits", claims, f"Median (least to greatest) over {len(options.seeds)} seeds.", table(outcomes))


BENCHMARK = Benchmark(
    "digits",
    "README.md#results",
    measure,
    options={
        "seeds": tuple(range(10)),
        "noise": tuple(BARS),
        "loops": ("ours", "published"),
        "processes": multiprocessing.cpu_count(),
    },
    short={"seeds": (0, 1, 2)},
    packages=("torch", "numpy", "scipy"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
