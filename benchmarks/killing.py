"""A training in a process of its own that is killed with signal 9, and goes on, until it gets to its end."""

import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

# Loaded here, so that a server of forks that has this module preloaded has all that a training needs.
from mild_trainer import cli
from mild_trainer.data import load
from mild_trainer.training import loop  # noqa: F401

torch.use_deterministic_algorithms(False)  # as it is: but loads what torch otherwise loads late, for a second
load("digits")  # the same

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["benchmarks.killing"])
"""Starts processes that have torch and the trainer loaded: importing them takes longer than a small training."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a training ended: its sets by round as base64, its last network, and how often it was killed on the way."""

    sets: Sequence[str]
    model: bytes
    n_kills: int


def trained(arguments: Sequence[str], out: Path, watch: Callable[[Path, Callable[[float], bool]], None]) -> Ended:
    """Train to the end, killed again and again on the way.

    Parameters
    ----------
    arguments
        Of ``mild train``, but for ``--out`` and ``--resume``.
    out
        Its folder; a training that is killed before its first checkpoint begins anew in it.
    watch
        Is called beside every process with its folder and a way to wait for its end, some seconds at most, that says
        whether it has ended; when it returns, a process that still runs is killed.
    """
    n_kills = 0
    while True:
        resume = (out / "checkpoint.pt").exists()
        if not resume:
            shutil.rmtree(out, ignore_errors=True)
        process = FORKS.Process(target=train, args=([*arguments, "--out", str(out)], resume))
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
        return _ended(out, n_kills)


def train(arguments: Sequence[str], resume: bool = False) -> None:
    """``mild train`` with these arguments, which says nothing."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        cli.app(["train", *arguments, *(["--resume"] if resume else [])], standalone_mode=False)


def _ended(out: Path, n_kills: int) -> Ended:
    stored = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)
    sets = [record["selected"] for record in stored["rounds"]]
    return Ended(sets, (out / "model.safetensors").read_bytes(), n_kills)
