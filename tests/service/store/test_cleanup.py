import pytest
from redis import Redis

from mild_service.config import Settings
from mild_service.store import Store
from mild_service.store.keys import Keys
from mild_service.store.maintenance import OrphanReport
from tests.service.conftest import Dump
from tests.service.store.conftest import LARGE, epoch_bits, opened

pytestmark = pytest.mark.anyio


async def test_orphans_are_found_and_repaired_while_writers_are_at_work(
    store: Store, redis: Redis, settings: Settings, dump: Dump
) -> None:
    run = await opened(store, LARGE)
    await store.epochs.commit(run, 0, 0, epoch_bits(LARGE), 1, False)
    before = dump()
    keys = Keys(settings.store_namespace)
    redis.hset(keys.of_run("gone", "0" * 16).chunk(0, 1), "0:1:ab", b"x")
    redis.hset(keys.of_run("a", "1" * 16).chunk(0, 0), "0:1:ab", b"of a run of the same name before")
    redis.hset(keys.of_run("a", run.uid).sample_ids(0), "upload:0", b"cut short")
    redis.zrem(keys.runs, run.index_entry)
    assert await store.cleanup.scan() == OrphanReport([], 0, ["a"])  # within the hour: somebody may be at work
    found = await store.cleanup.scan(idle_seconds=0)
    assert (len(found.keys), found.fields, found.unlisted) == (2, 1, ["a"])
    found = await store.cleanup.scan(repair=True, idle_seconds=0)
    assert (len(found.keys), found.fields, found.unlisted) == (2, 1, ["a"])
    assert dump() == before
    assert await store.cleanup.scan(idle_seconds=0) == OrphanReport([], 0, [])


async def test_what_a_dropped_epoch_has_left_goes_and_what_was_written_just_now_stays(
    sharded_store: Store, redis: Redis, settings: Settings
) -> None:
    run = await opened(sharded_store, LARGE)
    for number in range(2):
        await sharded_store.epochs.commit(run, 0, number, epoch_bits(LARGE, number), 1, False)
    await sharded_store.rounds.resume(run, 0, 1)
    key = Keys(settings.store_namespace).of_run("a", run.uid).chunk(0, 1)
    assert redis.hlen(key) == 2
    assert (await sharded_store.cleanup.scan(repair=True)).fields == 0  # within the hour
    assert redis.hlen(key) == 2
    assert (await sharded_store.cleanup.scan(repair=True, idle_seconds=0)).fields == 2  # of chunks 1 and 2
    assert redis.hlen(key) == 1
    run = await sharded_store.runs.get("a")
    (round_,) = await sharded_store.rounds.get(run, range(1))
    await sharded_store.bitmaps.read_epochs(run, 0, list(round_.epochs.values()))


async def test_a_deletion_that_no_sweep_would_find_is_found(
    store: Store, redis: Redis, settings: Settings, dump: Dump
) -> None:
    keys = Keys(settings.store_namespace)
    run = await opened(store)
    redis.hset(keys.run("a"), "deleting", "1")
    assert (await store.cleanup.scan()).unlisted == []
    redis.zrem(keys.runs, run.index_entry)
    assert (await store.cleanup.scan(repair=True)).unlisted == ["a"]
    assert await store.runs.sweep() == 1
    assert dump() == {}


async def test_every_server_that_has_keys_tells_of_itself(store: Store, settings: Settings) -> None:
    facts = await store.servers.read_status()
    assert len(facts) == (3 if "+cluster" in (settings.store_url or "") else 1)
    for server in facts:
        assert server.config["appendfsync"] == "always"
        assert server.memory.used > 0
        assert server.clock_skew > 1e6  # the fixture's clock stands in 2023
    for spread in (False, True):
        memory = await store.servers.read_memory("a", spread)
        assert memory is not None
        assert memory.limit is None
        assert memory.used > 0
