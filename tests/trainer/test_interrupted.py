"""Trainings that were killed, or are repeated, go on where they were."""

import threading
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
    RunExists,
    SelectionBackend,
)
from mild_core.types import Observe
from mild_trainer.data import Dataset
from mild_trainer.errors import CheckpointError
from mild_trainer.settings import TrainSettings, Weights
from mild_trainer.training import checkpoint
from mild_trainer.training.history import RoundRecord
from mild_trainer.training.image_storage import THREAD_PREFIX
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.progress import Reporter
from tests.trainer.trainings import Killed, KilledAfter, Uninterrupted, outcome, weights


@pytest.mark.parametrize(("kind", "observe"), [("fresh", "all"), ("carry", "all"), ("fresh", "members")])
@pytest.mark.parametrize("killed", [{"epochs": 1}, {"epochs": 3}, {"rounds": 1}, {"epochs": 6}, {"rounds": 2}])
def test_a_killed_training_goes_on_bit_for_bit(
    kind: Weights,
    observe: Observe,
    killed: dict[str, int],
    quick: TrainSettings,
    digits: Dataset,
    tmp_path: Path,
    uninterrupted: Uninterrupted,
) -> None:
    plant = 0.0 if observe == "members" else quick.plant
    settings = replace(quick, weights=kind, observe=observe, plant=plant, checkpoint_every=2)
    whole, there = uninterrupted(settings)
    with pytest.raises(Killed):
        run_rounds(settings, data=digits, out=tmp_path, reporter=KilledAfter(**killed))
    resumed = run_rounds(settings, data=digits, out=tmp_path, resume=True)
    assert outcome(resumed) == outcome(whole)
    assert all(torch.equal(value, weights(there)[name]) for name, value in weights(tmp_path).items())


def test_a_killed_training_with_a_class_prior_goes_on_bit_for_bit(
    quick: TrainSettings, digits: Dataset, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    settings = replace(quick, class_prior="balanced")
    whole, _ = uninterrupted(settings)
    assert outcome(whole) != outcome(uninterrupted(quick)[0])
    with pytest.raises(Killed):
        run_rounds(settings, data=digits, out=tmp_path, reporter=KilledAfter(epochs=3))
    assert outcome(run_rounds(settings, data=digits, out=tmp_path, resume=True)) == outcome(whole)


def test_a_killed_training_with_cutout_goes_on_bit_for_bit_and_not_with_another_size(
    quick: TrainSettings, digits: Dataset, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    settings, out = replace(quick, cutout=3), tmp_path
    whole, there = uninterrupted(settings)
    with pytest.raises(Killed):
        run_rounds(settings, data=digits, out=out, reporter=KilledAfter(epochs=3))
    with pytest.raises(CheckpointError, match="written with cutout 3, got 0"):
        run_rounds(quick, data=digits, out=out, resume=True)
    assert outcome(run_rounds(settings, data=digits, out=out, resume=True)) == outcome(whole)
    assert all(torch.equal(value, weights(there)[name]) for name, value in weights(out).items())
    assert outcome(uninterrupted(quick)[0]) != outcome(whole)


def change_label(data: Dataset) -> Dataset:
    labels = data.y_train.copy()
    labels[3] = (labels[3] + 1) % data.n_classes
    return replace(data, y_train=labels)


def test_a_training_does_not_go_on_with_other_data(quick: TrainSettings, digits: Dataset, tmp_path: Path) -> None:
    quick, digits = replace(quick, limit=0), digits.take(np.arange(200))
    ids = np.array([f"{index}.png" for index in range(digits.n_samples)])
    data = replace(digits, sample_ids=ids, class_names=tuple("abcdefghij"))
    with pytest.raises(Killed):
        run_rounds(quick, data=data, out=tmp_path, reporter=KilledAfter(epochs=1))
    others = {
        "number of training samples": data.take(np.arange(data.n_samples - 1)),
        "names of samples": replace(data, sample_ids=ids[::-1]),
        "names of classes": replace(data, class_names=tuple("bacdefghij")),
        "given labels": change_label(data),
    }
    before = (tmp_path / "checkpoint.pt").read_bytes()
    for name, other in others.items():
        with pytest.raises(CheckpointError, match=rf"written with {name} (\w+ )?\w+, and .* now has .* another --out"):
            run_rounds(quick, data=other, out=tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert run_rounds(quick, data=data, out=tmp_path, resume=True).rounds


def test_a_file_of_labels_that_was_changed_stops_the_training_that_goes_on(
    quick: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    labels, out = tmp_path / "labels.npy", tmp_path / "out"
    settings, digits = replace(quick, noise="none", labels=labels, limit=0), digits.take(np.arange(200))
    np.save(labels, digits.y_train)
    with pytest.raises(Killed):
        run_rounds(settings, data=digits, out=out, reporter=KilledAfter(epochs=1))
    np.save(labels, change_label(digits).y_train)
    with pytest.raises(CheckpointError, match="given labels sha256"):
        run_rounds(settings, data=digits, out=out, resume=True)


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
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]


@pytest.mark.parametrize("killed", [{"epochs": 8}, {"rounds": 1}, {"epochs": 11}])
@pytest.mark.parametrize("through_service", [False, True])
def test_a_weighted_training_goes_on_bit_for_bit(
    through_service: bool,
    killed: dict[str, int],
    weighted: TrainSettings,
    digits: Dataset,
    tmp_path: Path,
    service: httpx.Client,
    uninterrupted: Uninterrupted,
) -> None:
    def backend() -> SelectionBackend:
        if through_service:
            return HttpBackend(MildClient("http://service", http=service))
        return LocalSelector(tmp_path / "bits")

    whole, there = uninterrupted(weighted)
    with pytest.raises(Killed):
        run_rounds(weighted, backend(), digits, run_id="cut", out=tmp_path, reporter=KilledAfter(**killed))
    resumed = run_rounds(weighted, backend(), digits, out=tmp_path, resume=True)
    assert outcome(resumed) == outcome(whole)
    assert all(torch.equal(value, weights(there)[name]) for name, value in weights(tmp_path).items())


@pytest.mark.parametrize("killed", [{"epochs": 3}, {"rounds": 1}])
def test_a_killed_training_goes_on_through_the_service(
    killed: dict[str, int],
    quick: TrainSettings,
    digits: Dataset,
    tmp_path: Path,
    service: httpx.Client,
    uninterrupted: Uninterrupted,
) -> None:
    def backend() -> SelectionBackend:
        return HttpBackend(MildClient("http://service", http=service))

    whole, _ = uninterrupted(quick)
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

    def again(reporter: Reporter) -> None:
        backend = HttpBackend(MildClient("http://service", http=service))
        run_rounds(settings, backend, digits, run_id="nd1", out=tmp_path, reporter=reporter)

    again(Reporter())
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
    stored = checkpoint.load_checkpoint(tmp_path, replace(quick, rounds=1)).rounds[0]
    record = history.rounds[0]
    assert stored.to_json() == record.to_json()
    assert (stored.fit, stored.agreement, stored.epochs) == (record.fit, record.agreement, record.epochs)
    bare = replace(record, fit=None, agreement=None)
    assert RoundRecord.from_json(bare.to_json()).to_json() == bare.to_json()


def test_what_changes_the_last_bits_is_fixed_where_the_same_bits_are_asked_for(
    quick: TrainSettings, digits: Dataset, tmp_path: Path
) -> None:
    free, exact = replace(quick, epochs=1, rounds=1), replace(quick, epochs=1, rounds=1, deterministic=True)
    run_rounds(free, data=digits, out=tmp_path / "free")
    assert checkpoint.load_checkpoint(tmp_path / "free", replace(free, threads=7)).position.round == 1
    run_rounds(exact, data=digits, out=tmp_path / "exact")
    assert torch.are_deterministic_algorithms_enabled()
    with pytest.raises(CheckpointError, match="written with threads 1, got 7"):
        checkpoint.load_checkpoint(tmp_path / "exact", replace(exact, threads=7))
    run_rounds(free, data=digits)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_checkpoint_brings_torchs_random_state_back(quick: TrainSettings, digits: Dataset, tmp_path: Path) -> None:
    settings = replace(quick, epochs=1, rounds=1)
    run_rounds(settings, data=digits, out=tmp_path)
    expected = torch.rand(5)
    torch.manual_seed(99)
    run_rounds(settings, data=digits, out=tmp_path, resume=True)
    assert torch.equal(torch.rand(5), expected)
