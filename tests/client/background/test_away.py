"""Trainings whose service is there, away for a while, slow, or gone for good."""

from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from mild_client import BackgroundBackend, LocalSelector
from mild_client.backends.sync import sync_spools
from mild_core import bitmap
from mild_core.types import EpochBits
from tests.client.background.trainings import SPEC, Gate, local_set, put, stored, synced, training
from tests.client.wire import SILENCE, Reply
from tests.client.wire import serving as answering


def test_a_service_that_is_there_has_everything_and_makes_the_sets(
    http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools) as backend:
        assert backend.open(SPEC).round == 0
        backend.put_planted(bitmap.from_indices(np.array([1]), 600))
        first = put(backend, epochs)
        assert first.summary["basis"] == "stored"
        assert backend.finish(0) is first
        weights = backend.compute_weights(first)
        backend.put_members(1, first.selected)
        put(backend, epochs, round=1)
        assert backend.n_unsent == 0
        assert backend.describe_unsent() == ""
    found = stored(http)
    assert found["bits"] == first.selected.tobytes()
    assert found["basis"] == "stored"
    assert weights.shape == (600,)
    assert stored(http, 1)["round"] == 1
    assert synced(http, spools) == [(0, 0, 0)]


def test_a_service_that_is_away_for_a_whole_training_gets_everything_later(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits], caplog: pytest.LogCaptureFixture
) -> None:
    gate.is_shut = True
    with BackgroundBackend("http://service", spools, drain=0.1, http=http, patience=60) as backend:
        backend.open(SPEC)
        used = put(backend, epochs)
        assert used.selected.tobytes() == local_set(epochs)
        weights = backend.compute_weights(used)
    assert "recorded without the service" in caplog.text
    assert f"mild sync {spools / 'a-run'}" in caplog.text
    assert [(each.run_id, each.n_unsent) for each in sync_spools(spools, dry_run=True)] == [("a-run", 26)]
    assert np.array_equal(weights, _local_weights(epochs))

    gate.is_shut = False
    assert synced(http, spools) == [(26, 0, 0)]
    found = stored(http)
    assert (found["basis"], found["differs"], found["bits"]) == ("client", 0, used.selected.tobytes())
    assert synced(http, spools) == [(0, 0, 0)]


def _local_weights(epochs: list[EpochBits]) -> NDArray[np.float32]:
    selector = LocalSelector()
    selector.open(SPEC)
    return selector.compute_weights(put(selector, epochs))


def test_a_service_that_goes_and_comes_back_gets_everything_in_order(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools) as backend:
        backend.open(SPEC)
        backend.put_epoch(0, 0, epochs[0])
        assert backend.flush(30)
        gate.is_shut = True
        used = put(backend, epochs)  # at once: nobody waits for a service that is away
        assert "basis" not in used.summary
        gate.is_shut = False
        second = put(backend, epochs, round=1)
        assert second.summary.get("basis", "local") in {"stored", "local"}
    assert stored(http)["bits"] == used.selected.tobytes()
    assert stored(http, 1)["bits"] == second.selected.tobytes()
    assert [line for line in gate.seen if "/rounds/0/epochs/" in line] == [
        f"PUT /runs/a-run/rounds/0/epochs/{number}" for number in range(12)
    ]


def test_a_slow_service_is_not_waited_for_beyond_the_patience(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with BackgroundBackend("http://service", spools, drain=30, patience=0.2, http=http) as backend:
        backend.open(SPEC)
        gate.passing.clear()
        used = put(backend, epochs)
        assert used.selected.tobytes() == local_set(epochs)
        gate.passing.set()
    assert backend.n_unsent == 0
    assert stored(http)["bits"] == used.selected.tobytes()


def test_a_store_that_is_full_is_waited_for(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools, drain=0.5) as backend:
        backend.open(SPEC)
        gate.refused = {"/epochs/0": Reply.problem(507, "store-full")}
        put(backend, epochs)
    assert backend.n_unsent == 25
    gate.refused = {}
    assert synced(http, spools) == [(25, 0, 0)]


def test_a_service_that_never_answers_holds_the_end_up_for_the_drain_at_most(
    spools: Path, epochs: list[EpochBits], caplog: pytest.LogCaptureFixture
) -> None:
    opened = Reply(body=b'{"attempt": 1, "round": 0, "rounds": [{"round": 0, "num_epochs": 0}]}')
    with answering(opened, opened, SILENCE) as server:
        backend = BackgroundBackend(server.url, spools, patience=60, drain=0.1)
        backend.open(SPEC)
        backend.put_epoch(0, 0, epochs[0])
        backend.close()
        assert backend.n_unsent == 1
        assert "1 records" in caplog.text
        backend.close()
