"""Samples held out: nobody trains on them, no set holds them, and a plateau of the accuracy on them ends the rounds."""

import json
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from mild_client import HttpBackend, LocalSelector, MildClient
from mild_core import bitmap
from mild_core.agreement import HeldOutAgreement
from mild_core.alarms import find_plateau
from mild_core.types import Observe, SelectionOptions
from mild_trainer import cli
from mild_trainer.data import Dataset
from mild_trainer.errors import DataError
from mild_trainer.planting import plant_labels
from mild_trainer.report import report, summary
from mild_trainer.settings import TrainSettings, Use
from mild_trainer.training.finetune import FinishResult
from mild_trainer.training.history import EpochRecord, History, RoundRecord
from mild_trainer.training.loop import find_stop_reason, run_rounds
from mild_trainer.training.progress import Reporter
from mild_trainer.training.trainer import hold_out_samples
from tests.trainer.trainings import Killed, KilledAfter, Uninterrupted


@pytest.fixture
def validated(quick: TrainSettings) -> TrainSettings:
    """A training of a second that holds 40 of 200 samples out."""
    return replace(quick, validation=0.2, plant=0.05)


def held_out(history: History) -> bitmap.Bitmap:
    assert history.held_out is not None
    return history.held_out


def test_every_class_is_held_out_in_proportion_and_not_along_the_labels_that_noise_broke() -> None:
    labels = np.repeat(np.arange(4), [400, 200, 200, 200])
    held = bitmap.unpack(hold_out_samples(labels, 0.1, seed=0), 1000)
    assert [np.count_nonzero(held[labels == label]) for label in range(4)] == [40, 20, 20, 20]
    broken_first = np.random.default_rng(0).permutation(1000)[:400]
    assert np.count_nonzero(held[broken_first]) == pytest.approx(40, abs=15)
    assert (hold_out_samples(labels, 0.1, seed=1) != hold_out_samples(labels, 0.1, seed=0)).any()
    assert not hold_out_samples(labels, 0.0, seed=0).any()
    assert bitmap.popcount(hold_out_samples(labels[:7], 0.5, seed=0)) == 4


@pytest.mark.parametrize(("n_samples", "share", "n_held"), [(200, 0.001, 0), (3, 0.5, 2)])
def test_a_share_of_nobody_or_that_leaves_nobody_is_refused(n_samples: int, share: float, n_held: int) -> None:
    with pytest.raises(DataError, match=f"--validation {share} holds {n_held} of {n_samples} training samples out, at"):
        hold_out_samples(np.zeros(n_samples, dtype=np.int64), share, seed=0)


@pytest.mark.parametrize("use", ["set", "weights"])
@pytest.mark.parametrize("observe", ["all", "mixed", "members"])
def test_who_is_held_out_is_no_member_not_observed_and_in_no_set(
    observe: Observe, use: Use, validated: TrainSettings, digits: Dataset
) -> None:
    settings = replace(validated, observe=observe, use=use, epochs=8, plant=0.0 if observe == "members" else 0.05)
    backend = LocalSelector()
    history = run_rounds(settings, backend, digits, keep_bits=True)
    held = held_out(history)
    assert bitmap.popcount(held) == history.n_held_out == 40
    assert history.rounds[0].n_members == 160
    for record, bits in zip(history.rounds, backend.collect_rounds(), strict=False):
        assert not (held & record.members).any()
        assert not (held & record.selected).any()
        assert bits.observed is not None
        assert not (held & bits.observed).any()
        assert bitmap.popcount(bits.observed[0]) == (record.n_members if observe == "members" else 160)
        assert bits.members is not None
        assert (bits.members == record.members).all()
        assert record.summary["unobserved"] == (0 if observe == "members" else 40)
        assert record.validation_accuracy is not None
        assert record.validation_accuracy * 40 == pytest.approx(round(record.validation_accuracy * 40), abs=1e-4)
    assert history.planted is None or not (held & history.planted).any()
    clean = history.data.clean
    assert clean is not None
    trained = ~bitmap.unpack(held, 200)
    assert history.true_noise == pytest.approx(1 - clean[trained].mean())
    kept = bitmap.unpack(history.rounds[0].selected, 200)
    assert history.rounds[0].agreement is not None
    assert history.rounds[0].agreement.recall == pytest.approx((kept & clean).sum() / (clean & trained).sum())


def test_nothing_that_is_trained_sees_those_held_out(validated: TrainSettings, digits: Dataset) -> None:
    few = digits.take_balanced(200, validated.seed)
    settings = replace(
        validated, limit=0, oracle=True, finish="mixmatch", finish_epochs=1, selection=SelectionOptions()
    )
    history = run_rounds(settings, data=few)
    held = bitmap.unpack(held_out(history), 200)
    mirrored = few.x_train.copy()
    mirrored[held] = mirrored[held, ::-1, ::-1]  # the same bytes, so that the images' mean stays
    other = run_rounds(settings, data=replace(few, x_train=mirrored))
    assert (held_out(other) == held_out(history)).all()
    assert trained(other) == trained(history)
    assert other.rounds[-1].validation_accuracy != history.rounds[-1].validation_accuracy


def trained(history: History) -> list[object]:
    """Whatever depends on what was trained on."""
    finished = history.finish_result
    assert isinstance(finished, FinishResult)
    assert history.planted is not None
    return [
        history.oracle_accuracy,
        replace(finished, seconds=0.0),
        history.planted.tobytes(),
        *(
            (record.selected.tobytes(), [replace(e, seconds=0.0, validation_accuracy=None) for e in record.epochs])
            for record in history.rounds
        ),
    ]


def test_labels_are_planted_among_the_others_alone() -> None:
    given = np.arange(100) % 5
    held = bitmap.pack(np.arange(100) % 2 == 0)
    planted = plant_labels(given, 5, 0.5, seed=0, held_out=held)
    assert planted.n_planted == 25
    assert not (planted.planted & held).any()


def a_record(number: int, validation_accuracy: float | None, overlap: float = 0.5) -> RoundRecord:
    everyone = bitmap.full(8)
    epoch = EpochRecord(number, 0, 1.0, 0.5, 0.5, 1.0, validation_accuracy=validation_accuracy)
    found = {"verdict": "weak", "reasons": [], "fitted": {}}
    return RoundRecord(number, everyone, everyone, (epoch,), found, None, None, overlap)


@pytest.mark.parametrize(
    ("accuracies", "patience", "said"),
    [
        ([0.5, 0.6], 2, None),
        ([0.5, 0.6, 0.6], 2, None),
        ([0.5, 0.6, 0.6, 0.601], 2, "validation accuracy is at a plateau (2 rounds without a rise above 0.600)"),
        ([0.5, 0.6, 0.6, 0.602], 2, None),
        ([0.5, 0.4, 0.5, 0.4], 3, "validation accuracy is at a plateau (3 rounds without a rise above 0.500)"),
        ([0.5, 0.5], 1, "validation accuracy is at a plateau (1 round without a rise above 0.500)"),
        ([None] * 5, 1, None),
    ],
)
def test_the_rounds_end_when_the_accuracy_has_stopped_rising(
    accuracies: list[float | None], patience: int, said: str | None
) -> None:
    settings = TrainSettings.for_dataset("digits", rounds=9, patience=patience)
    records = [a_record(number, accuracy) for number, accuracy in enumerate(accuracies)]
    assert find_stop_reason(settings, records, None, 8) == said
    agreeing = [*records[:-1], a_record(len(records) - 1, accuracies[-1], overlap=1.0)]
    assert "clean sets agree" in (find_stop_reason(settings, agreeing, None, 8) or "")
    at_the_cap = find_stop_reason(replace(settings, rounds=len(records)), records, None, 8)
    assert at_the_cap == (said or f"all {len(records)} rounds are done")


def test_a_training_ends_at_its_plateau_and_says_so(validated: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(validated, rounds=20, patience=1), data=digits)
    course = [record.validation_accuracy or 0.0 for record in history.rounds]
    assert find_plateau(course, 1) is not None
    assert find_plateau(course[:-1], 1) is None
    assert "validation accuracy is at a plateau" in history.stop_reason
    numbers = summary.summarise_training(history)
    assert numbers["ended"] == history.stop_reason
    assert [each["validation_accuracy"] for each in numbers["rounds"]] == course
    best = course.index(max(course))
    assert numbers["validation"].items() >= {"share": 0.2, "num_samples": 40, "patience": 1, "best_round": best}.items()
    sentence = summary.describe_validation(numbers)
    assert sentence is not None
    assert sentence.startswith("Accuracy on the given labels of 40 held-out samples, round by round: ")
    error = (course[best] * (1 - course[best]) / 40) ** 0.5
    assert f" (standard error {error:.3f}); best in round {best}" in sentence
    page = report.render_report(numbers)
    assert sentence in page
    assert "validation accuracy" in page
    assert [row[1] for row in summary.format_table_rows(numbers) if row[0] == "all labels"] == ["160"]


@pytest.mark.parametrize(
    ("course", "said"),
    [
        ([0.5, 0.9, 0.5], "0.500, 0.900, 0.500 (standard error 0.030); best in round 1."),
        ([0.5, 0.9, 0.88], "(standard error 0.030); best in round 1, no more than a standard error above the last."),
        ([0.5, 0.9], "(standard error 0.030); best in round 1."),
    ],
)
def test_a_best_round_that_is_hardly_better_is_told_as_such(course: list[float], said: str) -> None:
    held = {"num_samples": 100, "best_round": course.index(max(course)), "standard_error": 0.03}
    sentence = summary.describe_validation(
        {"validation": held, "rounds": [{"validation_accuracy": value} for value in course]}
    )
    assert sentence is not None
    assert sentence.endswith(said)


def test_without_a_share_nobody_is_held_out(quick: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(quick, rounds=1, epochs=1), data=digits)
    assert (history.held_out, history.n_held_out, history.best_round) == (None, 0, None)
    assert "validation_accuracy" not in history.rounds[0].epochs[0].to_metrics()
    numbers = summary.summarise_training(history)
    assert numbers["validation"] is None
    assert summary.describe_validation(numbers) is None
    assert [row[1] for row in summary.format_table_rows({**numbers, "validation": None}) if row[0] == "all labels"] == [
        "200"
    ]


class Audits(Reporter):
    """Finds, during round 0, that the labels of some samples are right."""

    def __init__(self, client: MildClient, run_id: str, samples: list[int]) -> None:
        self.client, self.run_id, self.samples = client, run_id, samples

    def on_epoch_end(self, record: EpochRecord) -> None:
        if (record.round, record.epoch) == (0, 1):
            self.client.put_audit(self.run_id, self.samples, [True] * len(self.samples))


def test_who_is_held_out_is_not_trained_on_even_where_an_audit_puts_them_into_the_set(
    validated: TrainSettings, digits: Dataset, service: httpx.Client
) -> None:
    settings = replace(validated, selection=SelectionOptions(audit="fit"), finish="supervised", finish_epochs=1)
    client = MildClient("http://service", http=service)
    held = held_out(run_rounds(replace(settings, rounds=1, finish="none"), data=digits))
    audited = [int(index) for index in bitmap.to_indices(held, 200)[:7]]
    history = run_rounds(settings, HttpBackend(client), digits, Audits(client, "audited", audited), "audited")
    assert bitmap.popcount(history.rounds[0].selected & held) == 7
    assert len(history.rounds) > 1
    for record in history.rounds:
        assert not (record.members & held).any()
    assert client.get_run("audited")["rounds"][1]["num_members"] == history.rounds[1].n_members
    assert history.finish_result is not None
    assert history.finish_result.n_kept == bitmap.popcount(history.rounds[-1].selected & ~held)


@pytest.mark.parametrize("n_epochs", [1, 3, 6])
def test_a_service_compares_the_rounds_of_a_training_that_was_interrupted(
    n_epochs: int,
    validated: TrainSettings,
    digits: Dataset,
    tmp_path: Path,
    service: httpx.Client,
    uninterrupted: Uninterrupted,
) -> None:
    client = MildClient("http://service", http=service)
    whole, _ = uninterrupted(validated)
    with pytest.raises(Killed):
        run_rounds(validated, HttpBackend(client), digits, KilledAfter(n_epochs), "a", tmp_path)
    history = run_rounds(validated, HttpBackend(client), digits, out=tmp_path, resume=True)
    assert [replace(each, seconds=0.0) for record in history.rounds for each in record.epochs] == [
        replace(each, seconds=0.0) for record in whole.rounds for each in record.epochs
    ]
    state = client.get_run("a")
    assert state["rounds"][0]["num_members"] == 160
    accuracies = [each["metrics"]["3"]["validation_accuracy"] for each in state["rounds"][:2]]
    assert accuracies == [record.validation_accuracy for record in history.rounds]
    best = client.selection("a", "best")
    assert (best["round"], best["unobserved"]) == (history.best_round, 40)
    assert "0 of" in client.sample("a", int(bitmap.to_indices(held_out(history), 200)[0]))["why"]


def test_the_command_holds_out_and_says_what_came_of_it(tmp_path: Path) -> None:
    arguments = ["train", "--limit", "150", "--epochs", "1", "--rounds", "2", "--local", "--validation", "0.1"]
    arguments += ["--patience", "1", "--noise", "symmetric:0.4", "--agree", "1"]
    result = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "round 0: 1 epoch on 135 samples" in result.output
    assert ", validation 0." in result.output
    found = json.loads((tmp_path / "summary.json").read_text())
    assert (found["settings"]["validation"], found["settings"]["patience"]) == (0.1, 1)
    assert "Accuracy on the given labels of 15 held-out samples" in result.output
    assert f"No further round: {found['ended']}." in result.output
    refused = CliRunner().invoke(cli.app, ["train", "--validation", "0.6", "--local", "--out", str(tmp_path)])
    assert "validation is 0.6; give a number in 0..0.5" in refused.output


def test_held_out_labels_speak_against_a_fit_in_every_record_of_the_training(
    validated: TrainSettings, digits: Dataset
) -> None:
    history = run_rounds(replace(validated, rounds=1), data=digits)
    (record,) = history.rounds
    rate = {"noise_rate": {"value": 0.5, "low": 0.4, "high": 0.6}}
    epochs = (*record.epochs[:-1], replace(record.epochs[-1], validation_accuracy=0.95))
    high_noise = replace(record, epochs=epochs, summary={**record.summary, "fitted": rate})
    contradicted = replace(history, rounds=(high_noise,))
    chance = replace(history, rounds=(replace(record, epochs=(replace(record.epochs[-1], validation_accuracy=0.1),)),))
    for changed, sentence in (
        (contradicted, "the fit finds 40.0% wrong labels or more, but 95.0% of the held-out labels are predicted"),
        (chance, "10.0% of the held-out labels are predicted, by chance "),
    ):
        results = summary.summarise_training(changed)
        assert any(alarm.startswith(sentence) for alarm in results["rounds"][0]["alarms"])
        assert sentence in report.render_report(results)
        assert sentence in report.render_model_card(results)
    agreement = HeldOutAgreement(300, 0.9, 0.1, 0.02, 40.0, True)
    verified = replace(contradicted, held_out=None, held_out_agreement=agreement)
    (alarm,) = (a for a in summary.summarise_training(verified)["rounds"][0]["alarms"] if a.startswith("the fit finds"))
    assert "90.0% of the held-out labels are predicted" in alarm
