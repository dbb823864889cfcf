"""Planted noise in a training: wrong labels in round 0 alone, nobody of them in its set, all of them judged later."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mild_client import LocalSelector
from mild_core import bitmap
from mild_core.types import Observe, SelectionOptions
from mild_trainer.data import Dataset
from mild_trainer.report import report, summary
from mild_trainer.settings import PlantHow, TrainSettings
from mild_trainer.training import checkpoint
from mild_trainer.training.history import History
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.progress import Reporter
from mild_trainer.training.trainer import Trainer
from tests.trainer.trainings import Killed, KilledAfter


@pytest.fixture
def planting(quick: TrainSettings) -> TrainSettings:
    """A training of two seconds that plants 20 of 200 labels, and keeps everyone whom it can judge."""
    return replace(quick, plant=0.1, noise="none", selection=SelectionOptions(threshold="fraction", fraction=1.0))


class Told(Reporter):
    """Keeps what was said of the planting."""

    def __init__(self) -> None:
        self.n_planted: list[int] = []

    def on_labels_planted(self, n_planted: int, seconds: float) -> None:
        self.n_planted.append(n_planted)


def members_of(held: bitmap.Bitmap | None) -> set[int]:
    assert held is not None
    return set(bitmap.to_indices(held, 200).tolist())


@pytest.mark.parametrize("observe", ["all", "mixed"])
@pytest.mark.parametrize("how", ["confused", "uniform"])
def test_planted_samples_are_left_out_of_round_0_and_return_later(
    observe: Observe, how: PlantHow, planting: TrainSettings, digits: Dataset
) -> None:
    backend, summary = LocalSelector(), Told()
    history = run_rounds(replace(planting, observe=observe, plant_how=how), backend, digits, summary)
    planted = members_of(history.planted)
    assert (len(planted), summary.n_planted, history.n_planted) == (20, [20], 20)
    first, second = history.rounds
    assert first.n_members == 200
    assert members_of(first.selected) == set(range(200)) - planted
    assert second.n_members == 180
    assert planted <= members_of(second.selected)
    assert history.n_returned == 20
    assert [bits.planted is None for bits in backend.collect_rounds()[:2]] == [False, True]


def test_round_0_trains_on_the_wrong_labels_and_compares_with_them(planting: TrainSettings, digits: Dataset) -> None:
    settings = replace(planting, plant=0.3, epochs=12)
    data = digits.take_balanced(200, settings.seed)
    trainer = Trainer(settings, data)
    drawn = trainer.draw_planted_labels()
    assert drawn is not None
    trainer.use_planted_labels(drawn)
    everyone, planted = bitmap.full(200), bitmap.unpack(drawn.planted, 200)
    correct = {}
    for round in (0, 1):
        trainer.initialise_round(0)
        for epoch in range(12):
            correct[round] = bitmap.unpack(trainer.run_epoch(round, epoch, everyone)[1].correct, 200)
    assert correct[0][~planted].mean() > correct[0][planted].mean() + 0.3
    assert correct[1][planted].mean() > 0.8


def test_planting_is_drawn_once_and_alike(planting: TrainSettings, digits: Dataset, tmp_path: Path) -> None:
    histories = [run_rounds(replace(planting, rounds=1), data=digits, out=tmp_path / str(n)) for n in range(2)]
    assert histories[0].planted is not None
    assert np.array_equal(histories[0].planted, histories[1].planted)  # type: ignore[arg-type]  # neither is None
    stored = [
        checkpoint.load_checkpoint(tmp_path / str(n), replace(planting, rounds=1)).planted_labels for n in range(2)
    ]
    assert stored[0] is not None
    assert stored[1] is not None
    assert np.array_equal(stored[0].labels, stored[1].labels)
    planted = bitmap.unpack(stored[0].planted, 200)
    assert ((stored[0].labels != histories[0].data.y_train) == planted).all()
    other = run_rounds(replace(planting, rounds=1, seed=1), data=digits)
    assert not np.array_equal(histories[0].planted, other.planted)  # type: ignore[arg-type]  # neither is None


def test_resuming_at_any_epoch_has_the_same_wrong_labels(
    planting: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    settings = replace(planting, rounds=1)
    whole = run_rounds(settings, data=digits, out=tmp_path / "whole")
    with pytest.raises(Killed):
        run_rounds(settings, data=digits, out=tmp_path / "killed", reporter=KilledAfter(epochs=1))
    summary = Told()
    resumed = run_rounds(settings, data=digits, out=tmp_path / "killed", reporter=summary, resume=True)
    assert not summary.n_planted, "a resumed training draws nothing anew"
    assert np.array_equal(whole.rounds[0].selected, resumed.rounds[0].selected)
    scalars = [[replace(epoch, seconds=0) for epoch in each.rounds[0].epochs] for each in (whole, resumed)]
    assert scalars[0] == scalars[1]
    assert np.array_equal(whole.planted, resumed.planted)  # type: ignore[arg-type]  # neither is None


def test_without_planting_the_training_is_what_it_was(planting: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(planting, plant=0.0, rounds=1), data=digits)
    assert (history.planted, history.n_planted, history.n_returned) == (None, 0, 0)
    assert summary.describe_planting(summary.summarise_training(history)) is None
    assert summary.summarise_training(history)["planted"] is None


@pytest.mark.parametrize(("rounds", "said"), [(1, "leaves their samples out."), (2, "are in the final set.")])
def test_the_summary_and_the_report_say_how_many(
    rounds: int, said: str, planting: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    history: History = run_rounds(replace(planting, rounds=rounds), data=digits)
    found = summary.summarise_training(history)["planted"]
    assert (found["fraction"], found["how"], found["num_samples"]) == (0.1, "confused", 20)
    assert found["returned"] == history.n_returned
    sentence = summary.describe_planting(summary.summarise_training(history))
    assert sentence is not None
    assert sentence.startswith("20 labels were changed on purpose in round 0, to calibrate")
    assert said in sentence
    assert "20 labels were changed on purpose" in report.render_report(summary.summarise_training(history))


def test_the_true_clean_set_is_trained_on_its_own_labels(planting: TrainSettings, digits: Dataset) -> None:
    settings = replace(planting, noise="symmetric:0.4", rounds=1, oracle=True)
    with_planting, without = (run_rounds(replace(settings, plant=plant), data=digits) for plant in (0.1, 0.0))
    assert with_planting.oracle_accuracy == without.oracle_accuracy
