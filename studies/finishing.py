"""What to do after the selection: each finisher beside plain retraining, at the same forward and backward passes.

One selection per case and seed, whose set all finishers share: digits (1,437 images) with the trainer's defaults, and
5,000 CIFAR-10 images, ResNet-8, one round of 12 epochs, averaged down to 16 x 16 pixels so that a processor is done in
minutes (``--pixels 32`` leaves them as they are). Every finisher then spends the same number of passes, forward and
backward added up, on fresh weights. Writes ``finishing.json``, too. A selection takes longer than what follows it, so
``--cache`` keeps the sets in a folder.
"""

import itertools
import json
import statistics
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.claims import Benchmark, Report, format_table
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


def outcomes(case: str, seed: int, options: Namespace) -> list[Outcome]:
    data_dir = Path(options.data_dir) if options.data_dir else None
    plain = settings_of(case, seed, data_dir)
    read = small(preparation.read_dataset(plain), options.pixels)
    name = f"{case.replace(':', '_')}_{options.pixels}_s{seed}.npy"
    path = Path(options.cache) / name if options.cache else None
    kept = selected(plain, read, path)
    data = preparation.prepare_dataset(plain, read)
    assert data.clean is not None
    found = SetMetrics.compare(bitmap.unpack(kept, data.n_samples), data.clean)
    done = []
    budgets = BUDGETS[case]
    for budget, variant in itertools.product(budgets, options.variants):
        settings = settings_of(case, seed, data_dir, finish_epochs=budget, **VARIANTS[variant])
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


def table(found: Sequence[Outcome]) -> list[str]:
    heads = ("case", "epochs", "finish", "test accuracy", "wins over plain", "forward", "backward", "kept")
    rows = []
    for case, budget in dict.fromkeys((o.case, o.budget) for o in found):
        here = [o for o in found if (o.case, o.budget) == (case, budget)]
        plain = {o.seed: o.test_accuracy for o in here if o.variant == PLAIN}
        for variant in dict.fromkeys(o.variant for o in here):
            chosen = [o for o in here if o.variant == variant]
            reached = [o.test_accuracy for o in chosen]
            deviation = statistics.stdev(reached) if len(reached) > 1 else 0.0
            wins = sum(o.test_accuracy > plain[o.seed] for o in chosen)
            rows.append(
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
    return format_table(heads, rows)


def measure(options: Namespace) -> Report:
    torch.set_num_threads(1)
    found = [outcome for seed in options.seeds for case in options.case for outcome in outcomes(case, seed, options)]
    cases, variants = list(BUDGETS), list(VARIANTS)
    found.sort(key=lambda o: (cases.index(o.case), o.budget, variants.index(o.variant), o.seed))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "finishing.json").write_text(json.dumps([asdict(o) for o in found], indent=1) + "\n")
    about = (
        f"Mean ± standard deviation over {len(options.seeds)} seeds; epochs: the budget. CIFAR-10: 5,000 images of "
        f"{options.pixels} x {options.pixels} pixels."
    )
    return Report("Finishing", [], about, table(found))


STUDY = Benchmark(
    "finishing",
    "docs/trainer.md#after-the-last-round",
    measure,
    options={
        "data_dir": "",
        "seeds": tuple(range(5)),
        "case": tuple(BUDGETS),
        "variants": (PLAIN, "mixmatch", "contrastive"),
        "pixels": 16,
        "cache": "",
    },
    packages=("torch", "numpy"),
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
