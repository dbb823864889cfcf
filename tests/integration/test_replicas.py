"""Two replicas of the service over one store, a cluster: whoever is asked knows what the other has just done."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from mild_core import bitmap
from mild_core.types import EpochBits
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.store.codec import CHUNK_SAMPLES
from tests.inprocess import InProcess, running
from tests.service.keyring import Keyring, bearer

Pair = tuple[httpx.Client, httpx.Client]


@pytest.fixture
def apps(cluster_url: str) -> tuple[FastAPI, FastAPI]:
    settings = Settings(
        store_url=cluster_url, store_namespace=f"test-{secrets.token_hex(8)}", sweep_seconds=0, key_cache_seconds=0
    )
    return create_app(settings), create_app(settings)


@pytest.fixture
def keyring(apps: tuple[FastAPI, FastAPI], replicas: Pair) -> Keyring:
    transport = replicas[0]._transport
    assert isinstance(transport, InProcess)
    return Keyring(apps[0].state.store, transport)


@pytest.fixture
def replicas(apps: tuple[FastAPI, FastAPI]) -> Iterator[Pair]:
    """A client of each."""
    with ExitStack() as stack:
        transports = [stack.enter_context(running(app)) for app in apps]
        here, there = (
            stack.enter_context(httpx.Client(transport=transport, base_url="http://service"))
            for transport in transports
        )
        yield here, there


def put_epoch(replica: httpx.Client, epoch: int, content: bytes, attempt: int = 1) -> httpx.Response:
    headers = {"Content-Type": "application/octet-stream", "Mild-Attempt": str(attempt)}
    return replica.put(f"/runs/r/rounds/0/epochs/{epoch}", content=content, headers=headers)


def bits(n_samples: int, seed: int) -> bitmap.Bitmap:
    return bitmap.pack(np.random.default_rng(seed).random(n_samples) < 0.5)


@pytest.mark.parametrize("n_samples", [200, CHUNK_SAMPLES + 9], ids=["one slot", "two slots"])
def test_a_run_is_written_and_read_through_both_in_turn(replicas: Pair, n_samples: int) -> None:
    here, there = replicas
    assert here.put("/runs/r", json={"num_samples": n_samples}).status_code == 201
    assert there.put("/runs/r", json={"num_samples": n_samples}).status_code == 200
    bodies = [bits(n_samples, epoch).tobytes() for epoch in range(8)]
    for epoch, body in enumerate(bodies):
        assert put_epoch(replicas[epoch % 2], epoch, body).status_code == 201
        assert put_epoch(replicas[(epoch + 1) % 2], epoch, body).status_code == 200
    assert put_epoch(there, 0, bodies[1]).json()["type"] == "/problems/epoch-conflict"

    provisional = [replica.get("/selection/r") for replica in replicas]
    assert provisional[0].json() == provisional[1].json()
    assert provisional[0].headers["etag"] == provisional[1].headers["etag"]

    assert there.put("/runs/r", json={"num_samples": n_samples, "resume_from": {"round": 0, "epoch": 7}}).is_success
    assert put_epoch(here, 7, bodies[7]).json()["type"] == "/problems/stale-attempt"
    observed, correct = bits(n_samples, 100), bits(n_samples, 101)
    halves = [observed, bitmap.full(n_samples) & ~observed]
    for shard, half in enumerate(halves):
        body = EpochBits(n_samples, correct & half, half).to_body()
        answer = replicas[shard].put(
            f"/runs/r/rounds/0/epochs/7/shards/{shard}?of=2", content=body, headers={"Mild-Attempt": "2"}
        )
        assert answer.status_code == 201, answer.text
    assert here.get("/runs/r").json()["rounds"][0]["epochs"] == list(range(8))

    finished = there.post("/runs/r/rounds/0/finish").json()
    assert here.get("/selection/r").json() == finished
    assert put_epoch(here, 8, bodies[0], attempt=2).json()["type"] == "/problems/round-finished"


def test_ids_and_runs_that_were_replaced_are_not_remembered(replicas: Pair) -> None:
    here, there = replicas
    text = {"Content-Type": "text/plain"}
    assert here.put("/runs/r", json={"num_samples": 2}).is_success
    for replica, names in ((here, "a\nb\n"), (there, "b\na\n")):
        assert replica.put("/runs/r/sample-ids", content=names, headers=text).is_success
        offsets = [client.get("/runs/r/sample-ids", params={"id": "a"}).json()["offset"] for client in replicas]
        assert offsets == [names.split().index("a")] * 2
    log = [{"epoch": 0, "sample": "a", "correct": True}, {"epoch": 0, "sample": "b", "correct": False}]
    assert here.post("/runs/r/predictions?complete=true", json=log).is_success
    samples = [replica.get("/runs/r/samples/1").json() for replica in replicas]
    assert samples[0] == samples[1]

    assert [put_epoch(replica, 1, b"\x80").status_code for replica in replicas] == [201, 200]
    assert there.delete("/runs/r").is_success
    assert here.get("/runs/r").status_code == 404
    assert put_epoch(here, 2, b"\x80").status_code == 404
    assert here.put("/runs/r", json={"num_samples": 12}).status_code == 201
    assert [put_epoch(replica, 0, b"\xff\xf0").status_code for replica in replicas] == [201, 200]
    assert there.get("/runs/r").json()["num_samples"] == 12
    assert [run["run_id"] for run in there.get("/runs").json()["runs"]] == ["r"]


def test_a_key_that_is_made_or_revoked_through_one_counts_at_the_other(replicas: Pair, keyring: Keyring) -> None:
    here, there = replicas
    assert there.get("/runs").status_code == 200
    secret = keyring.make("read")
    assert there.get("/runs").status_code == 401
    assert there.get("/runs", headers=bearer(secret)).status_code == 200
    keyring.revoke(secret)
    assert [replica.get("/runs", headers=bearer(secret)).status_code for replica in (here, there)] == [401, 401]
