"""What deletion and expiry leave behind of a run that has everything a run can have: no key."""

import asyncio

import httpx
import numpy as np
import pytest

from mild_core import bitmap
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.store import Store
from tests.inprocess import running
from tests.service.conftest import Clock, Dump
from tests.service.recordings import OCTETS, put_epochs, recording

N = 200


def fill(service: httpx.Client) -> None:
    """A run with labels, ids, an audit, planted samples, epochs of each kind, two rounds and computed selections."""
    service.put("/runs/a", json={"num_samples": N, "num_classes": 3}).raise_for_status()
    service.put("/runs/a/labels", json={"labels": [0] * N}).raise_for_status()
    service.put("/runs/a/sample-ids", json=[f"s{i}" for i in range(N)]).raise_for_status()
    service.put("/runs/a/audit", json={"indices": [1], "clean": [True]}).raise_for_status()
    service.put("/runs/a/planted", json={"indices": [5]}).raise_for_status()
    put_epochs(service, "a", recording(N, 6))
    service.put("/runs/a/rounds/0/metrics/0", json={"train_loss": 1.0}).raise_for_status()
    everyone = bitmap.full(N).tobytes()
    for shard in range(2):
        path = f"/runs/a/rounds/0/epochs/6/shards/{shard}?of=2"
        service.put(path, content=2 * everyone, headers=OCTETS).raise_for_status()
    service.get("/selection/a?threshold=bayes").raise_for_status()
    service.post("/runs/a/rounds/0/finish").raise_for_status()
    service.put("/runs/a/rounds/1/members", json={"indices": list(range(50))}).raise_for_status()
    log = "".join(f'{{"round": 1, "epoch": 0, "sample": "s{i}", "predicted": 1, "label": 0}}\n' for i in range(50))
    service.post(
        "/runs/a/predictions", content=log, headers={"Content-Type": "application/x-ndjson"}
    ).raise_for_status()
    share = np.concatenate((bitmap.full(N), bitmap.full(N))).tobytes()
    service.put("/runs/a/rounds/1/epochs/1/shards/0?of=2", content=share, headers=OCTETS).raise_for_status()
    service.get("/selection/a?round=0&fit=grouped").raise_for_status()


def test_deletion_leaves_no_key(service: httpx.Client, dump: Dump) -> None:
    before = dump()
    fill(service)
    assert len(dump()) > len(before) + 10
    service.delete("/runs/a").raise_for_status()
    assert dump() == before


@pytest.mark.anyio
async def test_expiry_leaves_no_key(settings: Settings, clock: Clock, dump: Dump) -> None:
    assert settings.store_url is not None
    app = create_app(settings, Store(settings, settings.store_url, clock))

    def filled() -> None:
        with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
            fill(service)

    await asyncio.to_thread(filled)
    assert len(dump()) > 10
    clock.now += settings.ttl_seconds + 1
    store = Store(settings, settings.store_url, clock)
    assert await store.runs.sweep() == 1
    await store.aclose()
    assert dump() == {}
