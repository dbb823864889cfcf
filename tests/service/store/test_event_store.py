import asyncio

import pytest

from mild_core.errors import MildError
from mild_core.types import RunSpec
from mild_service.config import Settings
from mild_service.models import Run
from mild_service.store import Store
from tests.service.conftest import Clock
from tests.service.store.conftest import epoch_bits

pytestmark = pytest.mark.anyio

N = 100


async def opened(store: Store) -> Run:
    run, _ = await store.runs.open(RunSpec("a", N, ttl_seconds=600))
    return run


async def test_writers_at_once_tell_of_each_change_once_and_without_gaps(store: Store, settings: Settings) -> None:
    run = await opened(store)
    assert settings.store_url is not None
    replicas = [Store(settings, settings.store_url, lambda: 1_700_000_000.0) for _ in range(3)]

    async def put(replica: Store, epoch: int, seed: int) -> bool:
        try:
            commitment, _ = await replica.epochs.commit(run, 0, epoch, epoch_bits(N, seed), 1, False)
        except MildError:
            return False
        return commitment == "committed"

    puts = [put(replica, epoch, seed) for epoch in range(20) for replica in replicas for seed in (0, 1)]
    taken = await asyncio.gather(*puts)
    (look,) = await store.events.read_after([(run, 0)])
    told = [event.fields["epoch"] for event in look.events if event.kind == "epoch-committed"]
    assert sorted(told) == list(range(20))
    assert sum(taken) == 20
    assert [event.number for event in look.events] == list(range(1, 22))
    assert (await store.runs.get("a")).n_events == 21
    for replica in replicas:
        await replica.aclose()


async def test_runs_are_looked_at_together_each_from_its_own_place(store: Store) -> None:
    run = await opened(store)
    other, _ = await store.runs.open(RunSpec("b", N, ttl_seconds=600))
    for epoch in range(3):
        await store.epochs.commit(run, 0, epoch, epoch_bits(N, epoch), 1, False)
    first, second, third = await store.events.read_after([(run, 2), (other, 0), (other, 1)])
    assert [event.number for event in first.events] == [3, 4]
    assert [event.kind for event in second.events] == ["run-opened"]
    assert third.is_alive
    assert not third.events


async def test_a_run_that_has_expired_or_was_replaced_is_not_alive(store: Store, clock: Clock) -> None:
    run = await opened(store)
    assert (await store.events.read_after([(run, 0)]))[0].is_alive
    clock.now += 601
    assert not (await store.events.read_after([(run, 0)]))[0].is_alive
    again = await opened(store)
    assert again.uid != run.uid
    old, new = await store.events.read_after([(run, 0), (again, 0)])
    assert (old.is_alive, list(old.events)) == (False, [])
    assert (new.is_alive, len(new.events)) == (True, 1)


async def test_a_run_keeps_its_latest_events_only(settings: Settings) -> None:
    assert settings.store_url is not None
    store = Store(settings.model_copy(update={"max_events": 5}), settings.store_url)
    run = await opened(store)
    for seed in range(9):
        await store.epochs.commit(run, 0, 0, epoch_bits(N, seed), 1, replace=True)
    (look,) = await store.events.read_after([(run, 0)])
    assert [event.number for event in look.events] == [6, 7, 8, 9, 10]
    await store.aclose()
