"""The times of runs go by the store's clock, whatever the service's own says."""

import logging
import time
from collections.abc import AsyncIterator

import pytest

from mild_core.types import RunSpec
from mild_service.config import Settings
from mild_service.errors import RunNotFound
from mild_service.store import Store
from tests.service.conftest import Clock, Dump

pytestmark = pytest.mark.anyio


@pytest.fixture
async def by_its_own_clock(settings: Settings) -> AsyncIterator[Store]:
    assert settings.store_url is not None
    store = Store(settings, settings.store_url)
    yield store
    await store.aclose()


@pytest.mark.parametrize("skew", [-1e6, 1e6])
async def test_a_service_whose_clock_is_wrong_expires_nothing_and_dates_nothing_wrong(
    by_its_own_clock: Store, skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, right = by_its_own_clock, time.time
    await store.runs.open(RunSpec("before", 8, ttl_seconds=60))
    monkeypatch.setattr(time, "time", lambda: right() + skew)
    run, _ = await store.runs.open(RunSpec("run", 8, ttl_seconds=60))
    assert abs(run.created_at - right()) < 60
    assert await store.runs.sweep() == 0
    assert [run.run_id for run in (await store.runs.list_page(10, None)).runs] == ["run", "before"]
    await store.runs.patch(run, {"ttl_seconds": 30})
    assert abs((await store.runs.get("run")).expires_at - right() - 30) < 60


async def test_a_run_expires_by_the_store_though_the_service_lags_behind(
    by_its_own_clock: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, right = by_its_own_clock, time.time
    monkeypatch.setattr(time, "time", lambda: right() - 1e6)
    run, _ = await store.runs.open(RunSpec("run", 8, ttl_seconds=1))
    with caplog.at_level(logging.INFO):
        while not await store.runs.sweep():  # each of which asks the store
            pass
    assert right() >= run.expires_at - 0.1
    (line,) = [r.getMessage() for r in caplog.records if "deleted" in r.getMessage()]
    assert line.startswith("run run was deleted: it expired ")
    assert line.endswith("s ago, ttl_seconds (1) after its last write")


async def test_each_deletion_of_the_sweep_is_logged_with_its_reason(
    store: Store, clock: Clock, dump: Dump, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seconds in (("short", 10), ("long", 1000), ("cut", 1000)):
        await store.runs.open(RunSpec(name, 8, ttl_seconds=seconds))
    await store._context.redis.hset(store._context.keys.run("cut"), "deleting", "1")
    clock.now += 25
    with caplog.at_level(logging.INFO):
        assert await store.runs.sweep() == 2
    assert sorted(r.getMessage() for r in caplog.records if "was deleted" in r.getMessage()) == [
        "run cut was deleted: its deletion had been interrupted",
        "run short was deleted: it expired 15 s ago, ttl_seconds (10) after its last write",
    ]
    with pytest.raises(RunNotFound):
        await store.runs.get("short")
