"""CIFAR-10 with 80% symmetric noise: cross entropy, the published loop, ours and the true clean set, with their costs.

usage: python -m studies.headline --data-dir DIR [--seed 0] [--device auto]
       python -m studies.headline --data-dir DIR --device cpu --limit 5000 --model resnet8 --pixels 16 --share 0.5 \
           --batch-size 64 --lr 0.1
       python -m studies.headline --budget [--share 0.5]
       python -m studies.headline --data-dir DIR --noise cifar10n:worse --only ours --class-prior balanced --row FILE

The published loop is the preset ``paper-cifar10-sym80``, ours is ``fast-cifar10``; cross entropy and the true clean set
are trained with our settings for twice our epochs. Forward and backward passes are counted in samples, with those that
observe and plant. The second command is for a processor: fewer and smaller images, a small network, and ``--share`` of
both loops' epochs, so that their costs compare as in full; ``--n-test`` takes fewer test images. The third trains
nothing, and prints what the loops would cost. The fourth trains in one way only, by the selection alone, and writes one
row as JSON; with ``--seconds`` the published loop is shortened to take at most that long. The bars of accuracy are
those of the first command.
"""

import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.claims import Benchmark, Claim, Report, format_table
from benchmarks.on_gpu import claim_accuracy, claim_passes
from benchmarks.truth import auc, f1
from mild_core import bitmap
from mild_trainer import data as datasets
from mild_trainer import presets
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from mild_trainer.training import preparation
from mild_trainer.training.engine import ComputeCost
from mild_trainer.training.history import History
from mild_trainer.training.trainer import Trainer
from studies import headline_budget
from studies.images import shrink_images
from studies.trainings import RecordedTraining, record_training

MIN_EPOCHS = 8
"""Epochs of a stage, however much the published loop is shortened: fewer give no fit."""
NO_GPU = "No GPU was at hand: a processor ran this, which says what each costs and not how well it does in full."


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train.

    Attributes
    ----------
    name
        Name of the way.
    test_accuracy, best_accuracy
        Accuracy after the last epoch, and of the best epoch, chosen by the test set; None where it is not measured.
    passes, seconds
        Cost of the training.
    set, verdict
        Size, precision and recall of the set, and its verdict.
    f1, auc
        F1 of the set and AUC of the last scores, where samples are selected.
    whole
        Cost of the whole published protocol on its last set.
    """

    name: str
    test_accuracy: float
    passes: ComputeCost
    seconds: float
    set: str = ""
    whole: ComputeCost | None = None
    best_accuracy: float | None = None
    f1: float | None = None
    auc: float | None = None
    verdict: str = ""


def scale_epochs(epochs: int, share: float) -> int:
    return max(1, math.ceil(epochs * share))


def make_loop_settings(arguments: Namespace) -> tuple[TrainSettings, TrainSettings]:
    """Return the settings of the published loop and of ours."""
    common: dict[str, Any] = {
        "noise": arguments.noise,
        "seed": arguments.seed,
        "device": arguments.device,
        "limit": arguments.limit,
        "data_dir": Path(arguments.data_dir),
        "model": arguments.model or None,
    }
    published = presets.make_settings("paper-cifar10-sym80", **common)
    ours = presets.make_settings(
        "fast-cifar10",
        **common,
        batch_size=arguments.batch_size or None,
        lr=arguments.lr or None,
        class_prior=arguments.class_prior or None,
        finish="none" if arguments.only else None,
    )
    share = arguments.share
    published = replace(
        published,
        epochs=scale_epochs(published.epochs, share),
        first_epochs=scale_epochs(published.first_epochs, share),
    )
    ours = replace(ours, epochs=scale_epochs(ours.epochs, share), finish_epochs=scale_epochs(ours.finish_epochs, share))
    return published, ours


def shorten(published: TrainSettings, share: float) -> TrainSettings:
    """Return the published loop with a share of its epochs: shorter stages, and fewer if they came below `MIN_EPOCHS`.

    A share of 1 or more changes nothing.
    """
    total = published.first_epochs + (published.rounds - 1) * published.epochs
    least = min(MIN_EPOCHS, published.epochs)
    epochs = min(published.epochs, max(least, scale_epochs(published.epochs, share)))
    first = min(published.first_epochs, max(least, scale_epochs(published.first_epochs, share)))
    rounds = 1 + max(0, math.floor((share * total - first) / epochs))
    return replace(published, first_epochs=first, epochs=epochs, rounds=min(published.rounds, rounds))


def train_plainly(name: str, settings: TrainSettings, data: Dataset, mask: NDArray[np.bool_]) -> Row:
    """Train on some of the samples, for twice the epochs of a round, and select nothing."""
    started = time.perf_counter()
    trainer = Trainer(replace(settings, epochs=2 * settings.epochs, observe="members", plant=0.0), data)
    trainer.initialise_round(0)
    members = bitmap.pack(mask)
    records = [trainer.run_epoch(0, epoch, members)[0] for epoch in range(2 * settings.epochs)]
    accuracies = [record.test_accuracy or 0.0 for record in records]
    return Row(
        name,
        accuracies[-1],
        ComputeCost(sum(record.forward for record in records), sum(record.backward for record in records)),
        time.perf_counter() - started,
        f"{int(mask.sum()):,}",
        best_accuracy=max(accuracies),
    )


def describe_set(training: RecordedTraining) -> dict[str, Any]:
    """Return the fields of a row that say which samples were kept."""
    record, last, clean = training.history.set_round, training.selections[-1], training.clean
    kept = bitmap.unpack(record.selected, last.n_samples)
    n_right = int((kept & clean).sum())
    return {
        "set": f"{int(kept.sum()):,}, {n_right / max(kept.sum(), 1):.3f} / {n_right / max(clean.sum(), 1):.3f}",
        "f1": f1(kept, clean),
        "auc": auc(last.scores[last.scored], clean[last.scored]),
        "verdict": training.selections[record.round].verdict,
    }


def train_ours(ours: TrainSettings, data: Dataset) -> list[Row]:
    """Train our loop; return a row for the selection, and one for the finish if there is one."""
    started = time.perf_counter()
    training = record_training(ours, data)
    seconds, history, described = time.perf_counter() - started, training.history, describe_set(training)
    finished = history.finish_result
    rows = []
    if finished is not None:
        rows = [
            Row(f"ours, {finished.method}", finished.test_accuracy or 0.0, history.compute_cost, seconds, **described)
        ]
        seconds -= finished.seconds
    selecting = replace(history, finish_result=None).compute_cost
    accuracy = history.rounds[-1].test_accuracy or 0.0
    return [Row("ours, selection only", accuracy, selecting, seconds, **described), *rows]


def train_published(published: TrainSettings, data: Dataset, seconds: float) -> Row:
    """Train the published loop, shortened to so many seconds; 0 does not shorten it."""
    full = published
    if seconds:
        probe = Trainer(published, preparation.prepare_dataset(published, data))
        published = shorten(published, seconds / (probe.estimate_duration() or seconds))
    started = time.perf_counter()
    training = record_training(published, data)
    history = training.history
    name = f"published loop, {len(history.rounds)} of {full.rounds} stages"
    if published != full:
        n_epochs = sum(len(record.epochs) for record in history.rounds)
        name += f", {n_epochs} of {full.first_epochs + (full.rounds - 1) * full.epochs} epochs"
    return Row(
        name,
        history.rounds[-1].test_accuracy or 0.0,
        history.compute_cost,
        time.perf_counter() - started,
        whole=count_whole_protocol(published, history),
        **describe_set(training),
    )


def list_ways(arguments: Namespace, data: Dataset) -> Mapping[str, Callable[[], list[Row]]]:
    """List the ways to train by their names for ``--only``, in the order of the table."""
    published, ours = make_loop_settings(arguments)
    noisy = preparation.prepare_dataset(ours, data)
    assert noisy.clean is not None
    clean = noisy.clean
    return {
        "cross-entropy": lambda: [train_plainly("cross entropy, all labels", ours, noisy, np.ones_like(clean))],
        "true-set": lambda: [train_plainly("true clean set", ours, noisy, clean)],
        "ours": lambda: train_ours(ours, data),
        "published": lambda: [train_published(published, data, arguments.seconds)],
    }


def train_rows(arguments: Namespace, data: Dataset) -> list[Row]:
    """Train in all ways, or in that of ``--only``."""
    rows = []
    for name, train in list_ways(arguments, data).items():
        for row in train() if arguments.only in ("", name) else ():
            print(f"{row.name}: {row.test_accuracy:.4f}, {row.passes.describe()}, {row.seconds:.0f} s {row.set}")
            sys.stdout.flush()
            rows.append(row)
    return rows


def count_whole_protocol(published: TrainSettings, history: History) -> ComputeCost:
    """Count the passes of all stages; those that were left out since two sets agreed are taken to use the last set."""
    n_left = (published.rounds - len(history.rounds)) * published.epochs
    return history.compute_cost + ComputeCost.of_training(n_left * history.rounds[-1].n_selected)


def format_rows(rows: Sequence[Row], protocol: ComputeCost) -> list[str]:
    """Format the table, with each cost relative to that of the whole published protocol."""
    heads = ("training", "test accuracy", "forward", "backward", "of protocol", "set, precision / recall", "seconds")
    cells = [
        (
            *(row.name, f"{row.test_accuracy:.3f}", f"{row.passes.forward:,}", f"{row.passes.backward:,}"),
            *(f"{row.passes.total / protocol.total:.2f}", row.set, f"{row.seconds:,.0f}"),
        )
        for row in rows
    ]
    return format_table(heads, cells)


def write_row(arguments: Namespace, data: Dataset, row: Row) -> None:
    """Write a row as JSON, with the passes of a whole published protocol whose sets are the true ones."""
    published, ours = make_loop_settings(arguments)
    clean = preparation.prepare_dataset(ours, data).clean
    assert clean is not None
    later = [int(clean.sum())] * (published.rounds - 1)
    protocol = headline_budget.count_passes(published, len(clean), later).total
    command = STUDY.format_command(Namespace(**{**vars(arguments), "data_dir": "data", "row": ""}))
    values = {**asdict(row), "passes": row.passes.total, "protocol": protocol, "command": command}
    del values["whole"]
    Path(arguments.row).write_text(json.dumps(values, indent=1) + "\n")


def measure(arguments: Namespace) -> Report | int:
    if arguments.budget:
        print("\n".join(headline_budget.format_budget(*make_loop_settings(arguments))))
        return 0
    if not arguments.data_dir:
        raise SystemExit("give --data-dir, or --budget to train nothing")
    if bool(arguments.only) != bool(arguments.row):
        raise SystemExit("--only and --row go together; give both, or none for the table of all ways")
    data = shrink_images(datasets.load("cifar10", Path(arguments.data_dir)), arguments.pixels)
    n_test = arguments.n_test or None
    data = replace(data, x_test=data.x_test[:n_test], y_test=data.y_test[:n_test])
    rows = train_rows(arguments, data)
    if arguments.row:
        write_row(arguments, data, rows[0])
        return 0
    (selection, finished, _), protocol = rows[-3:], rows[-1].whole
    assert protocol is not None
    claims = [claim_passes(selection.passes.total / protocol.total)]
    text = [
        *format_rows(rows, protocol),
        "",
        "The published loop ended once two sets agreed. The whole protocol, all stages on the last set, would take "
        f"{protocol.describe()}; the column compares with those.",
    ]
    if arguments.limit or arguments.seconds or arguments.pixels != 32 or arguments.share != 1:
        text += ["", "The bars of accuracy are for all 50,000 images at their full size and are not judged here."]
    else:
        claims += [
            claim_accuracy(selection.test_accuracy),
            Claim("accuracy after the finish", finished.test_accuracy, "above", 0.9, "{:.3f}"),
        ]
    device = f"On {torch.cuda.get_device_name()}." if torch.cuda.is_available() else NO_GPU
    about = f"{device} One run; test samples are not counted among the passes."
    return Report(f"Headline: CIFAR-10, {arguments.noise.replace(':', ' ')}", claims, about, text)


STUDY = Benchmark(
    "headline",
    "benchmarks/README.md#on-a-gpu",
    measure,
    options={
        "data_dir": "",
        "budget": False,
        "noise": "symmetric:0.8",
        "only": "",
        "row": "",
        "class_prior": "",
        "seconds": 0.0,
        "seed": 0,
        "device": "auto",
        "limit": 0,
        "model": "",
        "n_test": 0,
        "pixels": 32,
        "share": 1.0,
        "batch_size": 0,
        "lr": 0.0,
    },
    packages=("torch", "numpy"),
    choices={"only": ("cross-entropy", "true-set", "ours", "published"), "pixels": (16, 32)},
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
