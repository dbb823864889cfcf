import pytest

from mild_core.types import RunSpec
from mild_service.store import Store
from tests.service.conftest import Clock

pytestmark = pytest.mark.anyio


async def create(store: Store, run_id: str, ttl_seconds: int = 3600) -> None:
    await store.runs.open(RunSpec(run_id, 8, ttl_seconds=ttl_seconds))


async def test_a_key_holds_so_many_places(store: Store) -> None:
    assert [await store.quotas.reserve("k", run_id, 2) for run_id in "aabc"] == [
        "reserved",
        "existing",
        "reserved",
        "full",
    ]
    assert await store.quotas.reserve("other", "c", 2) == "reserved"
    await store.quotas.release("k", "a")
    assert await store.quotas.reserve("k", "c", 2) == "reserved"


async def test_runs_that_are_gone_make_room_once_there_is_none(store: Store, clock: Clock) -> None:
    for run_id, ttl in (("kept", 3600), ("expired", 100), ("deleted", 3600)):
        assert await store.quotas.reserve("k", run_id, 3) == "reserved"
        await create(store, run_id, ttl)
    await store.runs.delete("deleted", (await store.runs.get("deleted")).uid)
    assert await store.quotas.reserve("k", "new", 3) == "full"  # they may just be on their way
    clock.now += 200
    assert [await store.quotas.reserve("k", run_id, 3) for run_id in ("new", "newer", "newest")] == [
        "reserved",
        "reserved",
        "full",
    ]
    assert await store.quotas.reserve("k", "kept", 3) == "existing"
