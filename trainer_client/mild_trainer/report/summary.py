"""A training in numbers: ``summary.json``, and the same as rows of a table.

A training's ``summary.json`` in words and rows, as the terminal, the report and the model card tell it.

The alarms (`mild_core.alarms`) of a training's rounds.
"""

import dataclasses
import io
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from mild_client.atomic_write import write_atomically
from mild_core import bitmap
from mild_core.alarms import find_alarms
from mild_trainer.training.history import History, RoundRecord
from mild_trainer.training.loop import validated
from mild_trainer.training.progress import counted

HEADINGS = (
    "round",
    "members",
    "kept",
    "precision",
    "recall",
    "F1",
    "noise estimated",
    "noise true",
    "test accuracy",
    "verdict",
)
"""Columns of the table of rounds."""


def rows(numbers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return one row a round, and one each for training on all labels, the finish, and the true clean set."""
    found = [
        (
            str(told["round"]),
            f"{told['members']:,}",
            f"{told['selected']:,}",
            *(number(told[name]) for name in ("precision", "recall", "f1", "estimated_noise", "true_noise")),
            number(told["test_accuracy"]),
            str(told["verdict"]),
        )
        for told in numbers["rounds"]
    ]
    n_samples, noise = numbers["dataset"]["num_samples"], numbers["noise"]["actual"]
    if held := _validation(numbers):
        n_samples -= held["num_samples"]
    truth = ("", "", "") if noise is None else (number(1 - noise), number(1.0), number(_f1(noise)))
    found.append(("all labels", f"{n_samples:,}", "", *truth, "", "", number(numbers["baseline"]["test_accuracy"]), ""))
    finish, oracle = numbers["finish"], numbers["oracle"]
    if finish is not None:
        found.append((finish["method"], f"{finish['n_kept']:,}", *[""] * 6, number(finish["test_accuracy"]), ""))
    if oracle is not None and noise is not None:
        n_clean = round((1 - noise) * n_samples)
        perfect = ("1.000",) * 3
        found.append(("true clean", f"{n_clean:,}", "", *perfect, "", "", number(oracle["test_accuracy"]), ""))
    return found


def planting(numbers: Mapping[str, Any]) -> str | None:
    """What became of the planted samples, in a sentence; None where there are none."""
    planted = numbers["planted"]
    if planted is None or not numbers["rounds"]:
        return None
    last = numbers["rounds"][-1]["round"]
    returned = f"; {planted['returned']:,} are in the set of round {last}, by their own labels" if last else ""
    broken = counted(planted["num_samples"], "label")
    return f"{broken} broken on purpose in round 0, whose set leaves their samples out{returned}."


def validation(numbers: Mapping[str, Any]) -> str | None:
    """How the rounds compare by the samples that were held out, in a sentence; None where nobody was."""
    held = _validation(numbers)
    if held is None or not numbers["rounds"]:
        return None
    course = ", ".join(number(told["validation_accuracy"]) for told in numbers["rounds"])
    who, error = counted(held["num_samples"], "held-out sample"), number(held["standard_error"])
    best, last = (numbers["rounds"][at]["validation_accuracy"] for at in (held["best_round"], -1))
    near = ", no more than a standard error above the last" if 0 < best - last <= held["standard_error"] else ""
    return (
        f"Accuracy on the given labels of {who}, round by round: {course} (standard error {error}); best in round "
        f"{held['best_round']}{near}."
    )


def alarming(numbers: Mapping[str, Any]) -> list[str]:
    """Every round's alarms, a sentence each."""
    return [f"Round {told['round']}: {said}." for told in numbers["rounds"] for said in told["alarms"]]


def number(value: float | None) -> str:
    """Three decimals, or a dash for what is not known."""
    return "-" if value is None else f"{value:.3f}"


def _validation(numbers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What is told of the samples held out; summaries of earlier versions tell nothing."""
    found: Mapping[str, Any] | None = numbers.get("validation")
    return found


def _f1(noise: float) -> float:
    """F1 of keeping everything: precision 1 - noise, recall 1."""
    return 2 * (1 - noise) / (2 - noise)


def alarms(rounds: Sequence[RoundRecord]) -> list[str]:
    """What is alarming after the last of `rounds`, a sentence each.

    Precision and recall are those against the truth, or else those that the run's audit measures; where neither is
    known they raise no alarm.
    """
    accuracies = {
        "test accuracy": [record.test_accuracy for record in rounds],
        "validation accuracy": validated(rounds),
    }
    return find_alarms(*_measured(rounds[-1]), accuracies)


def _measured(record: RoundRecord) -> tuple[float | None, float | None]:
    """Precision and recall of a round's set; None where nobody knows."""
    if record.agreement is not None:
        return record.agreement.precision, record.agreement.recall
    audited = record.summary.get("measured") or {}
    return audited.get("precision"), audited.get("recall")


def summarise(history: History) -> dict[str, Any]:
    """Return everything that ``summary.json`` holds, as JSON values."""
    data, settings = history.data, history.settings
    return {
        "settings": settings.as_json(),
        "versions": {
            "mild-selection": metadata.version("mild-selection"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "dataset": {
            "name": data.name,
            "num_samples": data.n_samples,
            "num_test": len(data.y_test),
            "num_classes": data.n_classes,
            "image": list(data.x_train.shape[1:]),
        },
        "noise": {"spec": settings.noise, "actual": history.true_noise},
        "verified": None
        if history.verified is None
        else {
            **dataclasses.asdict(history.verified),
            "what": "agreement of the given labels with networks that were trained on the other half of the samples",
        },
        "planted": None
        if history.planted is None
        else {
            "fraction": settings.plant,
            "how": settings.plant_how,
            "num_samples": history.n_planted,
            "returned": history.n_returned,
            "what": "labels broken on purpose in round 0, which leaves their samples out; those in the last set again",
        },
        "validation": None
        if not history.n_held_out
        else {
            "share": settings.validation,
            "num_samples": history.n_held_out,
            "patience": settings.patience,
            "best_round": history.best_round,
            "standard_error": history.validation_error,
            "what": "samples held out of all training: no set holds them, and their given labels compare the rounds",
        },
        "rounds": [
            {**_round(record, history.true_noise), "alarms": alarms(history.rounds[: i + 1])}
            for i, record in enumerate(history.rounds)
        ],
        "ended": history.ended,
        "baseline": {
            "test_accuracy": history.baseline,
            "what": "the same network and epochs on all labels, planted ones included, which is what round 0 trains on",
        },
        "finish": None
        if history.finished is None
        else {
            **dataclasses.asdict(history.finished),
            "ema": settings.ema,
            "what": "a fresh network trained after the last round; its weights are those of model.safetensors",
        },
        "passes": {
            **dataclasses.asdict(history.passes),
            "what": "samples sent through a network and learnt from, in the rounds and in the finish, planting and "
            "observing included; comparisons, checks and tests are left out",
        },
        "oracle": None
        if history.oracle is None
        else {
            "test_accuracy": history.oracle,
            "what": "the same network and epochs on the truly clean samples alone",
        },
    }


def _round(record: RoundRecord, true_noise: float | None) -> dict[str, Any]:
    truth = record.agreement
    return {
        "round": record.round,
        "members": record.n_members,
        "selected": record.n_selected,
        "precision": None if truth is None else truth.precision,
        "recall": None if truth is None else truth.recall,
        "f1": None if truth is None else truth.f1,
        "estimated_noise": record.estimated_noise,
        "true_noise": true_noise,
        "test_accuracy": record.test_accuracy,
        "validation_accuracy": record.validation_accuracy,
        "verdict": record.summary["verdict"],
        "overlap": record.overlap,
        "seconds": sum(epoch.seconds for epoch in record.epochs),
        "selection": dict(record.summary),
        "fit": None if record.fit is None else dataclasses.asdict(record.fit),
        "epochs": [{"epoch": epoch.epoch, **epoch.metrics(), "seconds": epoch.seconds} for epoch in record.epochs],
    }


def write(numbers: dict[str, Any], folder: Path) -> Path:
    """Write what `summarise` returned into `folder`, as ``summary.json``, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "summary.json"
    path.write_text(json.dumps(numbers, indent=2) + "\n")
    return path


def write_clean_set(history: History, folder: Path) -> Path | None:
    """Write the last round's set into `folder` as ``clean.npy``, and return its path; None where there was no round.

    The file holds the indices of the samples that were kept, ascending, as int64 of shape (n_selected,). Without a
    round there is no set, and none is left there that an earlier training may have written.
    """
    path = folder / "clean.npy"
    if not history.rounds:
        path.unlink(missing_ok=True)
        return None
    kept = bitmap.unpack(history.rounds[-1].selected, history.data.n_samples)
    content = io.BytesIO()
    np.save(content, np.flatnonzero(kept).astype(np.int64), allow_pickle=False)
    write_atomically(path, content.getvalue())
    return path


def table(numbers: dict[str, Any]) -> Table:
    """Return the rows as a table that fits a terminal of 80 columns; the verdicts are left to the report."""
    name, noise, settings = numbers["dataset"]["name"], numbers["noise"]["spec"], numbers["settings"]
    result = Table(
        title=f"{name}, noise {noise}, {settings['model']}, {settings['epochs']} epochs a round",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for heading in HEADINGS[:-1]:
        result.add_column(heading.replace(" ", "\n"), justify="left" if heading == "round" else "right", no_wrap=True)
    for i, row in enumerate(rows(numbers)):
        result.add_row(*row[:-1], end_section=i == len(numbers["rounds"]) - 1)
    return result
