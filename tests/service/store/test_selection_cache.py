import numpy as np
import pytest
from redis import Redis

from mild_core.types import RunSpec
from mild_service.config import Settings
from mild_service.models import ComputedSelection, Run
from mild_service.store import Store
from mild_service.store.codec import CHUNK_SAMPLES
from mild_service.store.keys import Keys
from tests.service.conftest import Dump
from tests.service.store.conftest import random_bitmap

pytestmark = pytest.mark.anyio
LARGE = CHUNK_SAMPLES + 9


@pytest.fixture
async def run(store: Store) -> Run:
    run, _ = await store.runs.open(RunSpec("a", LARGE, ttl_seconds=600))
    return run


async def test_what_was_computed_is_kept_for_a_while(store: Store, run: Run, redis: Redis, settings: Settings) -> None:
    computed = ComputedSelection("d1", {"a": 1}, {"b": None}, random_bitmap(LARGE))
    assert await store.selection_cache.get(run, "d1") is None
    await store.selection_cache.put(run, computed)
    kept = await store.selection_cache.get(run, "d1")
    assert kept is not None
    assert (kept.summary, kept.fit) == (computed.summary, computed.fit)
    np.testing.assert_array_equal(kept.bitmap, computed.bitmap)
    key = Keys(settings.store_namespace).of_run("a", run.uid).cached_selection("d1")
    assert 0 < redis.ttl(key) <= settings.cache_seconds
    redis.hdel(key, "bits:1")
    assert await store.selection_cache.get(run, "d1") is None


async def test_what_was_computed_of_a_run_that_has_gone_is_not_kept(store: Store, run: Run, dump: Dump) -> None:
    await store.selection_cache.put(run, ComputedSelection("d1", {}, {}, random_bitmap(LARGE)))
    await store.runs.delete("a", run.uid)
    assert dump() == {}
    await store.selection_cache.put(run, ComputedSelection("d2", {}, {}, random_bitmap(LARGE)))
    assert dump() == {}


async def test_one_holds_the_lock_at_a_time_and_gives_it_back(store: Store, run: Run) -> None:
    async with store.selection_cache.lock(run, "d") as first:
        assert first
        async with store.selection_cache.lock(run, "d") as second:
            assert not second
        async with store.selection_cache.lock(run, "other") as other:
            assert other
    async with store.selection_cache.lock(run, "d") as third:
        assert third


async def test_a_lock_whose_holder_died_expires(store: Store, run: Run, redis: Redis, settings: Settings) -> None:
    key = Keys(settings.store_namespace).of_run("a", run.uid).selection_lock("d")
    async with store.selection_cache.lock(run, "d"):
        assert 0 < redis.pttl(key) <= 5000


async def test_a_held_lock_is_renewed_and_only_by_its_holder(
    store: Store, run: Run, redis: Redis, settings: Settings
) -> None:
    key = Keys(settings.store_namespace).of_run("a", run.uid).selection_lock("d")
    async with store.selection_cache.lock(run, "d"):
        owner = redis.get(key)
        assert isinstance(owner, bytes)
        redis.pexpire(key, 60_000)
        await store.selection_cache.renew(key, owner.decode())
        assert 0 < redis.pttl(key) <= 5000
        redis.set(key, "somebody else", px=60_000)
        await store.selection_cache.renew(key, owner.decode())
        assert redis.pttl(key) > 5000
    assert redis.get(key) == b"somebody else"
