"""Epochs put by a record of the run that is out of date: whatever has happened since, the present one decides."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pytest

from mild_core import bitmap
from mild_core.errors import TrailingBitsError
from mild_core.types import RunSpec
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.errors import RunNotFound, StoreUnavailable
from mild_service.models import Run
from mild_service.observability import Telemetry
from mild_service.recording import epoch_writer
from mild_service.recording.epoch_writer import EpochWrite, EpochWriter
from mild_service.store import Store
from tests.inprocess import running
from tests.service.conftest import Clock
from tests.service.recordings import OCTETS
from tests.service.wholes import Whole

N = 100
ROUND = "/runs/a/rounds/0"


def bits(n_samples: int, first: int = 0) -> bytes:
    """Everyone from `first` on is correct."""
    return bitmap.pack(np.arange(n_samples) >= first).tobytes()


def put(
    service: httpx.Client, epoch: int, body: bytes, round_: int = 0, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    return service.put(f"/runs/a/rounds/{round_}/epochs/{epoch}", content=body, headers={**OCTETS, **(headers or {})})


@pytest.fixture
def replicas(settings: Settings) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two services on one store; the first has put an epoch of run `a`, and so knows its record."""
    with ExitStack() as stack:
        transports = [stack.enter_context(running(create_app(settings))) for _ in range(2)]
        here, there = (
            stack.enter_context(httpx.Client(transport=transport, base_url="http://service"))
            for transport in transports
        )
        assert here.put("/runs/a", json={"num_samples": N}).status_code == 201
        assert put(here, 0, bits(N)).status_code == 201
        yield here, there


def open_anew(there: httpx.Client, **opening: Any) -> None:
    assert there.delete("/runs/a").status_code == 204
    assert there.put("/runs/a", json=opening).status_code == 201


@pytest.mark.parametrize("n_samples", [8, 97, 99, 101, 500, 5000])
def test_a_run_that_was_opened_anew_with_another_size_takes_bodies_of_that_size(
    replicas: tuple[httpx.Client, httpx.Client], n_samples: int
) -> None:
    here, there = replicas
    open_anew(there, num_samples=n_samples)
    answer = put(here, 1, bits(n_samples))
    assert (answer.status_code, answer.json()["num_correct"]) == (201, n_samples)
    both = np.concatenate([np.frombuffer(bits(n_samples), dtype=np.uint8)] * 2).tobytes()
    open_anew(there, num_samples=2 * n_samples)
    open_anew(there, num_samples=n_samples)
    assert put(here, 2, both).json()["num_observed"] == n_samples
    there.delete("/runs/a")
    assert put(here, 3, bits(n_samples)).json()["type"] == "/problems/run-not-found"


def test_a_body_of_the_old_size_is_refused_by_the_new_one(replicas: tuple[httpx.Client, httpx.Client]) -> None:
    here, there = replicas
    open_anew(there, num_samples=N - 1)
    refused = put(here, 1, bits(N))  # as many bytes, but one bit too many
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/trailing-bits")
    open_anew(there, num_samples=10 * N)
    refused = put(here, 1, bits(N))
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/bitmap-length")
    assert there.get("/runs/a").json()["rounds"][0]["epochs"] == []


def test_an_attempt_that_began_elsewhere_counts(replicas: tuple[httpx.Client, httpx.Client]) -> None:
    here, there = replicas
    resumed = there.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 0}})
    assert resumed.json()["attempt"] == 2
    stale = put(here, 0, bits(N), headers={"Mild-Attempt": "1"})
    assert stale.json()["type"] == "/problems/stale-attempt"
    assert put(here, 0, bits(N)).json()["attempt"] == 2
    assert put(here, 1, bits(N), headers={"Mild-Attempt": "2"}).json()["attempt"] == 2
    there.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 1}})
    assert put(here, 1, bits(N)).json()["attempt"] == 3


def test_a_round_that_was_finished_elsewhere_is_finished_here(replicas: tuple[httpx.Client, httpx.Client]) -> None:
    here, there = replicas
    assert there.post(f"{ROUND}/finish").status_code == 200
    assert put(here, 1, bits(N)).json()["type"] == "/problems/round-finished"
    assert put(here, 0, bits(N), round_=1).status_code == 201
    assert put(here, 0, bits(N), round_=2).json()["type"] == "/problems/round-not-open"


def test_members_of_a_round_that_began_elsewhere_are_checked(replicas: tuple[httpx.Client, httpx.Client]) -> None:
    here, there = replicas
    open_anew(there, num_samples=N, observe="members")
    assert put(here, 0, bits(N)).status_code == 201
    there.post(f"{ROUND}/finish")
    members = bits(N, first=50)
    assert there.put("/runs/a/rounds/1/members", content=members, headers=OCTETS).status_code == 200
    assert put(here, 0, bits(N), round_=1).json()["type"] == "/problems/correct-not-observed"
    assert put(here, 0, members, round_=1).status_code == 201


def test_conditions_and_conflicts_are_those_of_the_present_epoch(replicas: tuple[httpx.Client, httpx.Client]) -> None:
    here, there = replicas
    assert put(there, 1, bits(N)).status_code == 201
    assert put(here, 1, bits(N), headers={"If-None-Match": "*"}).status_code == 412
    assert put(here, 1, bits(N, first=1)).json()["type"] == "/problems/epoch-conflict"
    assert put(here, 1, bits(N)).json()["outcome"] == "same"


@pytest.fixture
def epochs(store: Store, settings: Settings) -> EpochWriter:
    return EpochWriter(store, settings, Telemetry())


@pytest.fixture
async def counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a run's record was read."""
    get, n_read = store.runs.get, 0

    async def counting(run_id: str) -> Run:
        nonlocal n_read
        n_read += 1
        return await get(run_id)

    await store.runs.open(RunSpec("a", N, ttl_seconds=60))
    monkeypatch.setattr(store.runs, "get", counting)
    return lambda: n_read


@pytest.mark.anyio
async def test_a_run_is_looked_up_once_for_all_its_epochs(epochs: EpochWriter, counted: Callable[[], int]) -> None:
    for number in range(10):
        outcome, _ = await epochs.put(EpochWrite("a", 0, number), Whole(bits(N, number)))
        assert outcome == "committed"
    assert counted() == 1
    with pytest.raises(TrailingBitsError):
        await epochs.put(EpochWrite("a", 0, 10), Whole(b"\xff" * 13))
    assert counted() == 2  # refused by the present record, not by the one that was known
    await epochs.put(EpochWrite("a", 0, 10), Whole(bits(N)))
    assert counted() == 3


@pytest.mark.anyio
async def test_a_run_expires_though_it_is_known(
    epochs: EpochWriter, store: Store, clock: Clock, counted: Callable[[], int]
) -> None:
    await epochs.put(EpochWrite("a", 0, 0), Whole(bits(N)))
    clock.now += 61
    with pytest.raises(RunNotFound):
        await epochs.put(EpochWrite("a", 0, 1), Whole(bits(N)))
    new, created = await store.runs.open(RunSpec("a", N, ttl_seconds=60))
    assert created
    await epochs.put(EpochWrite("a", 0, 0), Whole(bits(N)))
    (round_,) = await store.rounds.get(new, range(1))
    assert list(round_.epochs) == [0]


@pytest.mark.anyio
async def test_a_store_that_fails_says_nothing_of_the_record(
    epochs: EpochWriter, store: Store, counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await epochs.put(EpochWrite("a", 0, 0), Whole(bits(N)))

    async def fail(*_: object) -> None:
        raise StoreUnavailable("gone for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(store.epochs, "commit", fail)
        with pytest.raises(StoreUnavailable):
            await epochs.put(EpochWrite("a", 0, 1), Whole(bits(N)))
    await epochs.put(EpochWrite("a", 0, 1), Whole(bits(N)))
    assert counted() == 1


@pytest.mark.anyio
async def test_a_bounded_number_of_records_is_kept_without_their_tags(
    epochs: EpochWriter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch_writer, "MAX_CACHED_RUNS", 2)
    for run_id in "abc":
        await store.runs.open(RunSpec(run_id, N, tags={"team": "x"}, ttl_seconds=60))
        await epochs.put(EpochWrite(run_id, 0, 0), Whole(bits(N)))
    assert [(run_id, run.tags) for run_id, run in epochs._runs.items()] == [("b", {}), ("c", {})]
