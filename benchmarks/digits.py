"""Digits with broken labels, over seeds: our loop beside the published one and beside keeping everything.

usage: python -m benchmarks.digits [--seeds 0 1 …] [--noise symmetric:0.4 …] [--processes 2]

Every run trains ResNet-8 on the 8 x 8 handwritten digits that scikit-learn ships (1,437 for training, 360 for testing).
The settings are the trainer's defaults for digits, chosen on seeds 100 and above. The published loop scores only the
members, fits the density, cuts at the noisy component's scale, carries the weights on, and has the same epochs.
A third loop, ``--loops ours weights``, trains later rounds on everyone by their weights.
Writes ``results/digits.json`` and ``results/digits.md`` and exits with 1 if a bar is missed.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from mild_core.types import SelectionOptions
from mild_trainer.settings import TrainSettings
from mild_trainer.training.loop import run_rounds

NOISES = ("symmetric:0.4", "symmetric:0.8", "pairflip:0.4")
PUBLISHED: dict[str, Any] = {
    "observe": "members",
    "weights": "carry",
    "selection": SelectionOptions(fit="density", threshold="scale", evidence="latest"),
}
LOOPS: dict[str, dict[str, Any]] = {"ours": {}, "published": PUBLISHED, "weights": {"use": "weights"}}
COMPARED = ["ours", "published"]
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One training; lists hold one entry a round."""

    loop: str
    noise: str
    seed: int
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
        """Error of the last round's noise estimate; 1 if there was none."""
        estimate = self.fitted_noise[-1]
        return 1.0 if estimate is None else abs(estimate - self.true_noise)


@dataclass(frozen=True, slots=True)
class Bar:
    """What the results must reach."""

    what: str
    holds: Callable[[Sequence[Outcome]], bool]


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


def better_than_all_labels(outcomes: Sequence[Outcome]) -> bool:
    return median(outcomes, lambda o: o.test_accuracy[-1]) > median(outcomes, lambda o: o.test_accuracy[0])


ACCURATE = Bar("median test accuracy above training on all labels", better_than_all_labels)
BARS: dict[str, tuple[Bar, ...]] = {
    "symmetric:0.4": (
        Bar("median F1 >= 0.985", lambda oo: median(oo, lambda o: o.f1[-1]) >= 0.985),
        Bar("median noise error <= 0.03", lambda oo: median(oo, lambda o: o.noise_error) <= 0.03),
        ACCURATE,
    ),
    "symmetric:0.8": (
        Bar("median F1 >= 0.88", lambda oo: median(oo, lambda o: o.f1[-1]) >= 0.88),
        Bar("no seed ends more than 0.02 below its round 1", lambda oo: all(o.f1[-1] >= o.f1[0] - 0.02 for o in oo)),
        Bar("median noise error <= 0.10", lambda oo: median(oo, lambda o: o.noise_error) <= 0.10),
        ACCURATE,
    ),
    "pairflip:0.4": (
        Bar("median F1 >= 0.88", lambda oo: median(oo, lambda o: o.f1[-1]) >= 0.88),
        Bar("worst F1 >= 0.80", lambda oo: min(o.f1[-1] for o in oo) >= 0.80),
        Bar("median noise error <= 0.05", lambda oo: median(oo, lambda o: o.noise_error) <= 0.05),
        ACCURATE,
    ),
}


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def summary_row(noise: str, name: str, outcomes: Sequence[Outcome]) -> str:
    n_rounds = max(len(o.f1) for o in outcomes)
    rounds = ", ".join(
        f"{statistics.median(o.f1[min(r, len(o.f1) - 1)] for o in outcomes):.3f}" for r in range(n_rounds)
    )
    return row(
        (
            noise,
            name,
            spread([o.f1[-1] for o in outcomes]),
            f"{median(outcomes, lambda o: o.precision[-1]):.3f} / {median(outcomes, lambda o: o.recall[-1]):.3f}",
            rounds,
            # The published loop's last fit sees its members alone, so it estimates another quantity.
            f"{median(outcomes, lambda o: o.noise_error):.3f}" if name == "ours" else "",
            spread([o.test_accuracy[-1] for o in outcomes]),
        )
    )


def everything_row(noise: str, outcomes: Sequence[Outcome]) -> str:
    """Keeping everything: precision is the share of clean labels, recall is 1, and training is round 1's."""
    clean = [1 - o.true_noise for o in outcomes]
    return row(
        (
            noise,
            "keep everything",
            spread([2 * c / (1 + c) for c in clean]),
            f"{statistics.median(clean):.3f} / 1.000",
            "",
            "",
            spread([o.test_accuracy[0] for o in outcomes]),
        )
    )


def table(outcomes: Sequence[Outcome]) -> str:
    lines = [
        row(("noise", "loop", "F1", "precision / recall", "F1 after each round", "noise error", "test accuracy")),
        row(["---"] * 7),
    ]
    for noise in dict.fromkeys(o.noise for o in outcomes):
        for loop in LOOPS:
            chosen = [o for o in outcomes if (o.noise, o.loop) == (noise, loop)]
            if chosen:
                lines.append(summary_row(noise, loop, chosen))
        lines.append(everything_row(noise, [o for o in outcomes if (o.noise, o.loop) == (noise, "ours")]))
    return "\n".join(lines)


def verdicts(outcomes: Sequence[Outcome]) -> list[tuple[str, str, bool]]:
    rows = []
    for noise, bars in BARS.items():
        chosen = [o for o in outcomes if (o.noise, o.loop) == (noise, "ours")]
        rows += [(noise, bar.what, bar.holds(chosen)) for bar in bars if chosen]
    return rows


def provenance(arguments: argparse.Namespace) -> str:
    seeds = " ".join(map(str, arguments.seeds))
    libraries = ", ".join(f"{library.__name__} {library.__version__}" for library in (torch, np, scipy))
    machine = f"{multiprocessing.cpu_count()} CPU cores, Python {platform.python_version()}"
    loops = "" if arguments.loops == COMPARED else f" --loops {' '.join(arguments.loops)}"
    return f"`python -m benchmarks.digits --seeds {seeds}{loops}`, {machine}, {libraries}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--noise", nargs="+", default=list(NOISES))
    parser.add_argument("--loops", nargs="+", choices=list(LOOPS), default=COMPARED)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    jobs = [(loop, noise, seed) for seed in arguments.seeds for noise in arguments.noise for loop in arguments.loops]
    outcomes = []
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for outcome in pool.imap_unordered(train, jobs):
            f1 = " ".join(f"{v:.3f}" for v in outcome.f1)
            print(f"{outcome.noise} seed {outcome.seed} {outcome.loop}: F1 {f1} ({outcome.seconds:.0f} s)", flush=True)
            outcomes.append(outcome)
    outcomes.sort(key=lambda o: (arguments.noise.index(o.noise), o.seed, o.loop))
    reached = verdicts(outcomes)
    lines = [
        "# Digits",
        "",
        f"{provenance(arguments)}. Median (least to greatest) over {len(arguments.seeds)} seeds.",
        "",
        table(outcomes),
        "",
        *(f"- {noise}: {what}: {'reached' if holds else 'MISSED'}" for noise, what, holds in reached),
        "",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "digits.md").write_text("\n".join(lines))
    (arguments.out / "digits.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    print("\n" + "\n".join(lines))
    return 0 if all(holds for _, _, holds in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
