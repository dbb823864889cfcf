from collections.abc import Mapping

import numpy as np
import pytest

from mild_core import bitmap
from mild_core.types import EpochBits, RunSpec
from mild_service.config import Settings
from mild_service.store import PackedEpoch, Store, codec
from mild_service.store.credentials import QuotaStore
from tests.service.conftest import Clock

pytestmark = pytest.mark.anyio
N = codec.CHUNK_SAMPLES + 8000
"""Samples in two chunks, which are on different servers of a cluster."""


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


@pytest.mark.parametrize("url", ["store_url", "cluster_url"])
async def test_a_key_holds_what_the_hashes_of_its_runs_take(
    request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    store = Store(settings, request.getfixturevalue(url))
    measured: list[str] = []
    measure_run = QuotaStore._measure_run

    async def note(quotas: QuotaStore, run_id: str, fields: Mapping[bytes, bytes]) -> int:
        measured.append(run_id)
        return await measure_run(quotas, run_id, fields)

    monkeypatch.setattr(QuotaStore, "_measure_run", note)
    for run_id in ("a", "b"):
        await store.quotas.reserve("k", run_id, 9)
        await store.runs.open(RunSpec(run_id, N, ttl_seconds=3600))
    await store.runs.open(RunSpec("other", N, ttl_seconds=3600))
    empty = await store.quotas.measure("k")
    assert empty is not None
    assert (empty[0], sorted(measured)) == (2, ["a", "b"])
    assert empty[1] < 20_000
    run = await store.runs.get("a")
    for number in range(4):
        correct = np.random.default_rng(number).integers(0, 255, bitmap.n_bytes(N), dtype=np.uint8)
        await store.epochs.commit(run, 0, number, PackedEpoch.from_bits(EpochBits(N, correct)), 1, False)
    measured.clear()
    written = await store.quotas.measure("k")
    assert written is not None
    assert measured == ["a"]  # the other was not written to
    assert 1 < (written[1] - empty[1]) / (4 * bitmap.n_bytes(N)) < 1.35
    await store.runs.delete("a", run.uid)
    left = await store.quotas.measure("k")
    assert left is not None
    assert left[0] == 1
    assert left[1] < empty[1]
    assert await store.quotas.measure("nobody") == (0, 0)
    await store.aclose()
