"""A store that is full, or would be: new runs are refused with the numbers, nothing is half-written, deletion helps."""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from redis import Redis

from mild_core.types import RunSpec
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.recording.capacity import estimate_bytes
from mild_service.store.embedded import EmbeddedServer
from tests.inprocess import running
from tests.service.conftest import dumped
from tests.service.keyring import bearer
from tests.service.recordings import OCTETS, put_epochs

N = 80_000
MIB = 2**20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "own") as server:
        yield server


@pytest.fixture
def redis(server: EmbeddedServer) -> Iterator[Redis]:
    with Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def service(server: EmbeddedServer) -> Iterator[httpx.Client]:
    app = create_app(Settings(store_url=server.url, sweep_seconds=0))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        yield client


def bodies(n_epochs: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [rng.bytes(N // 8) for _ in range(n_epochs)]


def test_a_new_run_that_would_not_fit_is_refused_with_the_numbers(service: httpx.Client, redis: Redis) -> None:
    used = redis.info("memory")["used_memory"]
    redis.config_set("maxmemory", str(used + 4 * MIB))
    opening = {"num_samples": N, "expected_epochs": 4}
    assert service.put("/runs/small", json=opening).status_code == 201
    before = dumped(redis, "mild")
    refused = service.put("/runs/large", json={**opening, "expected_rounds": 50})
    problem = refused.json()
    assert (refused.status_code, problem["type"], problem["retryable"]) == (507, "/problems/store-full", False)
    needed = estimate_bytes(RunSpec("a", N, expected_epochs=4, expected_rounds=50))
    for told in (str(needed), str(used + 4 * MIB), "80000 samples, 4 epochs, 50 rounds", "DELETE", "maxmemory"):
        assert told in problem["detail"]
    assert dumped(redis, "mild") == before
    assert "mild_store_limit_bytes" in service.get("/metrics").text


def test_runs_that_are_open_go_on_while_new_ones_are_refused(service: httpx.Client, redis: Redis) -> None:
    service.put("/runs/a", json={"num_samples": N}).raise_for_status()
    redis.config_set("maxmemory", str(int(redis.info("memory")["used_memory"] * 1.1)))
    assert service.put("/runs/b", json={"num_samples": N}).status_code == 507
    assert service.put("/runs/a", json={"num_samples": N, "tags": {"seen": "again"}}).status_code == 200
    put_epochs(service, "a", bodies(2))
    redis.config_set("maxmemory", "0")
    assert service.put("/runs/b", json={"num_samples": N}).status_code == 201


def test_a_store_without_a_limit_has_the_one_of_the_setting(server: EmbeddedServer) -> None:
    app = create_app(Settings(store_url=server.url, sweep_seconds=0, store_memory=10 * MIB, store_reserve=0.5))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        assert service.put("/runs/a", json={"num_samples": N, "expected_epochs": 4}).status_code == 201
        refused = service.put("/runs/b", json={"num_samples": 20 * N, "expected_epochs": 30})
        assert refused.status_code == 507
        assert f"takes new runs up to {5 * MIB}" in refused.json()["detail"]


HEAVY, LIGHT = secrets.token_hex(32), secrets.token_hex(32)


@contextmanager
def serve_keys(server: EmbeddedServer) -> Iterator[httpx.Client]:
    """A service with two keys, of which the heavy one is sent unless a request has another one."""
    keys = f"heavy:admin::{HEAVY},light:admin::{LIGHT}"
    app = create_app(Settings(store_url=server.url, sweep_seconds=0, api_keys=SecretStr(keys)))
    with (
        running(app) as transport,
        httpx.Client(transport=transport, base_url="http://service", headers=bearer(HEAVY)) as client,
    ):
        yield client


def test_near_the_limit_the_key_that_holds_most_is_refused_first(server: EmbeddedServer, redis: Redis) -> None:
    n_samples, opening = 20 * N, {"num_samples": N, "expected_epochs": 4}
    needed = estimate_bytes(RunSpec("a", N, expected_epochs=4))
    with serve_keys(server) as service:
        for run_id in ("large", "other"):
            service.put(f"/runs/{run_id}", json={"num_samples": n_samples}).raise_for_status()
            put_epochs(service, run_id, [np.random.default_rng(0).bytes(n_samples // 8) for _ in range(10)])
        assert service.put("/runs/b", json=opening, headers=bearer(LIGHT)).status_code == 201
        used = redis.info("memory")["used_memory"]
        limit = int((used + needed) / 0.8)  # new runs get 0.85 of it, and from 0.85 * 0.85 on by their share
        redis.config_set("maxmemory", str(limit))
        refused = service.put("/runs/c", json=opening)
    with serve_keys(server) as service:  # the store knows whose the runs are
        assert service.put("/runs/c", json=opening).status_code == refused.status_code == 507
        detail, remains = refused.json()["detail"], round(0.85 * limit) - used
        match = re.search(
            r"the 2 runs that the key 'heavy' has opened hold (\d+) bytes.*for others, (\d+); delete", detail
        )
        assert match, detail
        held = int(match[1])
        assert 0.9 * 20 * n_samples / 8 < held < 1.2 * 20 * n_samples / 8
        assert held > remains
        assert abs(int(match[2]) - remains) < MIB
        for told in (f"estimated at {needed} bytes", f"of {limit} bytes", "DELETE /runs/{run_id}", "maxmemory"):
            assert told in detail
        assert service.put("/runs/c", json=opening, headers=bearer(LIGHT)).status_code == 201
        assert service.put("/runs/large", json={"num_samples": n_samples}).status_code == 200
        put_epochs(service, "b", bodies(1))


def test_the_estimate_is_right_for_whole_bitmaps(service: httpx.Client, redis: Redis) -> None:
    n_samples = 20 * N
    service.put("/runs/before", json={"num_samples": N}).raise_for_status()  # the server then has the scripts
    put_epochs(service, "before", bodies(1))
    service.post("/runs/before/rounds/0/finish").raise_for_status()
    used = redis.info("memory")["used_memory"]
    service.put("/runs/a", json={"num_samples": n_samples, "expected_epochs": 30}).raise_for_status()
    rng = np.random.default_rng(0)
    put_epochs(service, "a", [rng.bytes(n_samples // 8) for _ in range(30)])
    service.post("/runs/a/rounds/0/finish").raise_for_status()
    taken = redis.info("memory")["used_memory"] - used
    estimated = estimate_bytes(RunSpec("a", n_samples, expected_epochs=30))
    assert 0.7 * estimated < taken < 1.05 * estimated


def test_a_store_that_refuses_leaves_nothing_half_written(service: httpx.Client, redis: Redis) -> None:
    service.put("/runs/a", json={"num_samples": N}).raise_for_status()
    put_epochs(service, "a", bodies(2))
    service.put("/runs/b", json={"num_samples": N}).raise_for_status()
    put_epochs(service, "b", bodies(1))
    share = b"\xff" * (N // 8)
    service.put("/runs/b/rounds/0/epochs/1/shards/0?of=2", content=2 * share, headers=OCTETS).raise_for_status()
    service.put("/runs/c", json={"num_samples": N}).raise_for_status()
    before = dumped(redis, "mild")
    redis.config_set("maxmemory", "1")
    writes = [
        ("PUT", "/runs/a/rounds/0/epochs/2", bodies(3)[2]),
        ("PUT", "/runs/b/rounds/0/epochs/1/shards/1?of=2", 2 * share),
        ("PUT", "/runs/c/rounds/0/members", share[1:] + b"\x00"),
        ("PUT", "/runs/c/planted", share[1:] + b"\x00"),
        ("POST", "/runs/a/rounds/0/finish", b""),
    ]
    for method, path, body in writes:
        answer = service.request(method, path, content=body, headers=OCTETS if body else {})
        assert answer.status_code == 507, (path, answer.text)
        assert dumped(redis, "mild") == before, path
    assert service.get("/selection/a").json()["epochs"] == 2  # computed, and not kept
    replaced = service.put("/runs/a/rounds/0/epochs/0?replace=true", content=bodies(3)[2], headers=OCTETS)
    assert replaced.json()["outcome"] == "replaced"  # what it drops makes room for it
    assert service.delete("/runs/b").status_code == 204
    redis.config_set("maxmemory", "0")
    assert service.put(writes[0][1], content=writes[0][2], headers=OCTETS).status_code == 201
