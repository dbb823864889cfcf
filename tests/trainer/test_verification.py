import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mild_client import LocalSelector
from mild_trainer import cli
from mild_trainer.data import Dataset
from mild_trainer.errors import DataError
from mild_trainer.report import report, summary
from mild_trainer.settings import TrainSettings
from mild_trainer.training import checkpoint
from mild_trainer.training.loop import assign_folds, run_rounds


@pytest.fixture
def verified(quick: TrainSettings) -> TrainSettings:
    return replace(quick, limit=0, noise="symmetric:0.4", epochs=2, rounds=1, verify=True)


def test_folds_halve_every_class_and_not_along_the_labels_that_noise_broke() -> None:
    labels = np.repeat(np.arange(4), 250)
    fold = assign_folds(labels, seed=0)
    assert [np.count_nonzero(fold[labels == label]) for label in range(4)] == [125] * 4
    broken_first = np.random.default_rng(0).permutation(1000)[:400]
    assert np.count_nonzero(fold[broken_first]) == pytest.approx(200, abs=40)
    assert (assign_folds(labels, seed=0) == fold).all()
    assert (assign_folds(labels, seed=1) != fold).any()


def test_labels_with_signal_are_trained_on_as_ever(verified: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(verified, data=digits)
    plain = run_rounds(replace(verified, verify=False), data=digits)
    assert history.held_out_agreement is not None
    assert history.held_out_agreement.carries_signal
    assert history.held_out_agreement.n_samples == 1437
    assert plain.held_out_agreement is None
    assert (history.rounds[0].selected == plain.rounds[0].selected).all()
    assert history.rounds[0].test_accuracy == plain.rounds[0].test_accuracy
    assert "the labels carry signal" in report.render_report(summary.summarise_training(history))


def test_random_labels_end_a_training_before_its_rounds(
    verified: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    settings = replace(verified, noise="symmetric:1", oracle=True)
    history = run_rounds(settings, data=digits, out=tmp_path)
    assert history.held_out_agreement is not None
    assert not history.held_out_agreement.carries_signal
    assert abs(history.held_out_agreement.agreement - 0.1) < 0.03
    assert (history.rounds, history.oracle_accuracy) == ((), None)
    assert "better than by chance" in history.stop_reason
    found = summary.summarise_training(history)
    assert found["verified"]["carries_signal"] is False
    assert (found["rounds"], found["baseline"]["test_accuracy"]) == ([], None)
    assert "CARRY NO SIGNAL" in report.render_report(summary.summarise_training(history))
    again = run_rounds(settings, LocalSelector(tmp_path / "bits"), digits, out=tmp_path, resume=True)
    assert (again.held_out_agreement, again.rounds, again.stop_reason) == (
        history.held_out_agreement,
        (),
        history.stop_reason,
    )
    assert checkpoint.load_checkpoint(tmp_path, settings).held_out_agreement == history.held_out_agreement


def test_the_command_says_loudly_that_there_is_nothing_to_find(tmp_path: Path) -> None:
    arguments = ["train", "--verify", "--noise", "symmetric:1", "--limit", "200", "--epochs", "1", "--local"]
    (tmp_path / "clean.npy").write_bytes(b"the set of an earlier training")
    result = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "held-out fold 1: 1 epoch on 100 samples" in result.output
    assert "THE LABELS CARRY NO SIGNAL THAT COULD BE FOUND." in result.output
    assert json.loads((tmp_path / "summary.json").read_text())["rounds"] == []
    assert not (tmp_path / "clean.npy").exists()


def test_too_few_samples_for_two_folds_are_refused(verified: TrainSettings, digits: Dataset) -> None:
    few = replace(digits, x_train=digits.x_train[:3], y_train=digits.y_train[:3])
    with pytest.raises(DataError, match="has 3 training samples and held-out agreement takes at least 4"):
        run_rounds(verified, data=few)
