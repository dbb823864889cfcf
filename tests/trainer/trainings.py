"""Trainings that are cut short or told whom to keep, and what has to be the same of two."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mild_client import (
    LocalSelector,
    SelectionOptions,
)
from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.results import Selection
from mild_core.selection import select
from mild_core.types import RoundBits
from mild_trainer import cli
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import EpochRecord, History, RoundRecord
from mild_trainer.training.progress import Reporter

Uninterrupted: TypeAlias = Callable[[TrainSettings], tuple[History, Path]]
"""What settings come to when nobody interrupts them, and the folder it lies in."""


class Killed(Exception):
    """Stands in for the end of the process."""


class KilledAfter(Reporter):
    """Ends the training when so many epochs, or rounds, are done."""

    def __init__(self, epochs: int = 0, rounds: int = 0) -> None:
        self.epochs, self.rounds = epochs, rounds

    def on_epoch_end(self, record: EpochRecord) -> None:
        self.epochs -= 1
        if self.epochs == 0:
            raise Killed

    def on_round_end(self, record: RoundRecord) -> None:
        self.rounds -= 1
        if self.rounds == 0:
            raise Killed


def selecting(n_kept: int) -> LocalSelector:
    """A backend that keeps the first `n_kept` samples, whatever the bits."""

    def chosen(rounds: Sequence[RoundBits], options: SelectionOptions, beside: Annotations | None) -> Selection:
        kept = bitmap.pack(np.arange(rounds[-1].n_samples) < n_kept)
        return replace(select(rounds, options, beside), bitmap=kept)

    return LocalSelector(select=chosen)


def by_itself(out: Path, n_samples: int, n_epochs: int) -> Path:
    """Train one round on digits with the command, which selects by itself; return `out`."""
    arguments = ["--limit", str(n_samples), "--epochs", str(n_epochs), "--rounds", "1", "--noise", "symmetric:0.4"]
    result = CliRunner().invoke(cli.app, ["train", *arguments, "--local", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def outcome(history: History) -> list[object]:
    """What has to be the same however a training got there."""
    return [
        (
            record.members.tobytes(),
            record.selected.tobytes(),
            record.overlap,
            record.agreement,
            dict(record.summary)["threshold"],
            [replace(epoch, seconds=0) for epoch in record.epochs],
        )
        for record in history.rounds
    ]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")
