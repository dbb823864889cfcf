"""What to do after the selection: each finisher beside plain retraining, at the same forward and backward passes.

usage: python -m studies.finishing [--data-dir DIR] [--seeds 0 1 …] [--case digits:symmetric:0.4 …] [--cache DIR]

One selection per case and seed, whose set all finishers share: digits (1,437 images) with the trainer's defaults, and
5,000 CIFAR-10 images, ResNet-8, one round of 12 epochs, averaged down to 16 x 16 pixels so that a processor is done in
minutes (``--pixels 32`` leaves them as they are). Every finisher then spends the same number of passes, forward
and backward added up, on fresh weights. Writes ``results/finishing.json`` and ``results/finishing.md``. A selection
takes longer than what follows it, so `--cache` keeps the sets.
"""

import argparse
import itertools
import json
import multiprocessing
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from mild_trainer.training import preparation
from mild_trainer.training.history import SetMetrics
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.trainer import Trainer
from studies.images import small

SHARED: dict[str, dict[str, Any]] = {
    "digits": {"rounds": 2},
    "cifar10": {
        "limit": 5000,
        "model": "resnet8",
        "epochs": 12,
        "rounds": 1,
        "batch_size": 64,
        "threads": 1,
    },
}
BUDGETS: dict[str, tuple[int, ...]] = {
    "digits:symmetric:0.4": (25,),
    "digits:symmetric:0.8": (25, 60),
    "cifar10:symmetric:0.4": (10,),
}
"""Epochs on all samples that a finish may cost, of each case."""
PLAIN = "supervised"
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {"finish": "supervised"},
    "supervised, EMA": {"finish": "supervised", "ema": 0.999},
    "mixmatch": {"finish": "mixmatch"},
    "mixmatch, EMA": {"finish": "mixmatch", "ema": 0.999},
    "contrastive": {"finish": "contrastive"},
}
COMPARED = [PLAIN, "mixmatch", "contrastive"]
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finish."""

    case: str
    budget: int
    seed: int
    variant: str
    n_kept: int
    precision: float
    recall: float
    test_accuracy: float
    forward: int
    backward: int
    seconds: float


def settings_of(case: str, seed: int, data_dir: Path | None, **given: Any) -> TrainSettings:
    name, _, noise = case.partition(":")
    shared = SHARED[name]
    return TrainSettings.for_dataset(
        name,  # type: ignore[arg-type]  # a name of BUDGETS
        noise=noise,
        seed=seed,
        data_dir=data_dir,
        device="cpu",
        **shared,
        **given,
    )


def selected(settings: TrainSettings, read: Dataset, path: Path | None) -> Bitmap:
    """The clean set, trained for unless it is cached."""
    if path is not None and path.exists():
        return np.asarray(np.load(path), dtype=np.uint8)
    few = replace(read, x_test=read.x_test[:100], y_test=read.y_test[:100])  # nobody reads these epochs' accuracies
    chosen = run_rounds(settings, data=few).rounds[-1].selected
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, chosen)
    return chosen


def outcomes(case: str, seed: int, arguments: argparse.Namespace) -> list[Outcome]:
    plain = settings_of(case, seed, arguments.data_dir)
    read = small(preparation.read_dataset(plain), arguments.pixels)
    name = f"{case.replace(':', '_')}_{arguments.pixels}_s{seed}.npy"
    path = None if arguments.cache is None else arguments.cache / name
    kept = selected(plain, read, path)
    data = preparation.prepare_dataset(plain, read)
    assert data.clean is not None
    found = SetMetrics.compare(bitmap.unpack(kept, data.n_samples), data.clean)
    done = []
    budgets = BUDGETS[case]
    for budget, variant in itertools.product(budgets, arguments.variants):
        settings = settings_of(case, seed, arguments.data_dir, finish_epochs=budget, **VARIANTS[variant])
        finished = Trainer(settings, data).run_finish(kept)
        outcome = Outcome(
            case=case,
            budget=budget,
            seed=seed,
            variant=variant,
            n_kept=finished.n_kept,
            precision=found.precision,
            recall=found.recall,
            test_accuracy=finished.test_accuracy or 0.0,
            forward=finished.passes.forward,
            backward=finished.passes.backward,
            seconds=finished.seconds,
        )
        print(
            f"{case} {budget} epochs, seed {seed} {variant}: {outcome.test_accuracy:.4f} ({outcome.seconds:.0f} s)",
            flush=True,
        )
        done.append(outcome)
    return done


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def table(found: Sequence[Outcome]) -> list[str]:
    heads = ("case", "epochs", "finish", "test accuracy", "wins over plain", "forward", "backward", "kept")
    lines = [row(heads), row(["---"] * len(heads))]
    for case, budget in dict.fromkeys((o.case, o.budget) for o in found):
        here = [o for o in found if (o.case, o.budget) == (case, budget)]
        plain = {o.seed: o.test_accuracy for o in here if o.variant == PLAIN}
        for variant in dict.fromkeys(o.variant for o in here):
            chosen = [o for o in here if o.variant == variant]
            reached = [o.test_accuracy for o in chosen]
            deviation = statistics.stdev(reached) if len(reached) > 1 else 0.0
            wins = sum(o.test_accuracy > plain[o.seed] for o in chosen)
            lines.append(
                row(
                    (
                        case,
                        str(budget),
                        variant,
                        f"{statistics.mean(reached):.3f} ± {deviation:.3f}",
                        "" if variant == PLAIN else f"{wins} of {len(chosen)}",
                        f"{statistics.mean(o.forward for o in chosen):,.0f}",
                        f"{statistics.mean(o.backward for o in chosen):,.0f}",
                        f"{statistics.mean(o.n_kept for o in chosen):,.0f}",
                    )
                )
            )
    return lines


def provenance(arguments: argparse.Namespace) -> str:
    seeds = " ".join(map(str, arguments.seeds))
    machine = f"{multiprocessing.cpu_count()} shared CPU cores, Python {platform.python_version()}"
    data_dir = "" if arguments.data_dir is None else " --data-dir data"
    pixels = "" if arguments.pixels == 16 else f" --pixels {arguments.pixels}"
    libraries = f"torch {torch.__version__}, numpy {np.__version__}"
    return f"`python -m studies.finishing --seeds {seeds}{data_dir}{pixels}`, {machine}, {libraries}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--case", nargs="+", choices=list(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=COMPARED)
    parser.add_argument("--pixels", type=int, choices=(16, 32), default=16)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    torch.set_num_threads(1)
    found: list[Outcome] = []
    # Seeds first, so that what is written after each is even over the cases.
    for seed in arguments.seeds:
        for case in arguments.case:
            found += outcomes(case, seed, arguments)
        lines = write(found, arguments)
    print("\n" + "\n".join(lines))
    return 0


def write(found: Sequence[Outcome], arguments: argparse.Namespace) -> list[str]:
    """Write what there is so far, and return the page's lines."""
    cases, variants = list(BUDGETS), list(VARIANTS)
    ordered = sorted(found, key=lambda o: (cases.index(o.case), o.budget, variants.index(o.variant), o.seed))
    n_seeds = len({o.seed for o in found})
    lines = [
        "# Finishing",
        "",
        f"{provenance(arguments)}. Mean ± standard deviation over {n_seeds} seeds; epochs: the budget. CIFAR-10: 5,000 "
        f"images of {arguments.pixels} x {arguments.pixels} pixels.",
        "",
        *table(ordered),
        "",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "finishing.md").write_text("\n".join(lines))
    (arguments.out / "finishing.json").write_text(json.dumps([asdict(o) for o in ordered], indent=1) + "\n")
    return lines


if __name__ == "__main__":
    sys.exit(main())
