"""Trainings of which the service refuses something, at the start or later."""

from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from mild_client import BackgroundBackend, LocalSelector, MildClient, Position, RunExists
from mild_client.backends.record_log import RecordLog
from mild_client.backends.sync import handle_refused
from mild_client.errors import LocalStateError, NotAllowed
from mild_core.types import EpochBits
from tests.client.background.trainings import SPEC, Gate, local_set, put, stored, synced, training
from tests.client.wire import Reply
from tests.live import serving


def refused(spools: Path) -> list[tuple[str, str]]:
    return [(result.name, result.reason) for result in handle_refused(spools)]


def test_what_is_refused_is_set_aside_and_the_rest_arrives(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    gate.refused = {"/metrics/3": Reply.problem(422, "invalid-request")}
    with training(http, spools) as backend:
        backend.open(SPEC)
        used = put(backend, epochs)
    ((name, reason),) = refused(spools)
    assert name == "metrics-0-3"
    assert "limit, value, remedy (invalid-request, status 422, request r-1)" in reason
    assert stored(http)["bits"] == used.selected.tobytes() == local_set(epochs)
    assert synced(http, spools) == [(0, 1, 0)]


def test_a_key_that_is_no_longer_taken_leaves_all_to_be_sent_with_another_one(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools) as backend:
        backend.open(SPEC)
        gate.refused = {"/": Reply.problem(401, "unauthenticated")}
        used = put(backend, epochs)
    assert backend.n_unsent == 25
    assert synced(http, spools) == [(0, 0, 25)]
    gate.refused = {}
    assert synced(http, spools) == [(25, 0, 0)]
    assert stored(http)["bits"] == used.selected.tobytes()


def test_what_the_service_refuses_at_the_start_is_an_error(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools) as backend:
        backend.open(SPEC)
        put(backend, epochs)
    for other in (spools, spools.parent / "others"):
        with training(http, other) as backend, pytest.raises(RunExists, match="is at round 1; choose another run id"):
            backend.open(SPEC)
    gate.refused = {"/": Reply.problem(401, "unauthenticated")}
    with training(http, spools.parent / "third") as backend, pytest.raises(NotAllowed):
        backend.open(SPEC)


def test_a_name_that_was_used_without_the_service_is_not_used_again(
    http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools, "offline") as backend:
        backend.open(SPEC)
        put(backend, epochs)
    with training(http, spools, "offline") as backend, pytest.raises(RunExists, match=r"26 records .* not sent yet"):
        backend.open(SPEC)
    assert synced(http, spools) == [(26, 0, 0)]
    with training(http, spools, "offline") as backend, pytest.raises(RunExists, match="was written before"):
        backend.open(SPEC)
    (evidence,) = LocalSelector(spools / "a-run").read_rounds(SPEC, 1)
    assert evidence.n_epochs == len(epochs)


def test_another_offline_training_of_the_same_name_is_set_aside_whole(
    http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    for folder in (spools / "one", spools / "two"):
        with training(http, folder, "offline") as backend:
            backend.open(SPEC)
            put(backend, epochs[: len(folder.name)])
    assert synced(http, spools) == [(8, 0, 0), (0, 8, 0)]
    reasons = [reason for _, reason in refused(spools / "two")]
    assert sum("run 'a-run' exists already" in reason for reason in reasons) == 1
    assert sum("was not opened, which was refused before" in reason for reason in reasons) == 7


def test_a_backend_whose_run_was_refused_may_open_it_otherwise(
    app: FastAPI, spools: Path, epochs: list[EpochBits]
) -> None:
    with serving(app) as url:
        with BackgroundBackend(url, spools) as backend:
            backend.open(SPEC)
            backend.put_labels(np.arange(600) % 10)
            backend.put_epoch(0, 0, epochs[0])
        with BackgroundBackend(url, spools) as backend:
            with pytest.raises(RunExists):
                backend.open(SPEC)
            with pytest.raises(LocalStateError, match="not open here"):
                backend.put_epoch(0, 1, epochs[1])
            assert backend.open(SPEC, Position(0, 1)).round == 0
            backend.put_labels(np.arange(600) % 10)
            for number in range(1, len(epochs)):
                backend.put_epoch(0, number, epochs[number])
            result = backend.finish(0)
        assert result.summary["basis"] == "stored"
        kinds = [entry.record.kind for entry in RecordLog(spools / "a-run").read() if entry.record is not None]
        assert kinds.count("labels") == 1
        with pytest.raises(LocalStateError, match="not open here"):
            backend.finish(1)
        assert backend.compute_weights(result).shape == (600,)  # with the service or without it


def test_a_run_that_is_resumed_at_its_beginning_tells_a_service_that_has_lost_it_what_came_before(
    app: FastAPI, spools: Path
) -> None:
    ids = [f"id-{index}" for index in range(600)]
    with serving(app) as url, MildClient(url) as client:
        for resume_from in (None, Position(0, 0)):
            with BackgroundBackend(url, spools) as backend:
                backend.open(SPEC, resume_from)
                backend.put_sample_ids(ids)
            assert client.sample_ids("a-run") == ids
            client.delete_run("a-run")
