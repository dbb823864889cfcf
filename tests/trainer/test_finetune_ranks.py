"""Two ranks finish one network: each takes its share of every batch, and both come to what one process comes to."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mild_core import bitmap
from mild_core.types import SelectionOptions
from mild_trainer.data import load
from mild_trainer.settings import FinishName, TrainSettings
from mild_trainer.training.engine import ComputeCost
from mild_trainer.training.finetune import METHODS, FinishResult, Supervised
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.trainer import Trainer, derive_seed
from tests.gloo import WORLD, run_ranks

KEPT = bitmap.pack(np.arange(200) < 101)
"""Batches of 16 leave 5 of these and 3 of the others over: shares of 3 and 2, and of 2 and 1."""
SETTINGS = TrainSettings.for_dataset(
    "digits",
    limit=200,
    epochs=1,
    rounds=1,
    finish="supervised",
    finish_epochs=1,
    batch_size=16,
    lr=0.05,
    ema=0.9,
    deterministic=True,
    selection=SelectionOptions(threshold="fraction", fraction=0.6),
)


class Unnormalised(nn.BatchNorm2d):
    """Takes no statistics of its batch: a rank has those of its share, and differs by them from one process."""

    def train(self, mode: bool = True) -> "Unnormalised":
        super().train(False)
        return self


def held(trainer: Trainer) -> Tensor:
    """All that the network holds, running statistics among it."""
    return torch.cat([value.flatten().float() for value in trainer.train_state.model.state_dict().values()])


def trainer_of(method: FinishName, normalised: bool) -> Trainer:
    trainer = Trainer(replace(SETTINGS, finish=method), load("digits").take_balanced(200, 0))
    for module in trainer.train_state.model.modules():
        if isinstance(module, nn.BatchNorm2d) and not normalised:
            module.__class__ = Unnormalised
    return trainer


def finished(method: FinishName, normalised: bool) -> tuple[FinishResult, Tensor]:
    trainer = trainer_of(method, normalised)
    done = trainer.run_finish(KEPT)
    return replace(done, seconds=0), held(trainer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left: they start once for all tests, as that takes longer than what they do."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(two_ranks, folder, exits=(1, -signal.SIGKILL))
    return folder


def two_ranks(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, tuple[FinishResult, Tensor]] = {m: finished(m, normalised=False) for m in METHODS}
    found["normalised"] = finished("mixmatch", normalised=True)
    torch.save(found, folder / f"found-{rank}.pt")
    run_rounds(replace(SETTINGS, finish="none"), out=folder / "run")
    if rank == 1:
        Supervised.compute_loss = last_loss  # type: ignore[method-assign]  # of this process alone, which ends with it
    run_rounds(SETTINGS, out=folder / "run", resume=True)


compute_loss = Supervised.compute_loss


def last_loss(self: Supervised, progress: float) -> tuple[Tensor, ComputeCost]:
    if progress > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute_loss(self, progress)


def test_two_ranks_finish_as_one_process_does(folder: Path) -> None:
    first, second = (torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in range(WORLD))
    for name in (*METHODS, "normalised"):
        assert first[name][0] == second[name][0]
        assert torch.equal(first[name][1], second[name][1]), name
    for method in METHODS:
        done, weights = finished(method, normalised=False)
        fresh = trainer_of(method, normalised=False)
        fresh.train_state.reinitialise(derive_seed(SETTINGS.seed, 3, 2))
        assert first[method][0] == done
        assert torch.dist(first[method][1], weights) < 1e-4 * torch.dist(weights, held(fresh)), method


def test_a_rank_that_dies_in_the_finish_ends_the_others_and_the_finish_can_be_resumed(folder: Path) -> None:
    out = folder / "run"
    before = (out / "model.safetensors").read_bytes()
    assert {path.name for path in out.iterdir()} == {"bits", "checkpoint.pt", "model.safetensors"}
    history = run_rounds(SETTINGS, out=out, resume=True)
    assert history.finish_result is not None
    assert len(history.rounds) == 1
    assert (out / "model.safetensors").read_bytes() != before
