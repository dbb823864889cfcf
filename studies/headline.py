"""CIFAR-10 with 80% symmetric noise: cross entropy, the published loop, ours and the true clean set, at counted cost.

usage: python -m studies.headline --data-dir DIR [--seed 0] [--device auto]
       python -m studies.headline --data-dir DIR --device cpu --limit 5000 --model resnet8 --pixels 16 --share 0.5 \
           --batch-size 64 --lr 0.1
       python -m studies.headline --budget [--share 0.5]

The published loop is the preset ``paper-cifar10-sym80``, ours is ``fast-cifar10``; cross entropy and the true clean set
are trained with our settings for twice our epochs. Forward and backward passes are counted in samples, with those that
observe and plant. The second command is for a processor: fewer and smaller images, a small network, and ``--share`` of
both loops' epochs, so that their costs compare as in full. The third trains nothing, and prints what the loops would
cost. The bars are those of the full command: accuracy above 0.791 by the selection alone, in at most a fifth of the
published loop's passes, and above 0.9 after the finish; exits with 1 if one is missed. Writes ``results/headline.md``.
"""

import argparse
import math
import multiprocessing
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mild_core import bitmap
from mild_trainer import data as datasets
from mild_trainer import presets
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from mild_trainer.training import preparation
from mild_trainer.training.compute_cost import ComputeCost
from mild_trainer.training.history import History
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.trainer import Trainer
from studies import headline_budget
from studies.images import small

NOISE = "symmetric:0.8"
NO_GPU = "No GPU was at hand: a processor ran this, which says what each costs and not how well it does in full."
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train."""

    name: str
    test_accuracy: float
    passes: ComputeCost
    seconds: float
    set: str = ""
    whole: ComputeCost | None = None


def shared(epochs: int, share: float) -> int:
    return max(1, math.ceil(epochs * share))


def loops(arguments: argparse.Namespace) -> tuple[TrainSettings, TrainSettings]:
    """The published loop's settings and ours."""
    common: dict[str, Any] = {
        "noise": NOISE,
        "seed": arguments.seed,
        "device": arguments.device,
        "limit": arguments.limit,
        "data_dir": arguments.data_dir,
    }
    published = presets.make_settings("paper-cifar10-sym80", **common, model=arguments.model)
    ours = presets.make_settings(
        "fast-cifar10", **common, model=arguments.model, batch_size=arguments.batch_size, lr=arguments.lr
    )
    share = arguments.share
    published = replace(
        published, epochs=shared(published.epochs, share), first_epochs=shared(published.first_epochs, share)
    )
    ours = replace(ours, epochs=shared(ours.epochs, share), finish_epochs=shared(ours.finish_epochs, share))
    return published, ours


def told(history: History) -> str:
    found = history.rounds[-1].agreement
    assert found is not None
    return f"{history.rounds[-1].n_selected:,}, {found.precision:.3f} / {found.recall:.3f}"


def rows(arguments: argparse.Namespace, read: Dataset) -> list[Row]:
    published, ours = loops(arguments)
    data = preparation.prepare_dataset(ours, read)
    assert data.clean is not None
    done = []

    def add(row: Row) -> None:
        print(
            f"{row.name}: {row.test_accuracy:.4f}, {row.passes.describe()}, {row.seconds:.0f} s {row.set}", flush=True
        )
        done.append(row)

    long = replace(ours, epochs=2 * ours.epochs)
    for name, mask in (("cross entropy, all labels", np.ones_like(data.clean)), ("true clean set", data.clean)):
        started = time.perf_counter()
        accuracy = Trainer(long, data).train_comparison_network(bitmap.pack(mask))
        passes = ComputeCost.of_training(long.epochs * int(mask.sum()))
        add(Row(name, accuracy or 0.0, passes, time.perf_counter() - started, f"{int(mask.sum()):,}"))

    started = time.perf_counter()
    history = run_rounds(ours, data=read)
    finished = history.finish_result
    assert finished is not None
    selecting = replace(history, finish_result=None).compute_cost
    seconds = time.perf_counter() - started
    add(
        Row(
            "ours, selection only",
            history.rounds[-1].test_accuracy or 0.0,
            selecting,
            seconds - finished.seconds,
            told(history),
        )
    )
    add(Row(f"ours, {finished.method}", finished.test_accuracy or 0.0, history.compute_cost, seconds, told(history)))

    started = time.perf_counter()
    history = run_rounds(published, data=read)
    name = f"published loop, {len(history.rounds)} of {published.rounds} stages"
    accuracy = history.rounds[-1].test_accuracy or 0.0
    seconds = time.perf_counter() - started
    add(Row(name, accuracy, history.compute_cost, seconds, told(history), whole_protocol(published, history)))
    return done


def whole_protocol(published: TrainSettings, history: History) -> ComputeCost:
    """All stages' passes: those left out since two sets agreed would have been trained on the last of them."""
    n_left = (published.rounds - len(history.rounds)) * published.epochs
    return history.compute_cost + ComputeCost.of_training(n_left * history.rounds[-1].n_selected)


def table(found: Sequence[Row]) -> list[str]:
    most = protocol(found).total
    lines = [
        "| training | test accuracy | forward | backward | of protocol | set, precision / recall | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {r.name} | {r.test_accuracy:.3f} | {r.passes.forward:,} | {r.passes.backward:,} | "
        f"{r.passes.total / most:.2f} | {r.set} | {r.seconds:,.0f} |"
        for r in found
    ]


def protocol(found: Sequence[Row]) -> ComputeCost:
    """What the whole published protocol takes."""
    whole = found[-1].whole
    assert whole is not None
    return whole


def bars(found: Sequence[Row]) -> list[tuple[str, bool]]:
    selection, finished, _ = found[-3:]
    most = headline_budget.SHARE * protocol(found).total
    return [
        ("accuracy above 0.791 by the selection alone", selection.test_accuracy > 0.791),
        ("at most a fifth of the published protocol's passes", selection.passes.total <= most),
        ("accuracy above 0.9 after the finish", finished.test_accuracy > 0.9),
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="what to train on; --budget does without")
    parser.add_argument("--budget", action="store_true", help="print what the loops would cost, and train nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--model")
    parser.add_argument("--pixels", type=int, choices=(16, 32), default=32)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    if arguments.data_dir is None and not arguments.budget:
        parser.error("give --data-dir, or --budget to train nothing")
    return arguments


def command(arguments: argparse.Namespace) -> str:
    said = ["python -m studies.headline --data-dir data"]
    plain = vars(parse(["--data-dir", "data"]))
    for name, value in vars(arguments).items():
        if name not in ("data_dir", "out") and value != plain[name]:
            said.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(said)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.budget:
        print("\n".join(headline_budget.table(*loops(arguments))))
        return 0
    full = not arguments.limit and arguments.pixels == 32 and arguments.share == 1
    found = rows(arguments, small(datasets.load("cifar10", arguments.data_dir), arguments.pixels))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    machine = f"{multiprocessing.cpu_count()} shared CPU cores, {device}, Python {platform.python_version()}"
    reached = bars(found)
    lines = [
        "# Headline: CIFAR-10, symmetric 0.8",
        "",
        f"`{command(arguments)}`, {machine}, torch {torch.__version__}, numpy {np.__version__}. One run; test samples "
        "are not counted among the passes.",
        "",
        *([] if torch.cuda.is_available() else [NO_GPU, ""]),
        *table(found),
        "",
        "The published loop ended once two sets agreed. The whole protocol, all stages on the last set, would take "
        f"{protocol(found).describe()}; the column compares with those.",
        "",
    ]
    if full:
        lines += [*(f"- {what}: {'reached' if holds else 'MISSED'}" for what, holds in reached), ""]
    else:
        lines += [
            f"- {reached[1][0]}: {'reached' if reached[1][1] else 'MISSED'}",
            "- the bars of accuracy are for all 50,000 images at their full size and are not judged here",
            "",
        ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "headline.md").write_text("\n".join(lines))
    print("\n" + "\n".join(lines))
    return 0 if all(holds for _, holds in (reached if full else reached[1:2])) else 1


if __name__ == "__main__":
    sys.exit(main())
