import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mild_client import LocalSelector
from mild_core import bitmap
from mild_core.results import Selection
from mild_core.selection import select
from mild_trainer import cli
from mild_trainer.data import Dataset
from mild_trainer.settings import FinishName, TrainSettings
from mild_trainer.training.engine import ComputeCost
from mild_trainer.training.finetune import METHODS, Mix, WeightAverage
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.trainer import Trainer

FIRST_HALF = bitmap.pack(np.arange(200) < 100)


def prepared(quick: TrainSettings, digits: Dataset, **given: object) -> tuple[Trainer, Dataset]:
    """A trainer on 200 digits whose second half has random labels."""
    data = digits.take_balanced(200, 0)
    broken = data.y_train.copy()
    broken[100:] = np.random.default_rng(0).integers(0, 10, 100)
    data = replace(data, y_train=broken)
    return Trainer(replace(quick, **given), data), data  # type: ignore[arg-type]  # settings by name


@pytest.mark.parametrize(
    ("method", "epochs", "reached"), [("supervised", 4, 0.6), ("mixmatch", 15, 0.6), ("contrastive", 10, 0.4)]
)
def test_every_method_learns_from_the_set_at_the_same_cost(
    method: FinishName, epochs: int, reached: float, quick: TrainSettings, digits: Dataset
) -> None:
    trainer, _ = prepared(quick, digits, finish=method, finish_epochs=epochs, batch_size=8)
    finished = trainer.run_finish(FIRST_HALF)
    assert (finished.method, finished.n_kept, finished.n_dropped) == (method, 100, 100)
    assert (finished.test_accuracy or 0) > reached
    budget = epochs * 2 * 200
    assert budget <= finished.passes.total < budget + 8 * 8
    assert finished.passes.backward <= finished.passes.forward


@pytest.mark.parametrize("method", METHODS)
def test_a_finish_comes_out_the_same_again(method: FinishName, quick: TrainSettings, digits: Dataset) -> None:
    trainer, _ = prepared(quick, digits, finish=method, finish_epochs=1)
    first, again = trainer.run_finish(FIRST_HALF), trainer.run_finish(FIRST_HALF)
    assert replace(again, seconds=0) == replace(first, seconds=0)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_reads_a_dropped_label(method: FinishName, quick: TrainSettings, digits: Dataset) -> None:
    trained = []
    for other in (0, 1):
        trainer, data = prepared(quick, digits, finish=method, finish_epochs=1)
        data.y_train[100:] = other
        trainer = Trainer(replace(quick, finish=method, finish_epochs=1), data)
        trainer.run_finish(FIRST_HALF)
        trained.append(trainer.train_state.model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


@pytest.mark.parametrize("method", ["mixmatch", "contrastive"])
def test_where_nobody_was_dropped_the_set_is_all_there_is(
    method: FinishName, quick: TrainSettings, digits: Dataset
) -> None:
    trainer, _ = prepared(quick, digits, finish=method, finish_epochs=1)
    finished = trainer.run_finish(bitmap.full(200))
    assert (finished.method, finished.n_kept, finished.n_dropped) == ("supervised", 200, 0)


def test_a_budget_is_that_of_a_round_unless_given(quick: TrainSettings, digits: Dataset) -> None:
    trainer, _ = prepared(quick, digits, finish="supervised")
    assert trainer.run_finish(bitmap.full(200)).passes == ComputeCost(200 * quick.epochs, 200 * quick.epochs)


def test_an_average_follows_weights_and_is_adopted_on_request() -> None:
    model = torch.nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.999)
    with torch.no_grad():
        model.weight.fill_(12.0)
    average.update()
    assert model.weight.tolist() == [12.0, 12.0]
    average.copy_to_model()
    decay = 2 / 11
    assert model.weight.tolist() == pytest.approx([decay * 1 + (1 - decay) * 12] * 2)


def test_averaged_weights_are_what_is_tested_and_kept(quick: TrainSettings, digits: Dataset) -> None:
    weights = []
    for ema in (0.0, 0.9):
        trainer, _ = prepared(quick, digits, finish="supervised", finish_epochs=1, ema=ema)
        trainer.run_finish(FIRST_HALF)
        weights.append(trainer.train_state.model.head.weight.clone())
    assert not torch.equal(*weights)


def test_partners_stay_within_their_group_and_shares_above_one_half() -> None:
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    mixes = [Mix.draw((5, 3), 0.75, generator, rng) for _ in range(50)]
    assert all(0.5 <= mix.share <= 1 for mix in mixes)
    assert all(sorted(mix.partners[:5].tolist()) == [0, 1, 2, 3, 4] for mix in mixes)
    assert all(sorted(mix.partners[5:].tolist()) == [5, 6, 7] for mix in mixes)
    mix = Mix(torch.tensor([1, 0]), 0.75)
    assert mix.apply(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_a_run_counts_what_it_passed_through_the_network(quick: TrainSettings, digits: Dataset) -> None:
    settings = replace(quick, rounds=1, finish="supervised", finish_epochs=1)
    history = run_rounds(settings, data=digits)
    assert history.finish_result is not None
    planting = ComputeCost(3 * 200, 2 * 200)
    watched = ComputeCost(2 * 4 * 200, 4 * 200)
    assert history.compute_cost == planting + watched + history.finish_result.passes


def test_a_set_of_one_is_not_trained_on(quick: TrainSettings, digits: Dataset) -> None:
    def keep_one(*arguments: Any) -> Selection:
        selection = select(*arguments)
        return replace(selection, bitmap=bitmap.from_indices([0], selection.n_samples))

    settings = replace(quick, rounds=1, finish="supervised")
    history = run_rounds(settings, LocalSelector(select=keep_one), data=digits)
    assert history.rounds[0].n_selected == 1
    assert history.finish_result is None


def test_the_command_tells_and_writes_the_finish(tmp_path: Path) -> None:
    arguments = ["--limit", "150", "--epochs", "2", "--rounds", "1", "--noise", "symmetric:0.4", "--local"]
    finish = ["--finish", "mixmatch", "--finish-epochs", "2", "--ema", "0.99", "--out", str(tmp_path)]
    result = CliRunner(env={"COLUMNS": "100"}).invoke(cli.app, ["train", *arguments, *finish])
    assert result.exit_code == 0, result.output
    assert "finish, mixmatch: test " in result.output
    assert "Rounds and finish took " in result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finish"]["method"] == "mixmatch"
    assert summary["finish"]["ema"] == 0.99
    assert summary["passes"]["forward"] > summary["finish"]["passes"]["forward"] > 0
    plain = (tmp_path / "model.safetensors").read_bytes()
    again = CliRunner().invoke(cli.app, ["train", *arguments, "--finish", "supervised", *finish[2:], "--resume"])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "model.safetensors").read_bytes() != plain
