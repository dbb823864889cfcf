"""Rounds of training and selecting, from the data to the last set."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mild_client import (
    LocalSelector,
    RoundResult,
    ServiceUnreachable,
)
from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.results import Selection, Threshold
from mild_core.selection import select
from mild_core.types import Observe, RoundBits, SelectionOptions, Verdict
from mild_trainer import cli, job
from mild_trainer.data import Dataset
from mild_trainer.report import summary
from mild_trainer.review import review_runs
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import EpochRecord
from mild_trainer.training.loop import run_rounds
from tests.trainer.trainings import Uninterrupted, outcome, selecting


def test_finds_most_of_the_clean_digits(digits: Dataset) -> None:
    settings = TrainSettings.for_dataset("digits", noise="symmetric:0.4", limit=1000, epochs=10, rounds=1, oracle=True)
    history = run_rounds(settings, data=digits)
    (record,) = history.rounds
    assert record.agreement is not None
    assert record.agreement.f1 > 0.95
    assert (record.test_accuracy or 0) > 0.8
    assert history.true_noise == pytest.approx(0.36, abs=0.01)
    assert record.fitted_noise == pytest.approx(0.36, abs=0.06)
    assert history.oracle_accuracy is not None
    assert history.oracle_accuracy > (history.rounds[0].test_accuracy or 1)
    assert history.stop_reason == "the only round is done"


@pytest.mark.parametrize("observe", ["all", "mixed", "members"])
def test_bits_say_who_was_observed(observe: Observe, quick: TrainSettings, digits: Dataset) -> None:
    backend = selecting(120)
    settings = replace(quick, observe=observe, plant=0.0 if observe == "members" else quick.plant)
    history = run_rounds(settings, backend, digits, keep_bits=True)
    assert [len(record.bits) for record in history.rounds] == [4, 4]
    first, second = backend.collect_rounds()[:2]
    assert history.rounds[1].n_members == 120
    assert second.members is not None
    assert bitmap.popcount(second.members) == 120
    assert first.n_epochs == second.n_epochs == 4
    if observe == "members":
        assert second.observed is not None
        assert (second.observed == second.members).all()
    else:
        assert second.observed is None
        others = ~second.members & bitmap.full(200)
        assert (second.correct & others).any()


def test_a_training_ends_well_where_its_status_cannot_be_set(
    quick: TrainSettings, digits: Dataset, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_backend: LocalSelector, _status: str) -> None:
        raise ServiceUnreachable("nothing listens")

    monkeypatch.setattr(LocalSelector, "set_status", fail)
    assert run_rounds(replace(quick, rounds=1, epochs=1), data=digits).rounds
    assert "could not be marked as finished: nothing listens" in caplog.text


@pytest.mark.parametrize(("error", "statuses"), [(MemoryError, ["failed"]), (ServiceUnreachable, [])])
def test_a_training_that_ends_with_an_error_marks_its_run_as_failed(
    quick: TrainSettings,
    digits: Dataset,
    error: type[Exception],
    statuses: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[str] = []

    def fail(*_: object) -> None:
        raise error("here it ends")

    monkeypatch.setattr(LocalSelector, "set_status", lambda _, status: found.append(status))
    monkeypatch.setattr(LocalSelector, "finish", fail)
    with pytest.raises(error, match="here it ends"):
        run_rounds(replace(quick, rounds=1, epochs=1), data=digits)
    assert found == statuses


def test_a_run_without_noise_or_truth_reports_neither(quick: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(quick, noise="none", rounds=1, epochs=1, oracle=True), data=digits)
    assert history.true_noise is None
    assert history.rounds[0].agreement is None
    assert history.oracle_accuracy is None


def test_a_known_truth_is_reported_though_no_label_was_broken(quick: TrainSettings, digits: Dataset) -> None:
    truth = digits.y_train.copy()
    truth[:100] = (truth[:100] + 1) % 10
    known = replace(digits, y_train_clean=truth)
    history = run_rounds(replace(quick, noise="none", limit=0, rounds=1, epochs=1), data=known)
    assert history.true_noise == pytest.approx(100 / 1437)
    assert history.rounds[0].agreement is not None


def test_ends_early_when_two_sets_agree(quick: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(quick, rounds=5, epochs=2, agree=0.99), selecting(150), digits)
    assert len(history.rounds) == 2
    assert "two consecutive clean sets agree (Jaccard 1.000" in history.stop_reason


def test_ends_when_nobody_is_left_to_train_on(quick: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(quick, rounds=5, epochs=2), selecting(1), digits)
    assert history.stop_reason == "round 0 kept 1 sample, and training takes at least 2"


def test_two_samples_are_enough_to_go_on(quick: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(quick, rounds=2, epochs=1), selecting(2), digits)
    assert [record.n_members for record in history.rounds] == [200, 2]


def test_no_oracle_without_clean_samples(quick: TrainSettings, digits: Dataset) -> None:
    settings = replace(quick, noise="symmetric-exclusive:1", rounds=1, epochs=1, oracle=True)
    assert run_rounds(settings, data=digits).oracle_accuracy is None


def abstain_after_round_0(
    rounds: Sequence[RoundBits], options: SelectionOptions, known: Annotations | None
) -> Selection:
    """Keep the first 150 samples by a cut in round 0, and everyone as `learning` later."""
    selection = select(rounds, options, known)
    n_samples = selection.n_samples
    kept = bitmap.pack(np.arange(n_samples) < 150) if len(rounds) == 1 else bitmap.full(n_samples)
    value = 0.0 if len(rounds) == 1 else None
    verdict: Verdict = "separable" if len(rounds) == 1 else "learning"
    return replace(selection, bitmap=kept, verdict=verdict, threshold=Threshold("f1", value, None))


def test_a_round_without_a_cut_does_not_replace_an_earlier_set(quick: TrainSettings, digits: Dataset) -> None:
    settings = replace(quick, rounds=3, epochs=1, agree=1.0, finish="supervised", finish_epochs=1)
    history = run_rounds(settings, LocalSelector(select=abstain_after_round_0), digits)
    assert [record.n_selected for record in history.rounds] == [150, 200, 200]
    assert [record.n_members for record in history.rounds] == [200, 150, 150]
    assert history.set_round is history.rounds[0]
    assert history.finish_result is not None
    assert history.finish_result.n_kept == 150
    results = summary.summarise_training(history)
    assert (summary.describe_set_round(results) or "").startswith(
        "The clean set is that of round 0, the last that was cut: round 2 keeps everyone, as its verdict, learning,"
    )
    assert (
        "150 kept labels"
        in summary.describe_last_set(
            {**results, "rounds": [{**record, "precision": None, "recall": None} for record in results["rounds"]]}
        )[0].text
    )


def test_the_files_of_a_training_are_those_of_the_last_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "LocalSelector", partial(LocalSelector, select=abstain_after_round_0))
    monkeypatch.setattr(review_runs, "select", abstain_after_round_0)
    out = tmp_path / "out"
    arguments = ["--limit", "200", "--epochs", "1", "--rounds", "2", "--noise", "none", "--local", "--out", str(out)]
    result = CliRunner().invoke(cli.app, ["train", *arguments])
    assert result.exit_code == 0, result.output
    assert "How many of the 150 kept labels are wrong is not known" in result.output
    assert "The clean set is that of round 0, the last that was cut" in result.output
    assert "It is the set of round 0, the last that was cut. Next: " in result.output.splitlines()[-1]
    assert np.load(out / "clean.npy").tolist() == list(range(150))
    for name in ("report.html", "README.md"):
        assert "The clean set is that of round 0, the last that was cut" in (out / name).read_text()
    listed = CliRunner().invoke(cli.app, ["review", str(out), "--limit", "200", "--out", str(tmp_path / "list.csv")])
    assert listed.exit_code == 0, listed.output
    with (tmp_path / "list.csv").open(newline="") as file:
        assert sum(row["kept"] == "true" for row in csv.DictReader(file)) == 150


def test_a_training_without_any_cut_ends_with_its_last_set(quick: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(quick, rounds=2, epochs=1, agree=1.0), data=digits)
    assert [record.summary["verdict"] for record in history.rounds] == ["insufficient", "insufficient"]
    assert history.set_round is history.rounds[1]
    assert summary.describe_set_round(summary.summarise_training(history)) is None


def test_the_same_settings_give_the_same_training(
    quick: TrainSettings, digits: Dataset, uninterrupted: Uninterrupted
) -> None:
    first, _ = uninterrupted(quick)
    again, other = (run_rounds(settings, data=digits) for settings in (quick, replace(quick, seed=1)))
    assert outcome(first) == outcome(again)
    assert outcome(first) != outcome(other)


def test_carried_weights_start_where_the_round_before_ended(quick: TrainSettings, digits: Dataset) -> None:
    fresh, carried = (run_rounds(replace(quick, weights=kind), selecting(150), digits) for kind in ("fresh", "carry"))
    assert outcome(fresh)[0] == outcome(carried)[0]
    assert carried.rounds[1].epochs[0].train_loss < fresh.rounds[1].epochs[0].train_loss


def test_weighted_rounds_train_on_everyone_who_was_judged(weighted: TrainSettings, digits: Dataset) -> None:
    backend = LocalSelector()
    history = run_rounds(weighted, backend, digits)
    first, second = history.rounds
    given = backend.compute_weights(RoundResult(0, 200, first.selected, first.summary, None))
    assert len(np.unique(given)) > 4
    assert (bitmap.unpack(second.members, 200) == (given > 0)).all()
    assert second.n_members > first.n_selected
    held = backend.collect_rounds()[1].members
    assert held is not None
    assert (held == second.members).all()
    plain = run_rounds(replace(weighted, use="set"), data=digits).rounds
    assert (plain[0].selected == first.selected).all()
    assert plain[1].n_members == first.n_selected
    assert second.epochs[0].train_loss != plain[1].epochs[0].train_loss


def test_a_loss_that_is_no_number_is_not_sent() -> None:
    record = EpochRecord(0, 0, float("nan"), 0.5, 0.25, 1.0)
    assert record.to_metrics() == {"train_accuracy": 0.5, "test_accuracy": 0.25}
