"""Trainings in separate processes that are killed with signal 9 and resumed until they end."""

import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeAlias

import torch

# Imported here, so that a fork server that has preloaded this module has loaded all that a training needs.
from mild_trainer import cli
from mild_trainer.data import load
from mild_trainer.training import loop  # noqa: F401

torch.use_deterministic_algorithms(False)  # the default; loads modules early
load("digits")  # the same

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["benchmarks.killing"])
"""Starts processes that have torch and the trainer loaded: importing them takes longer than a small training."""


Watch: TypeAlias = Callable[[Path, Callable[[float], bool]], None]
"""Gets the folder of a training, and a function that waits so many seconds and returns whether it has ended."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Result of a training: its sets by round as base64, its last network, and how often it was killed."""

    sets: Sequence[str]
    model: bytes
    n_kills: int


def train_with_kills(arguments: Sequence[str], out: Path, watch: Watch) -> TrainingResult:
    """Train to the end, with kills in between.

    Parameters
    ----------
    arguments
        Arguments of ``mild train`` except ``--out`` and ``--resume``.
    out
        Folder of the training; one that is killed before its first checkpoint starts again in it.
    watch
        Called for every process; one that runs when `watch` returns is killed.
    """
    n_kills = 0
    while True:
        resume = (out / "checkpoint.pt").exists()
        if not resume:
            shutil.rmtree(out, ignore_errors=True)
        process = FORKS.Process(target=run_trainer, args=([*arguments, "--out", str(out)], resume))
        process.start()

        def ends_within(seconds: float, process: BaseProcess = process) -> bool:
            process.join(seconds)
            return process.exitcode is not None

        watch(out, ends_within)
        if process.exitcode is None:
            process.kill()
            process.join()
            n_kills += 1
            continue
        if process.exitcode:
            raise RuntimeError(f"a training ended with {process.exitcode}: {' '.join(arguments)} in {out}")
        return _read_result(out, n_kills)


def run_trainer(arguments: Sequence[str], resume: bool = False) -> None:
    """Run ``mild train`` with these arguments, without output."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        cli.app(["train", *arguments, *(["--resume"] if resume else [])], standalone_mode=False)


def _read_result(out: Path, n_kills: int) -> TrainingResult:
    checkpoint = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
    sets = [record["selected"] for record in checkpoint["rounds"]]
    return TrainingResult(sets, (out / "model.safetensors").read_bytes(), n_kills)
