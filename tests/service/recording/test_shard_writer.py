import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from redis import Redis

from mild_core import bitmap
from mild_core.types import RunSpec
from mild_service.admission import Admission
from mild_service.config import Settings
from mild_service.errors import EpochConflict, EpochGap, RunNotFound, StaleAttempt, StoreDamaged, StoreUnavailable
from mild_service.models import Epoch, Round, Run
from mild_service.observability import Telemetry
from mild_service.recording.epoch_status import StatusReader
from mild_service.recording.run_writer import RunWriter
from mild_service.recording.shard_writer import ShardWriter
from mild_service.selecting.compute import SelectionComputer
from mild_service.store import PackedEpoch, Store
from mild_service.store.codec import CHUNK_SAMPLES
from mild_service.store.keys import Keys
from tests.service.shares import epoch_of, share

pytestmark = pytest.mark.anyio
N = 200
LARGE = CHUNK_SAMPLES + 9
OF = 4


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    assert settings.store_url is not None
    store = Store(settings, settings.store_url)
    yield store
    await store.aclose()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def shards(store: Store, settings: Settings, telemetry: Telemetry) -> ShardWriter:
    return ShardWriter(store, settings, telemetry)


@pytest.fixture
async def computer(store: Store, settings: Settings, telemetry: Telemetry) -> AsyncIterator[SelectionComputer]:
    computer = SelectionComputer(store, telemetry, settings, Admission(settings, telemetry))
    yield computer
    await computer.aclose()


@pytest.fixture
def runs(store: Store, computer: SelectionComputer, settings: Settings, telemetry: Telemetry) -> RunWriter:
    return RunWriter(store, computer, settings, telemetry)


@pytest.fixture
def status_reader(store: Store, settings: Settings) -> StatusReader:
    return StatusReader(store, settings)


async def opened(store: Store, n_samples: int = N) -> Run:
    run, _ = await store.runs.open(RunSpec("a", n_samples, ttl_seconds=600))
    return run


async def put(
    shards: ShardWriter,
    run: Run,
    shard: int,
    epoch: int = 0,
    of: int = OF,
    seed: int = 0,
    attempt: int | None = None,
    replaces: bool = False,
) -> tuple[str, Epoch, PackedEpoch]:
    body = share(epoch_of(run.spec.num_samples, seed), shard, of).to_body()
    return await shards.put(run, 0, epoch, shard, of, body, attempt, replaces)


async def round_0(store: Store, run: Run) -> Round:
    (round_,) = await store.rounds.get(run, range(1))
    return round_


async def correct_bits(store: Store, run: Run, epoch: int = 0) -> np.ndarray:
    correct, _ = await store.bitmaps.read_epochs(run, 0, [(await round_0(store, run)).epochs[epoch]])
    return bitmap.unpack(correct[0], run.spec.num_samples)


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_of_many_ranks_and_their_duplicates_at_once_none_is_lost(
    shards: ShardWriter, store: Store, telemetry: Telemetry, n_samples: int
) -> None:
    run, of = await opened(store, n_samples), 64 if n_samples == N else 8
    puts = await asyncio.gather(*(put(shards, run, shard, of=of) for shard in [*range(of), *range(of)]))
    assert sorted(p[0] for p in puts) == ["same"] * of + ["stored"] * of
    round_ = await round_0(store, run)
    assert (list(round_.epochs), round_.partial_epochs, round_.version) == ([0], {}, of + 1)
    np.testing.assert_array_equal(await correct_bits(store, run), epoch_of(n_samples))
    assert telemetry.registry.get_sample_value("mild_epochs_total", {"outcome": "committed"}) == 1


@pytest.mark.parametrize("n_samples", [N, LARGE])
@pytest.mark.parametrize("by", ["last", "other", "finish"])
async def test_an_epoch_whose_last_writer_died_before_merging_is_completed(
    shards: ShardWriter, runs: RunWriter, store: Store, monkeypatch: pytest.MonkeyPatch, n_samples: int, by: str
) -> None:
    async def crash(*_: Any) -> None:
        raise RuntimeError("killed here")

    run = await opened(store, n_samples)
    for shard in range(OF - 1):
        await put(shards, run, shard)
    with monkeypatch.context() as patch:
        patch.setattr(store.shards, "merge", crash)
        with pytest.raises(RuntimeError):
            await put(shards, run, OF - 1)
    assert (await round_0(store, run)).partial_epochs[0].n_stored_shards == OF
    if by == "finish":
        await runs.finish(run, 0, False, None, None)
    else:
        again = await put(shards, run, OF - 1 if by == "last" else 0)
        assert (again[0], again[1].partial) == ("same", False)
    np.testing.assert_array_equal(await correct_bits(store, run), epoch_of(n_samples))


async def test_a_shard_that_comes_while_finishing_is_in_the_set_or_holds_it_up(
    shards: ShardWriter, runs: RunWriter, computer: SelectionComputer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await opened(store)
    for shard in range(OF):
        await put(shards, run, shard)
    finish, calls = store.rounds.finish, 0

    async def late_finish(*arguments: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            await put(shards, run, 0, epoch=1)
        return await finish(*arguments)

    monkeypatch.setattr(store.rounds, "finish", late_finish)
    with pytest.raises(EpochGap, match="epoch 1 of round 0 has 1 of 4 shards"):
        await runs.finish(run, 0, False, None, None)
    calls = 0
    for shard in range(OF):
        await put(shards, run, shard, epoch=1)
    monkeypatch.setattr(store.rounds, "finish", finish)
    gather = computer.evidence.gather

    async def late_gather(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(computer.evidence, "gather", gather)
        await put(shards, run, 3, epoch=2)
        return await gather(*arguments, **more)

    monkeypatch.setattr(computer.evidence, "gather", late_gather)
    await runs.finish(run, 0, True, None, None)
    round_ = await round_0(store, run)
    assert (list(round_.epochs), round_.partial_epochs) == ([0, 1, 2], {})
    assert round_.selection is not None
    assert round_.selection["epochs"] == 3


async def test_a_writer_without_an_attempt_follows_the_current_one(shards: ShardWriter, store: Store) -> None:
    run = await opened(store)
    await put(shards, run, 0)
    await store.rounds.resume(run, 0, 1)
    for shard in (1, 2, 3):
        done = await put(shards, run, shard)
    assert (done[1].partial, done[1].attempt) == (False, 2)
    with pytest.raises(StaleAttempt):
        await put(shards, run, 0, epoch=1, attempt=1)
    await store.runs.delete("a", run.uid)
    with pytest.raises(RunNotFound):
        await put(shards, run, 0)


async def test_an_attempt_that_begins_while_shards_are_merged_begins_the_epoch_anew(
    shards: ShardWriter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await opened(store)
    for shard in range(OF - 1):
        await put(shards, run, shard)
    merge = store.shards.merge

    async def late_merge(*arguments: Any) -> Any:
        monkeypatch.setattr(store.shards, "merge", merge)
        await store.rounds.resume(run, 0, 0)
        return await merge(*arguments)

    monkeypatch.setattr(store.shards, "merge", late_merge)
    done = await put(shards, run, OF - 1)
    assert (done[0], done[1].partial, done[1].n_stored_shards, done[1].attempt) == ("stored", True, 1, 2)


async def test_replacing_one_rank_of_a_committed_epoch_asks_all_for_theirs(shards: ShardWriter, store: Store) -> None:
    run = await opened(store)
    for shard in range(OF):
        await put(shards, run, shard)
    assert (await put(shards, run, 1, replaces=True))[0] == "same"
    with pytest.raises(EpochConflict):
        await put(shards, run, 1, seed=3)
    done = await put(shards, run, 1, seed=3, replaces=True)
    assert (done[0], done[1].n_stored_shards) == ("replaced", 1)
    for shard in (0, 2, 3):
        done = await put(shards, run, shard, seed=3, replaces=True)
    assert not done[1].partial
    np.testing.assert_array_equal(await correct_bits(store, run), epoch_of(N, 3))


async def test_shards_that_are_never_merged_in_peace_are_given_up(
    shards: ShardWriter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mild_service.recording.shard_writer._ATTEMPTS", 0)
    with pytest.raises(StoreUnavailable, match="send the same shard again"):
        await put(shards, await opened(store), 0)


async def test_coverage_is_of_one_instant(
    shards: ShardWriter, store: Store, status_reader: StatusReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await opened(store)
    for shard in range(OF - 1):
        await put(shards, run, shard)
    read, read_bits = store.shards.read_refs, store.shards.read_bits

    async def late_read(*arguments: Any) -> Any:
        monkeypatch.setattr(store.shards, "read_refs", read)
        await put(shards, run, 0, seed=5, replaces=True)
        return await read(*arguments)

    async def late_read_bits(*arguments: Any) -> Any:
        monkeypatch.setattr(store.shards, "read_bits", read_bits)
        await put(shards, run, OF - 1)
        return await read_bits(*arguments)

    monkeypatch.setattr(store.shards, "read_refs", late_read)
    monkeypatch.setattr(store.shards, "read_bits", late_read_bits)
    coverage = await status_reader.read_epoch(run, 0, 0)
    assert (coverage.state, coverage.num_observed, coverage.missing_shards) == ("committed", N, [])


async def test_coverage_of_bits_that_the_store_has_lost_is_not_made_up(
    shards: ShardWriter, store: Store, status_reader: StatusReader, redis: Redis, settings: Settings
) -> None:
    run = await opened(store)
    await put(shards, run, 0)
    redis.delete(Keys(settings.store_namespace).of_run("a", run.uid).chunk(0, 0))
    with pytest.raises(StoreDamaged):
        await status_reader.read_epoch(run, 0, 0)


async def test_coverage_of_what_never_stands_still_is_given_up(
    store: Store, status_reader: StatusReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mild_service.concurrency.READ_ATTEMPTS", 0)
    with pytest.raises(StoreUnavailable, match="ask again"):
        await status_reader.read_epoch(await opened(store), 0, 0)
