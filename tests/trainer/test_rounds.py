import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from mild_client import (
    HttpBackend,
    LocalSelector,
    MildClient,
    RoundResult,
    RunExists,
    SelectionBackend,
    SelectionOptions,
)
from mild_core import bitmap
from mild_core.beside import Beside
from mild_core.selection import select
from mild_core.types import Observe, RoundBits, Selection
from mild_trainer import checkpoint
from mild_trainer.data import Dataset
from mild_trainer.errors import CheckpointError
from mild_trainer.history import EpochRecord, History, RoundRecord
from mild_trainer.progress import Silent
from mild_trainer.rounds import run_rounds
from mild_trainer.settings import TrainSettings, Weights
from mild_trainer.staging import THREAD


class Killed(Exception):
    """Stands in for the end of the process."""


class KilledAfter(Silent):
    """Ends the training when so many epochs, or rounds, are done."""

    def __init__(self, epochs: int = 0, rounds: int = 0) -> None:
        self.epochs, self.rounds = epochs, rounds

    def epoch_done(self, record: EpochRecord) -> None:
        self.epochs -= 1
        if self.epochs == 0:
            raise Killed

    def round_done(self, record: RoundRecord) -> None:
        self.rounds -= 1
        if self.rounds == 0:
            raise Killed


def selecting(n_kept: int) -> LocalSelector:
    """A backend that keeps the first `n_kept` samples, whatever the bits."""

    def chosen(rounds: Sequence[RoundBits], options: SelectionOptions, beside: Beside | None) -> Selection:
        kept = bitmap.pack(np.arange(rounds[-1].n_samples) < n_kept)
        return replace(select(rounds, options, beside), bitmap=kept)

    return LocalSelector(select=chosen)


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
    from safetensors.torch import load_file

    return load_file(out / "model.safetensors")


def test_finds_most_of_the_clean_digits(digits: Dataset) -> None:
    settings = TrainSettings.for_dataset("digits", noise="symmetric:0.4", epochs=10, rounds=1, oracle=True)
    history = run_rounds(settings, data=digits)
    (record,) = history.rounds
    assert record.agreement is not None
    assert record.agreement.f1 > 0.95
    assert record.test_accuracy > 0.8
    assert history.true_noise == pytest.approx(0.36, abs=0.01)
    assert record.estimated_noise == pytest.approx(0.36, abs=0.06)
    assert history.oracle is not None
    assert history.baseline is not None
    assert history.oracle > history.baseline
    assert history.ended == "the only round is done"


@pytest.mark.parametrize("observe", ["all", "mixed", "members"])
def test_bits_say_who_was_observed(observe: Observe, quick: TrainSettings, digits: Dataset) -> None:
    backend = selecting(120)
    settings = replace(quick, observe=observe, plant=0.0 if observe == "members" else quick.plant)
    history = run_rounds(settings, backend, digits, keep_bits=True)
    assert [len(record.bits) for record in history.rounds] == [4, 4]
    first, second = backend.evidence()[:2]
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


def test_a_run_without_noise_or_truth_reports_neither(quick: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(quick, noise="none", rounds=1, epochs=1, oracle=True), data=digits)
    assert history.true_noise is None
    assert history.rounds[0].agreement is None
    assert history.oracle is None


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
    assert "two consecutive clean sets agree (Jaccard 1.000" in history.ended


def test_ends_when_nobody_is_left_to_train_on(quick: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(quick, rounds=5, epochs=2), selecting(1), digits)
    assert history.ended == "round 0 kept 1 sample, and training takes at least 2"


def test_two_samples_are_enough_to_go_on(quick: TrainSettings, digits: Dataset) -> None:
    history = run_rounds(replace(quick, rounds=2, epochs=1), selecting(2), digits)
    assert [record.n_members for record in history.rounds] == [200, 2]


def test_no_oracle_without_clean_samples(quick: TrainSettings, digits: Dataset) -> None:
    settings = replace(quick, noise="symmetric-exclusive:1", rounds=1, epochs=1, oracle=True)
    assert run_rounds(settings, data=digits).oracle is None


def test_the_same_settings_give_the_same_training(quick: TrainSettings, digits: Dataset) -> None:
    first, again = (run_rounds(quick, data=digits) for _ in range(2))
    other = run_rounds(replace(quick, seed=1), data=digits)
    assert outcome(first) == outcome(again)
    assert outcome(first) != outcome(other)


def test_carried_weights_start_where_the_round_before_ended(quick: TrainSettings, digits: Dataset) -> None:
    fresh, carried = (run_rounds(replace(quick, weights=kind), selecting(150), digits) for kind in ("fresh", "carry"))
    assert outcome(fresh)[0] == outcome(carried)[0]
    assert carried.rounds[1].epochs[0].train_loss < fresh.rounds[1].epochs[0].train_loss


@pytest.mark.parametrize(("kind", "observe"), [("fresh", "all"), ("carry", "all"), ("fresh", "members")])
@pytest.mark.parametrize("killed", [{"epochs": 1}, {"epochs": 3}, {"rounds": 1}, {"epochs": 6}, {"rounds": 2}])
def test_a_killed_training_goes_on_bit_for_bit(
    kind: Weights, observe: Observe, killed: dict[str, int], quick: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    plant = 0.0 if observe == "members" else quick.plant
    settings = replace(quick, weights=kind, observe=observe, plant=plant, checkpoint_every=2)
    whole = run_rounds(settings, data=digits, out=tmp_path / "whole")
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        run_rounds(settings, data=digits, out=out, reporter=KilledAfter(**killed))
    resumed = run_rounds(settings, data=digits, out=out, resume=True)
    assert outcome(resumed) == outcome(whole)
    assert all(torch.equal(value, weights(tmp_path / "whole")[name]) for name, value in weights(out).items())


def test_a_killed_training_with_cutout_goes_on_bit_for_bit_and_not_with_another_size(
    quick: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    settings, out = replace(quick, cutout=3), tmp_path / "killed"
    whole = run_rounds(settings, data=digits, out=tmp_path / "whole")
    with pytest.raises(Killed):
        run_rounds(settings, data=digits, out=out, reporter=KilledAfter(epochs=3))
    with pytest.raises(CheckpointError, match="written with cutout 3, got 0"):
        run_rounds(quick, data=digits, out=out, resume=True)
    assert outcome(run_rounds(settings, data=digits, out=out, resume=True)) == outcome(whole)
    assert all(torch.equal(value, weights(tmp_path / "whole")[name]) for name, value in weights(out).items())
    assert outcome(run_rounds(quick, data=digits)) != outcome(whole)


def test_a_training_comes_to_the_same_wherever_its_images_lie_and_may_go_on_elsewhere(
    quick: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    there = replace(quick, cutout=2, observe="mixed", finish="mixmatch", ema=0.9, data_on="device", deterministic=True)
    here, out = replace(there, data_on="host"), tmp_path / "here"
    whole = run_rounds(there, data=digits, out=tmp_path / "there")
    with pytest.raises(Killed):
        run_rounds(there, data=digits, out=out, reporter=KilledAfter(epochs=3))
    assert outcome(run_rounds(here, data=digits, out=out, resume=True)) == outcome(whole)
    assert all(torch.equal(value, weights(tmp_path / "there")[name]) for name, value in weights(out).items())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


@pytest.fixture
def weighted(quick: TrainSettings) -> TrainSettings:
    """Long enough to be fitted, so that the weights lie between 0 and 1."""
    return replace(quick, epochs=8, use="weights", selection=SelectionOptions())


@pytest.mark.parametrize("killed", [{"epochs": 8}, {"rounds": 1}, {"epochs": 11}])
@pytest.mark.parametrize("through_service", [False, True])
def test_a_weighted_training_goes_on_bit_for_bit(
    through_service: bool,
    killed: dict[str, int],
    weighted: TrainSettings,
    digits: Dataset,
    tmp_path: Path,
    service: httpx.Client,
) -> None:
    def backend(out: Path) -> SelectionBackend:
        if through_service:
            return HttpBackend(MildClient("http://service", http=service))
        return LocalSelector(out / "bits")

    first, second = tmp_path / "whole", tmp_path / "killed"
    whole = run_rounds(weighted, backend(first), digits, run_id="whole", out=first)
    with pytest.raises(Killed):
        run_rounds(weighted, backend(second), digits, run_id="cut", out=second, reporter=KilledAfter(**killed))
    resumed = run_rounds(weighted, backend(second), digits, out=second, resume=True)
    assert outcome(resumed) == outcome(whole)
    assert all(torch.equal(value, weights(first)[name]) for name, value in weights(second).items())


def test_weighted_rounds_train_on_everyone_who_was_judged(weighted: TrainSettings, digits: Dataset) -> None:
    backend = LocalSelector()
    history = run_rounds(weighted, backend, digits)
    first, second = history.rounds
    given = backend.weights(RoundResult(0, 200, first.selected, first.summary, None))
    assert len(np.unique(given)) > 4
    assert (bitmap.unpack(second.members, 200) == (given > 0)).all()
    assert second.n_members > first.n_selected
    held = backend.evidence()[1].members
    assert held is not None
    assert (held == second.members).all()
    plain = run_rounds(replace(weighted, use="set"), data=digits).rounds
    assert (plain[0].selected == first.selected).all()
    assert plain[1].n_members == first.n_selected
    assert second.epochs[0].train_loss != plain[1].epochs[0].train_loss


@pytest.mark.parametrize("killed", [{"epochs": 3}, {"rounds": 1}])
def test_a_killed_training_goes_on_through_the_service(
    killed: dict[str, int], quick: TrainSettings, digits: Dataset, tmp_path: Path, service: httpx.Client
) -> None:
    def backend() -> SelectionBackend:
        return HttpBackend(MildClient("http://service", http=service))

    whole = run_rounds(quick, backend(), digits, run_id="whole")
    with pytest.raises(Killed):
        run_rounds(quick, backend(), digits, run_id="killed", out=tmp_path, reporter=KilledAfter(**killed))
    resumed = run_rounds(quick, backend(), digits, run_id="ignored", out=tmp_path, resume=True)
    assert outcome(resumed) == outcome(whole)
    run = service.get("/runs/killed").json()
    assert [round["num_epochs"] for round in run["rounds"]] == [4, 4, 0]
    assert [round["num_planted"] for round in run["rounds"]] == [4, 0, 0]
    assert run["attempt"] == 2
    assert set(run["rounds"][0]["metrics"]["0"]) == {"train_loss", "train_accuracy", "test_accuracy"}


def test_repeating_a_finished_run_trains_nothing_and_leaves_its_checkpoint(
    quick: TrainSettings, digits: Dataset, tmp_path: Path, service: httpx.Client
) -> None:
    settings = replace(quick, epochs=1, rounds=1)

    def again(reporter: Silent) -> None:
        backend = HttpBackend(MildClient("http://service", http=service))
        run_rounds(settings, backend, digits, run_id="nd1", out=tmp_path, reporter=reporter)

    again(Silent())
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(RunExists, match="run 'nd1' exists already and is at round 1"):
        again(KilledAfter(epochs=1))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_finished_training_resumes_to_its_result_and_to_more_rounds(
    quick: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    first = run_rounds(quick, data=digits, out=tmp_path)
    again = run_rounds(quick, data=digits, out=tmp_path, resume=True)
    assert outcome(again) == outcome(first)
    more = run_rounds(replace(quick, rounds=3), data=digits, out=tmp_path, resume=True)
    assert outcome(more)[:2] == outcome(first)
    assert len(more.rounds) == 3


def test_resuming_with_other_settings_is_refused(quick: TrainSettings, digits: Dataset, tmp_path: Path) -> None:
    run_rounds(replace(quick, epochs=1, rounds=1), data=digits, out=tmp_path)
    with pytest.raises(CheckpointError, match=r"written with epochs 1, got 4"):
        run_rounds(quick, data=digits, out=tmp_path, resume=True)


def test_resuming_needs_a_checkpoint_that_can_be_read(quick: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist; leave out --resume"):
        run_rounds(quick, out=tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"half of it")
    with pytest.raises(CheckpointError, match="is damaged"):
        run_rounds(quick, out=tmp_path, resume=True)


def test_no_checkpoint_is_written_where_none_is_wanted(quick: TrainSettings, digits: Dataset, tmp_path: Path) -> None:
    run_rounds(replace(quick, epochs=1, rounds=1, checkpoint_every=0), data=digits, out=tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()
    (tmp_path / "neighbour").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "neighbour").stat().st_mode


def test_a_record_survives_its_way_through_json(quick: TrainSettings, digits: Dataset, tmp_path: Path) -> None:
    history = run_rounds(replace(quick, rounds=1), data=digits, out=tmp_path)
    stored = checkpoint.load(tmp_path, replace(quick, rounds=1)).rounds[0]
    record = history.rounds[0]
    assert stored.to_json() == record.to_json()
    assert (stored.fit, stored.agreement, stored.epochs) == (record.fit, record.agreement, record.epochs)
    bare = replace(record, fit=None, agreement=None)
    assert RoundRecord.from_json(bare.to_json()).to_json() == bare.to_json()


def test_a_loss_that_is_no_number_is_not_sent() -> None:
    record = EpochRecord(0, 0, float("nan"), 0.5, 0.25, 1.0)
    assert record.metrics() == {"train_accuracy": 0.5, "test_accuracy": 0.25}


def test_what_changes_the_last_bits_is_fixed_where_the_same_bits_are_asked_for(
    quick: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    free, exact = replace(quick, epochs=1, rounds=1), replace(quick, epochs=1, rounds=1, deterministic=True)
    run_rounds(free, data=digits, out=tmp_path / "free")
    assert checkpoint.load(tmp_path / "free", replace(free, threads=7)).position.round == 1
    run_rounds(exact, data=digits, out=tmp_path / "exact")
    assert torch.are_deterministic_algorithms_enabled()
    with pytest.raises(CheckpointError, match="written with threads 1, got 7"):
        checkpoint.load(tmp_path / "exact", replace(exact, threads=7))
    run_rounds(free, data=digits)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_checkpoint_brings_torchs_random_state_back(quick: TrainSettings, digits: Dataset, tmp_path: Path) -> None:
    settings = replace(quick, epochs=1, rounds=1)
    run_rounds(settings, data=digits, out=tmp_path)
    expected = torch.rand(5)
    torch.manual_seed(99)
    run_rounds(settings, data=digits, out=tmp_path, resume=True)
    assert torch.equal(torch.rand(5), expected)
