"""CIFAR-10 with 80% symmetric noise: cross entropy, the published loop, ours and the true clean set, at counted cost.

usage: python -m studies.headline --data-dir DIR [--seed 0] [--device auto]
       python -m studies.headline --data-dir DIR --device cpu --limit 5000 --model resnet8 --pixels 16 --share 0.5 \
           --batch-size 64 --lr 0.1
       python -m studies.headline --budget [--share 0.5]
       python -m studies.headline --data-dir DIR --noise cifar10n:worse --only ours --class-prior balanced --row FILE

The published loop is the preset ``paper-cifar10-sym80``, ours is ``fast-cifar10``; cross entropy and the true clean set
are trained with our settings for twice our epochs. Forward and backward passes are counted in samples, with those that
observe and plant. The second command is for a processor: fewer and smaller images, a small network, and ``--share`` of
both loops' epochs, so that their costs compare as in full. The third trains nothing, and prints what the loops would
cost. The fourth trains in one way only, by the selection alone, and writes one row as JSON; with ``--seconds`` the
published loop is shortened to what takes at most as long. The bars are those of the first command: accuracy above 0.791
by the selection alone, in at most a fifth of the published loop's passes, and above 0.9 after the finish; exits with 1
if one is missed. Writes ``results/headline.md``.
"""

import argparse
import json
import math
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.truth import auc, f1
from mild_core import bitmap
from mild_trainer import data as datasets
from mild_trainer import presets
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from mild_trainer.training import preparation
from mild_trainer.training.compute_cost import ComputeCost
from mild_trainer.training.history import History
from mild_trainer.training.trainer import Trainer
from studies import headline_budget
from studies.images import small
from studies.trainings import RecordedTraining, record_training

NOISE = "symmetric:0.8"
MIN_EPOCHS = 8
"""Of a stage, however much the published loop is shortened: fewer give no fit."""
NO_GPU = "No GPU was at hand: a processor ran this, which says what each costs and not how well it does in full."
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One way to train.

    Attributes
    ----------
    name
        Of the way.
    test_accuracy, best_accuracy
        After the last epoch, and the best of all epochs, which is chosen by the test set; None where it is not asked.
    passes, seconds
        What it cost.
    set, verdict
        Size, precision and recall of the set, and its verdict.
    f1, auc
        Of the set, and of the last scores, where samples are selected.
    whole
        What the whole published protocol would cost on its last set.
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


def shared(epochs: int, share: float) -> int:
    return max(1, math.ceil(epochs * share))


def loops(arguments: argparse.Namespace) -> tuple[TrainSettings, TrainSettings]:
    """The published loop's settings and ours."""
    common: dict[str, Any] = {
        "noise": arguments.noise,
        "seed": arguments.seed,
        "device": arguments.device,
        "limit": arguments.limit,
        "data_dir": arguments.data_dir,
    }
    published = presets.make_settings("paper-cifar10-sym80", **common, model=arguments.model)
    ours = presets.make_settings(
        "fast-cifar10",
        **common,
        model=arguments.model,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        class_prior=arguments.class_prior,
        finish="none" if arguments.only else None,
    )
    share = arguments.share
    published = replace(
        published, epochs=shared(published.epochs, share), first_epochs=shared(published.first_epochs, share)
    )
    ours = replace(ours, epochs=shared(ours.epochs, share), finish_epochs=shared(ours.finish_epochs, share))
    return published, ours


def shorten(published: TrainSettings, share: float) -> TrainSettings:
    """Return the published loop with a share of its epochs: shorter stages, and fewer if they came below `MIN_EPOCHS`.

    A share of 1 or more changes nothing.
    """
    total = published.first_epochs + (published.rounds - 1) * published.epochs
    least = min(MIN_EPOCHS, published.epochs)
    epochs = min(published.epochs, max(least, shared(published.epochs, share)))
    first = min(published.first_epochs, max(least, shared(published.first_epochs, share)))
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


def train_ours(ours: TrainSettings, read: Dataset) -> list[Row]:
    """Train our loop; the second row is of the finish, if there is one."""
    started = time.perf_counter()
    training = record_training(ours, read)
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


def train_published(published: TrainSettings, read: Dataset, seconds: float) -> Row:
    """Train the published loop; 0 `seconds` shorten nothing."""
    full = published
    if seconds:
        probe = Trainer(published, preparation.prepare_dataset(published, read))
        published = shorten(published, seconds / (probe.estimate_duration() or seconds))
    started = time.perf_counter()
    training = record_training(published, read)
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
        whole=whole_protocol(published, history),
        **describe_set(training),
    )


def ways(arguments: argparse.Namespace, read: Dataset) -> Mapping[str, Callable[[], list[Row]]]:
    """Ways to train, by their names for ``--only``, in the order of the table."""
    published, ours = loops(arguments)
    data = preparation.prepare_dataset(ours, read)
    assert data.clean is not None
    clean = data.clean
    return {
        "cross-entropy": lambda: [train_plainly("cross entropy, all labels", ours, data, np.ones_like(clean))],
        "true-set": lambda: [train_plainly("true clean set", ours, data, clean)],
        "ours": lambda: train_ours(ours, read),
        "published": lambda: [train_published(published, read, arguments.seconds)],
    }


def rows(arguments: argparse.Namespace, read: Dataset) -> list[Row]:
    done = []
    for name, way in ways(arguments, read).items():
        for row in way() if arguments.only in (None, name) else ():
            print(f"{row.name}: {row.test_accuracy:.4f}, {row.passes.describe()}, {row.seconds:.0f} s {row.set}")
            sys.stdout.flush()
            done.append(row)
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


def write_row(arguments: argparse.Namespace, read: Dataset, row: Row) -> int:
    """Write a row as JSON, with the passes of a whole published protocol whose sets are the truth."""
    published, ours = loops(arguments)
    clean = preparation.prepare_dataset(ours, read).clean
    assert clean is not None
    later = [int(clean.sum())] * (published.rounds - 1)
    protocol = headline_budget.selecting(published, len(clean), later).total
    values = {**asdict(row), "passes": row.passes.total, "protocol": protocol, "command": command(arguments)}
    del values["whole"]
    arguments.row.write_text(json.dumps(values, indent=1) + "\n")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="what to train on; --budget does without")
    parser.add_argument("--budget", action="store_true", help="print what the loops would cost, and train nothing")
    parser.add_argument("--noise", default=NOISE)
    parser.add_argument("--only", choices=("cross-entropy", "true-set", "ours", "published"))
    parser.add_argument("--row", type=Path, help="file for the row of --only")
    parser.add_argument("--class-prior", help="of our loop")
    parser.add_argument("--seconds", type=float, default=0.0, help="shorten the published loop to these; 0: do not")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--model")
    parser.add_argument("--n-test", type=int, help="take so many test images")
    parser.add_argument("--pixels", type=int, choices=(16, 32), default=32)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    if arguments.data_dir is None and not arguments.budget:
        parser.error("give --data-dir, or --budget to train nothing")
    if (arguments.only is None) != (arguments.row is None):
        parser.error("--only and --row go together; give both, or none for the table of all ways")
    return arguments


def command(arguments: argparse.Namespace) -> str:
    said = ["python -m studies.headline --data-dir data"]
    plain = vars(parse(["--data-dir", "data"]))
    for name, value in vars(arguments).items():
        if name not in ("data_dir", "out", "row") and value != plain[name]:
            said.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(said)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.budget:
        print("\n".join(headline_budget.table(*loops(arguments))))
        return 0
    read = small(datasets.load("cifar10", arguments.data_dir), arguments.pixels)
    read = replace(read, x_test=read.x_test[: arguments.n_test], y_test=read.y_test[: arguments.n_test])
    found = rows(arguments, read)
    if arguments.row is not None:
        return write_row(arguments, read, found[0])
    full = not (arguments.limit or arguments.seconds) and arguments.pixels == 32 and arguments.share == 1
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    machine = f"{multiprocessing.cpu_count()} shared CPU cores, {device}, Python {platform.python_version()}"
    reached = bars(found)
    lines = [
        f"# Headline: CIFAR-10, {arguments.noise.replace(':', ' ')}",
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
