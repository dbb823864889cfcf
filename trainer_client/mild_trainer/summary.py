"""A training in numbers: ``summary.json``, and the same as rows of a table."""

import dataclasses
import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from mild_trainer.alarms import alarms
from mild_trainer.history import History, RoundRecord
from mild_trainer.told import HEADINGS, rows


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
