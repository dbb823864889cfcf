"""Trainings whose service is there, away, slow or refusing: the real service in the process, or none at all."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray

from mild_client import BackgroundBackend, LocalSelector, MildClient, Position, RoundResult, RunExists, RunSpec
from mild_client.defaults import Mode
from mild_client.errors import LocalStateError, NotAllowed, ResumeError, StaleAttempt
from mild_client.sync import look, sync
from mild_core import bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits
from tests.client.wire import SILENCE, Reply
from tests.client.wire import serving as answering
from tests.inprocess import InProcess, running

SPEC = RunSpec("a-run", 600, n_classes=10, tags={"model": "small"})


class Gate(httpx.BaseTransport):
    """The way to the service, which can be shut: then nobody answers. Counts and can refuse what comes by."""

    def __init__(self, inner: InProcess) -> None:
        self.inner = inner
        self.is_shut = False
        self.refused: dict[str, Reply] = {}
        self.seen: list[str] = []
        self.passing = threading.Event()
        self.passing.set()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        line = f"{request.method} {request.url.path}"
        self.passing.wait(60)
        if self.is_shut:
            raise httpx.ConnectError("connection refused")
        self.seen.append(line)
        for part, reply in self.refused.items():
            if part in line:
                return httpx.Response(reply.status or 500, content=reply.body, headers=dict(reply.headers))
        return self.inner.handle_request(request)


@pytest.fixture
def gate(app: FastAPI) -> Iterator[Gate]:
    with running(app) as transport:
        yield Gate(transport)


@pytest.fixture
def http(gate: Gate) -> Iterator[httpx.Client]:
    with httpx.Client(transport=gate, base_url="http://service") as client:
        yield client


@pytest.fixture
def spools(tmp_path: Path) -> Path:
    return tmp_path / "spools"


@contextmanager
def training(
    http: httpx.Client, spools: Path, mode: Mode = "online", spool_bytes: int | None = None, drain: float = 20
) -> Iterator[BackgroundBackend]:
    with BackgroundBackend("http://service", spools, mode, spool_bytes=spool_bytes, drain=drain, http=http) as backend:
        yield backend


def put(backend: BackgroundBackend | LocalSelector, epochs: list[EpochBits], round: int = 0) -> RoundResult:
    for number, bits in enumerate(epochs):
        backend.put_epoch(round, number, bits)
        backend.put_metrics(round, number, {"train_loss": 1.0})
    return backend.finish(round)


def local_set(epochs: list[EpochBits]) -> bytes:
    selector = LocalSelector()
    selector.open(SPEC)
    return put(selector, epochs).selected.tobytes()


def stored(http: httpx.Client, round: int = 0) -> dict[str, object]:
    with MildClient("http://service", http) as client:
        found = client.selection("a-run", round)
        found["bits"] = client.selected("a-run", 600, round).tobytes()
        return found


def synced(http: httpx.Client, spools: Path) -> list[tuple[int, int, int]]:
    found = sync(spools, "http://service", connect=lambda url: MildClient(url, http))
    return [(each.n_sent, each.n_refused, each.n_left) for each in found]


def test_a_service_that_is_there_has_everything_and_makes_the_sets(
    http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools) as backend:
        assert backend.open(SPEC).round == 0
        backend.put_planted(bitmap.from_indices(np.array([1]), 600))
        first = put(backend, epochs)
        assert first.summary["basis"] == "stored"
        assert backend.finish(0) is first
        weights = backend.weights(first)
        backend.put_members(1, first.selected)
        put(backend, epochs, round=1)
        assert backend.n_left == 0
        assert backend.told_left() == ""
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
        weights = backend.weights(used)
    assert "recorded without the service" in caplog.text
    assert f"mild sync {spools / 'a-run'}" in caplog.text
    assert [(each.run_id, each.n_left) for each in look(spools)] == [("a-run", 27)]
    assert np.array_equal(weights, _local_weights(epochs))

    gate.is_shut = False
    assert synced(http, spools) == [(27, 0, 0)]
    found = stored(http)
    assert (found["basis"], found["differs"], found["bits"]) == ("client", 0, used.selected.tobytes())
    assert synced(http, spools) == [(0, 0, 0)]


def _local_weights(epochs: list[EpochBits]) -> NDArray[np.float32]:
    selector = LocalSelector()
    selector.open(SPEC)
    return selector.weights(put(selector, epochs))


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
        f"PUT /runs/a-run/rounds/0/epochs/{number}" for number in (0, *range(12))
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
    assert backend.n_left == 0
    assert stored(http)["bits"] == used.selected.tobytes()


def test_offline_needs_no_address_and_is_synced_twice(
    http: httpx.Client, spools: Path, epochs: list[EpochBits], caplog: pytest.LogCaptureFixture
) -> None:
    with BackgroundBackend(None, spools, "offline") as backend:
        backend.open(SPEC)
        put(backend, epochs)
        assert not backend.flush(0)
    assert "--url URL" in caplog.text
    nowhere = list(sync(spools))
    assert [(each.n_left, each.trouble) for each in nowhere] == [(27, "it names no service; give --url")]
    assert synced(http, spools) == [(27, 0, 0)]

    with BackgroundBackend(None, spools, "offline") as backend:  # it goes on in round 1, and is sent again
        assert backend.open(SPEC, Position(1, 0)).round == 1
        put(backend, epochs, round=1)
    assert synced(http, spools) == [(27, 0, 0)]
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


def test_what_is_refused_is_set_aside_and_the_rest_arrives(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    gate.refused = {"/metrics/3": Reply.problem(422, "invalid-request")}
    with training(http, spools) as backend:
        backend.open(SPEC)
        used = put(backend, epochs)
    (reason,) = (spools / "a-run" / "refused").glob("*.txt")
    assert "limit, value, remedy (invalid-request, status 422, request r-1)" in reason.read_text()
    assert stored(http)["bits"] == used.selected.tobytes() == local_set(epochs)
    assert synced(http, spools) == [(0, 1, 0)]


def test_a_key_that_is_no_longer_taken_leaves_all_to_be_sent_with_another_one(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools) as backend:
        backend.open(SPEC)
        gate.refused = {"/": Reply.problem(401, "unauthenticated")}
        used = put(backend, epochs)
    assert backend.n_left == 26
    assert synced(http, spools) == [(0, 0, 26)]
    gate.refused = {}
    assert synced(http, spools) == [(26, 0, 0)]
    assert stored(http)["bits"] == used.selected.tobytes()


def test_a_store_that_is_full_is_waited_for(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    with training(http, spools, drain=0.5) as backend:
        backend.open(SPEC)
        gate.refused = {"/epochs/0": Reply.problem(507, "store-full")}
        put(backend, epochs)
    assert backend.n_left == 26
    gate.refused = {}
    assert synced(http, spools) == [(26, 0, 0)]


def test_a_full_spool_ends_the_record_and_not_the_training(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits], caplog: pytest.LogCaptureFixture
) -> None:
    with training(http, spools, "offline", spool_bytes=1200) as backend:
        backend.open(SPEC)
        assert put(backend, epochs).selected.tobytes() == local_set(epochs)
    assert caplog.text.count("MILD_SPOOL_BYTES") == 1
    assert "nothing more of the run is kept" in caplog.text
    (found,) = look(spools)
    assert 2 < found.n_left < 27
    assert synced(http, spools) == [(found.n_left, 0, 0)]


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
    with training(http, spools, "offline") as backend, pytest.raises(RunExists, match=r"27 records .* not sent yet"):
        backend.open(SPEC)
    assert synced(http, spools) == [(27, 0, 0)]
    with training(http, spools, "offline") as backend, pytest.raises(RunExists, match="was written before"):
        backend.open(SPEC)
    assert (spools / "a-run" / "bits" / "round-0" / "epoch-3.bits").exists()


def test_another_offline_training_of_the_same_name_is_set_aside_whole(
    http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    for folder in (spools / "one", spools / "two"):
        with training(http, folder, "offline") as backend:
            backend.open(SPEC)
            put(backend, epochs[: len(folder.name)])
    assert synced(http, spools) == [(9, 0, 0), (0, 9, 0)]
    reasons = sorted(path.read_text() for path in (spools / "two" / "a-run" / "refused").glob("*.txt"))
    assert sum("run 'a-run' exists already" in reason for reason in reasons) == 1
    assert sum("was not opened, which was refused before" in reason for reason in reasons) == 8


def test_a_trainer_that_was_killed_goes_on_behind_what_it_had_spooled(
    gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]
) -> None:
    backend = BackgroundBackend("http://service", spools, drain=0.1, http=http)
    backend.open(SPEC)
    assert backend.flush(30)
    gate.is_shut = True
    for number, bits in enumerate(epochs[:5]):
        backend.put_epoch(0, number, bits)
    backend.close()  # all that a killed process leaves to its successor is its folder
    gate.is_shut = False
    with training(http, spools) as backend:
        backend.open(SPEC, Position(0, 3))
        for number in range(3, 12):
            backend.put_epoch(0, number, epochs[number])
        result = backend.finish(0)
    assert result.summary["basis"] == "stored"
    assert result.selected.tobytes() == local_set(epochs)
    with training(http, spools) as backend:  # killed again, between the end of the round and its checkpoint
        backend.open(SPEC, Position(0, 12))
        assert backend.finish(0).selected.tobytes() == local_set(epochs)


def test_a_trainer_that_is_replaced_ends(gate: Gate, http: httpx.Client, spools: Path, epochs: list[EpochBits]) -> None:
    with training(http, spools) as backend:
        backend.open(SPEC)
        backend.put_epoch(0, 0, epochs[0])
        assert backend.flush(30)
        with MildClient("http://service", http) as client:
            client.open_run(SPEC, Position(0, 1))
        backend.put_epoch(0, 1, epochs[1])
        backend.flush(30)
        with pytest.raises(StaleAttempt):
            backend.put_epoch(0, 2, epochs[2])
        with pytest.raises(StaleAttempt):
            backend.finish(0)


def test_an_interrupted_training_needs_its_bits(http: httpx.Client, spools: Path) -> None:
    with training(http, spools) as backend, pytest.raises(ResumeError, match="cannot resume at round 0, epoch 3"):
        backend.open(SPEC, Position(0, 3))


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
            backend.put_metrics(0, 0, {})
        backend.open(SPEC)
        put(backend, epochs)
    assert [each.n_left for each in look(spools)] == [27]


def test_a_service_that_never_answers_holds_the_end_up_for_the_drain_at_most(
    spools: Path, epochs: list[EpochBits], caplog: pytest.LogCaptureFixture
) -> None:
    opened = Reply(body=b'{"attempt": 1, "round": 0, "rounds": [{"round": 0, "num_epochs": 0}]}')
    with answering(opened, opened, SILENCE) as server:
        backend = BackgroundBackend(server.url, spools, patience=60, drain=0.1)
        backend.open(SPEC)
        backend.put_epoch(0, 0, epochs[0])
        backend.close()
        assert backend.n_left == 1
        assert "1 records" in caplog.text
        backend.close()
