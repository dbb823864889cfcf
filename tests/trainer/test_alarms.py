import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mild_core import bitmap
from mild_trainer import cli
from mild_trainer.data import Dataset
from mild_trainer.report import report, summary
from mild_trainer.report.summary import find_round_alarms
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import EpochRecord, History, RoundRecord, SetMetrics

MEASURED = {"precision": 0.85, "recall": 0.45, "f1": 0.6, "auc": 0.9, "known": 50, "basis": "50 chosen samples"}


def record(
    accuracy: float = 0.5,
    agreement: SetMetrics | None = None,
    measured: object = None,
    validation_accuracy: float | None = None,
) -> RoundRecord:
    everyone = bitmap.full(8)
    found = {"verdict": "weak", "reasons": [], "fitted": {}, "measured": measured, "num_samples": 8}
    found |= {"threshold": {"rule": "f1", "value": 0.0, "cut": 1}, "unobserved": 0, "planted": 0}
    epoch = EpochRecord(0, 0, 1.0, 0.5, accuracy, 1.0, validation_accuracy=validation_accuracy)
    return RoundRecord(0, everyone, everyone, (epoch,), found, None, agreement, 1.0)


@pytest.mark.parametrize(
    ("precision", "recall", "said"),
    [
        (0.95, 0.6, []),
        (0.9, 0.5, []),
        (0.85, 0.6, ["measured precision 0.850 is below 0.90"]),
        (0.85, 0.45, ["measured precision 0.850 is below 0.90", "measured recall 0.450 is below 0.50"]),
    ],
)
def test_a_set_that_is_measured_to_be_bad_is_alarming(precision: float, recall: float, said: list[str]) -> None:
    assert find_round_alarms([record(agreement=SetMetrics(precision, recall, 0.5))]) == said
    assert find_round_alarms([record(measured={"precision": precision, "recall": recall})]) == said


def test_a_network_that_is_still_learning_is_to_train_longer() -> None:
    still = replace(record(), summary={**record().summary, "verdict": "learning"})
    assert find_round_alarms([still]) == ["the network was still learning, so nothing is cut: train longer (--epochs)"]
    assert find_round_alarms([still, record()]) == []


def test_what_is_not_known_is_not_alarming() -> None:
    assert find_round_alarms([record()]) == []
    assert find_round_alarms([record(measured={"precision": None, "recall": None})]) == []


def test_the_truth_comes_before_an_audit() -> None:
    assert find_round_alarms([record(agreement=SetMetrics(1.0, 1.0, 1.0), measured=MEASURED)]) == []


@pytest.mark.parametrize(
    ("accuracies", "is_plateau"),
    [
        ([0.5], False),
        ([0.5, 0.4], False),
        ([0.5, 0.6, 0.6], False),
        ([0.5, 0.5, 0.51], False),
        ([0.5, 0.5, 0.501], True),
        ([0.5, 0.6, 0.4, 0.6], True),
    ],
)
def test_two_rounds_without_a_rise_are_a_plateau(accuracies: list[float], is_plateau: bool) -> None:
    said = find_round_alarms([record(accuracy) for accuracy in accuracies])
    assert ["plateau" in sentence for sentence in said] == [True] * is_plateau


def test_either_accuracy_may_be_at_a_plateau() -> None:
    rising, flat = (0.1, 0.2, 0.3), (0.6, 0.5, 0.6)
    assert find_round_alarms([record(a, validation_accuracy=b) for a, b in zip(rising, flat, strict=True)]) == [
        "validation accuracy is at a plateau: 2 rounds without a rise above 0.600"
    ]
    assert find_round_alarms([record(a, validation_accuracy=b) for a, b in zip(flat, rising, strict=True)]) == [
        "test accuracy is at a plateau: 2 rounds without a rise above 0.600"
    ]


def test_alarms_are_in_the_summary_and_in_the_report(digits: Dataset) -> None:
    rounds = (record(), replace(record(measured=MEASURED), round=1))
    history = History(TrainSettings.for_dataset("digits"), digits, rounds, None, "all 2 rounds are done")
    found = summary.summarise_training(history)["rounds"]
    assert found[0]["alarms"] == []
    assert found[1]["alarms"] == ["measured precision 0.850 is below 0.90", "measured recall 0.450 is below 0.50"]
    assert '<p class="alarm">Round 1: measured precision 0.850 is below 0.90.</p>' in report.render_report(
        summary.summarise_training(history)
    )


def test_alarms_are_printed(tmp_path: Path) -> None:
    arguments = ["--noise", "symmetric-exclusive:0.6", "--limit", "150", "--epochs", "1", "--rounds", "1", "--local"]
    arguments += ["--plant", "0"]
    result = CliRunner().invoke(cli.app, ["train", *arguments, "--out", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    (said,) = json.loads((tmp_path / "summary.json").read_text())["rounds"][0]["alarms"]
    assert said.startswith("measured precision 0.400 is below")
    assert f"Round 0: {said}." in result.output
