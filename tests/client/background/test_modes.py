"""Trainings that are told not to send, where to keep what they record, and how much of it."""

from pathlib import Path

import httpx
import pytest

from mild_client import BackgroundBackend, Position
from mild_client.backends.sync import sync_spools
from mild_client.errors import LocalStateError
from mild_core.errors import ParameterError
from mild_core.types import EpochBits
from tests.client.background.trainings import SPEC, Gate, local_set, put, stored, synced, training


def test_offline_needs_no_address_and_is_synced_twice(
    http: httpx.Client, spools: Path, epochs: list[EpochBits], caplog: pytest.LogCaptureFixture
) -> None:
    with BackgroundBackend(None, spools, "offline") as backend:
        backend.open(SPEC)
        put(backend, epochs)
        assert not backend.flush(0)
    assert "--url URL" in caplog.text
    nowhere = list(sync_spools(spools))
    assert [(each.n_unsent, each.problem) for each in nowhere] == [(26, "it names no service; give --url")]
    assert synced(http, spools) == [(26, 0, 0)]

    with BackgroundBackend(None, spools, "offline") as backend:  # it goes on in round 1, and is sent again
        assert backend.open(SPEC, Position(1, 0)).round == 1
        put(backend, epochs, round=1)
    assert synced(http, spools) == [(26, 0, 0)]
    assert synced(http, spools) == [(0, 0, 0)]
    assert stored(http, 1)["basis"] == "client"


def test_disabled_writes_and_sends_nothing(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILD_MODE", "disabled")
    with BackgroundBackend(None, spools) as backend:
        backend.open(SPEC)
        assert put(backend, epochs).selected.tobytes() == local_set(epochs)
    assert not spools.exists()
    assert not gate.seen


def test_a_full_spool_ends_the_record_and_not_the_training(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits], caplog: pytest.LogCaptureFixture
) -> None:
    with training(http, spools, "offline", spool_bytes=1200) as backend:
        backend.open(SPEC)
        assert put(backend, epochs).selected.tobytes() == local_set(epochs)
    assert caplog.text.count("MILD_SPOOL_BYTES") == 1
    assert "nothing more of the run is kept" in caplog.text
    (found,) = sync_spools(spools, dry_run=True)
    assert 2 < found.n_unsent < 26
    assert synced(http, spools) == [(found.n_unsent, 0, 0)]


def test_the_mode_is_one_of_three_and_online_needs_an_address(monkeypatch: pytest.MonkeyPatch, spools: Path) -> None:
    with pytest.raises(ParameterError, match="mode is online and there is no url"):
        BackgroundBackend(None, spools)
    monkeypatch.setenv("MILD_MODE", "onlin")
    with pytest.raises(ParameterError, match="the mode is 'onlin'; choose one of online, offline, disabled"):
        BackgroundBackend("http://service", spools)
    monkeypatch.setenv("MILD_SPOOL_BYTES", "1e9")
    with pytest.raises(ParameterError, match="the spool's limit is '1e9'; give a number of bytes"):
        BackgroundBackend("http://service", spools, "offline")


def test_the_folder_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, spools: Path, epochs: list[EpochBits]
) -> None:
    monkeypatch.setenv("MILD_SPOOL_DIR", str(spools))
    with BackgroundBackend(None, mode="offline") as backend:
        with pytest.raises(LocalStateError, match="not open"):
            backend.put_metrics(0, 0, {"train_loss": 1.0})
        backend.open(SPEC)
        put(backend, epochs)
    assert [each.n_unsent for each in sync_spools(spools, dry_run=True)] == [26]
