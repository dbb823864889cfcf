import asyncio
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from mild_core.types import RunSpec, SelectionOptions
from mild_service.config import Settings
from mild_service.errors import RoundNotOpen, RunNotFound, StoreUnavailable
from mild_service.models import Run
from mild_service.store import Store
from mild_service.store.codec import CHUNK_SAMPLES
from mild_service.store.keys import Keys
from tests.service.conftest import Clock, Dump
from tests.service.store.conftest import epoch_bits

pytestmark = pytest.mark.anyio
CONFIG = RunSpec(
    "a", 100, num_classes=10, observe="mixed", selection=SelectionOptions(threshold="fraction", fraction=0.5)
)


async def test_a_run_is_created_once_and_read_back_whole(store: Store, clock: Clock) -> None:
    run, created = await store.runs.open(replace(CONFIG, tags={"who": "me"}, ttl_seconds=600))
    assert created
    again, created_again = await store.runs.open(replace(CONFIG, tags={"other": "tags"}, ttl_seconds=60))
    assert not created_again
    assert again == run == await store.runs.get("a")
    assert (run.spec.selection, run.tags, run.status, run.attempt, run.round) == (
        CONFIG.selection,
        {"who": "me"},
        "running",
        1,
        0,
    )
    assert (run.created_at, run.expires_at) == (clock.now, clock.now + 600)


async def test_a_new_run_has_nothing_to_resume_in_a_later_round(store: Store, dump: Dump) -> None:
    with pytest.raises(RoundNotOpen):
        await store.runs.open(replace(CONFIG, ttl_seconds=600), 1)
    assert dump() == {}


async def test_pages_go_from_newest_to_oldest_and_miss_none(store: Store, clock: Clock) -> None:
    for number in range(5):
        clock.now += number % 2  # some at the same time
        await store.runs.open(replace(CONFIG, run_id=f"run-{number}", ttl_seconds=600))
    seen, cursor = [], None
    for _ in range(3):
        page = await store.runs.list_page(2, cursor)
        seen += [run.run_id for run in page.runs]
        cursor = page.next_cursor
    assert sorted(seen) == [f"run-{number}" for number in range(5)]
    assert seen[-1] == "run-0"
    assert cursor is None


async def test_a_run_expires_after_its_last_write_and_is_swept(store: Store, clock: Clock, dump: Dump) -> None:
    run, _ = await store.runs.open(replace(CONFIG, ttl_seconds=600))
    clock.now += 599
    await store.epochs.commit(run, 0, 0, epoch_bits(100), 1, False)
    clock.now += 599
    assert await store.runs.sweep() == 0
    assert (await store.runs.get("a")).updated_at == clock.now - 599
    clock.now += 1
    with pytest.raises(RunNotFound, match="expired"):
        await store.runs.get("a")
    with pytest.raises(RunNotFound):
        await store.epochs.commit(run, 0, 1, epoch_bits(100), 1, False)
    assert (await store.runs.list_page(10, None)).runs == []
    assert await store.runs.sweep() == 1
    assert dump() == {}


async def test_an_expired_run_can_be_opened_anew_and_never_meets_its_past(store: Store, clock: Clock) -> None:
    old, _ = await store.runs.open(replace(CONFIG, ttl_seconds=600))
    await store.epochs.commit(old, 0, 0, epoch_bits(100), 1, False)
    clock.now += 600
    new, created = await store.runs.open(replace(CONFIG, num_samples=50, ttl_seconds=600))
    assert created
    assert new.uid != old.uid
    (round_,) = await store.rounds.get(new, range(1))
    assert round_.epochs == {}
    with pytest.raises(RunNotFound):
        await store.epochs.commit(old, 0, 1, epoch_bits(100), 1, False)
    with pytest.raises(RunNotFound):
        await store.rounds.get(old, range(1))


async def test_deleting_leaves_nothing(store: Store, dump: Dump) -> None:
    n_samples = 2 * CHUNK_SAMPLES + 5
    run, _ = await store.runs.open(RunSpec("a", n_samples, ttl_seconds=600))
    await store.epochs.commit(run, 0, 0, epoch_bits(n_samples), 1, False)
    await store.rounds.put_metrics(run, 0, 0, {"loss": 1.0}, 1, False)
    assert len(dump()) == 9
    assert await store.runs.delete("a", run.uid)
    assert dump() == {}
    assert not await store.runs.delete("a", run.uid)


async def test_a_write_that_comes_after_the_deletion_leaves_nothing_either(store: Store, dump: Dump) -> None:
    n_samples = 2 * CHUNK_SAMPLES + 5
    run, _ = await store.runs.open(RunSpec("a", n_samples, ttl_seconds=600))
    await store.runs.delete("a", run.uid)
    with pytest.raises(RunNotFound):
        await store.epochs.commit(run, 0, 0, epoch_bits(n_samples), 1, False)
    assert dump() == {}


async def test_bits_of_a_run_that_was_deleted_are_not_called_lost(store: Store) -> None:
    run, _ = await store.runs.open(replace(CONFIG, ttl_seconds=600))
    await store.epochs.commit(run, 0, 0, epoch_bits(100), 1, False)
    (round_,) = await store.rounds.get(run, range(1))
    await store.runs.delete("a", run.uid)
    for _ in ("gone", "opened anew"):
        with pytest.raises(RunNotFound):
            await store.bitmaps.read_epochs(run, 0, list(round_.epochs.values()))
        await store.runs.open(replace(CONFIG, ttl_seconds=600))


async def test_a_deletion_that_was_cut_short_is_finished_by_the_sweep(
    store: Store, redis: Redis, settings: Settings, dump: Dump
) -> None:
    run, _ = await store.runs.open(replace(CONFIG, ttl_seconds=600))
    await store.epochs.commit(run, 0, 0, epoch_bits(100), 1, False)
    redis.hset(Keys(settings.store_namespace).run("a"), "deleting", "1")
    with pytest.raises(RunNotFound):
        await store.runs.get("a")
    assert await store.runs.sweep() == 1
    assert dump() == {}


async def test_a_deletion_that_is_cut_short_anywhere_is_finished_by_the_sweep(
    store: Store, clock: Clock, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = await store.runs.open(replace(CONFIG, ttl_seconds=600))
    execute = type(store._context.redis).execute_command

    async def cut_execute(redis: Any, *command: Any, **options: Any) -> Any:
        if command[0] == "ZREM":
            raise ConnectionError("cut")
        return await execute(redis, *command, **options)

    with monkeypatch.context() as cut:
        cut.setattr(type(store._context.redis), "execute_command", cut_execute)
        with pytest.raises(StoreUnavailable):
            await store.runs.delete("a", run.uid)
    clock.now += 61
    await store.runs.sweep()
    assert dump() == {}


async def test_the_sweep_spares_a_run_that_is_just_being_created(
    store: Store, redis: Redis, settings: Settings, clock: Clock, dump: Dump
) -> None:
    entry = f"{round(clock.now * 1000):013d}:a"
    redis.zadd(Keys(settings.store_namespace).runs, {entry: 0})
    assert await store.runs.sweep() == 0
    assert len(dump()) == 1
    clock.now += 61
    assert await store.runs.sweep() == 0
    assert dump() == {}


async def test_a_record_can_be_patched_but_not_after_it_is_gone(store: Store, clock: Clock) -> None:
    run, _ = await store.runs.open(replace(CONFIG, ttl_seconds=600))
    await store.runs.patch(run, {"tags": {"k": "v"}, "ttl_seconds": 1200, "expected_epochs": 7}, "finished")
    patched = await store.runs.get("a")
    assert (patched.tags, patched.status, patched.spec.expected_epochs) == ({"k": "v"}, "finished", 7)
    assert patched.expires_at == clock.now + 1200
    await store.runs.patch(run, {})
    assert await store.runs.get("a") == patched
    await store.runs.delete("a", run.uid)
    with pytest.raises(RunNotFound):
        await store.runs.patch(run, {"tags": {}})


async def test_a_run_that_goes_while_it_is_opened_is_created_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = await store.runs.open(replace(CONFIG, ttl_seconds=600))
    get = store.runs.get

    async def late_get(run_id: str) -> Run:
        monkeypatch.setattr(store.runs, "get", get)
        await store.runs.delete(run_id, old.uid)
        return await get(run_id)

    monkeypatch.setattr(store.runs, "get", late_get)
    new, created = await store.runs.open(replace(CONFIG, ttl_seconds=600))
    assert created
    assert new.uid != old.uid


async def test_of_two_who_delete_a_run_one_does_it(store: Store, dump: Dump) -> None:
    run, _ = await store.runs.open(replace(CONFIG, ttl_seconds=600))
    await asyncio.gather(*(store.runs.delete("a", run.uid) for _ in range(10)))
    assert dump() == {}
