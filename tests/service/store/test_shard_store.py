import asyncio
from typing import Any

import numpy as np
import pytest
from redis import Redis

from mild_core import bitmap
from mild_service.config import Settings
from mild_service.errors import EpochConflict, EpochKindConflict, RoundFinished, RunNotFound, StaleAttempt, StoreDamaged
from mild_service.models import Epoch, Run, ShardOutcome
from mild_service.store import PackedEpoch, Store
from mild_service.store.codec import count_chunks
from mild_service.store.context import to_texts
from mild_service.store.keys import Keys
from tests.service.conftest import Dump
from tests.service.shares import epoch_of, share
from tests.service.store.conftest import LARGE, N, epoch_bits, finish, merge, only_round, opened, write_tail

pytestmark = pytest.mark.anyio
OF = 3


async def put(
    store: Store, run: Run, shard: int, seed: int = 0, of: int = OF, attempt: int = 1, replace: bool = False
) -> tuple[ShardOutcome, Epoch]:
    """Put a rank's share of epoch 0, and nothing more."""
    packed = PackedEpoch.from_bits(share(epoch_of(run.spec.num_samples, seed), shard, of), "shards")
    return await store.shards.put(run, 0, 0, shard, of, packed, attempt, replace)


async def put_all(store: Store, run: Run, seed: int = 0, of: int = OF, **more: Any) -> Epoch:
    """Put every share of epoch 0 and merge them."""
    for shard in range(of):
        _, epoch = await put(store, run, shard, seed, of, **more)
    merged = await store.shards.merge(run, 0, epoch, None)
    assert merged is not None
    return merged


def fields(redis: Redis, settings: Settings, run: Run) -> list[list[str]]:
    """The names of all that is in each chunk."""
    keys = Keys(settings.store_namespace)
    of = range(count_chunks(run.spec.num_samples))
    return [to_texts(redis.hkeys(keys.of_run(run.run_id, run.uid).chunk(0, chunk))) for chunk in of]


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_shards_are_merged_into_an_epoch_and_leave_nothing_else(
    store: Store, redis: Redis, settings: Settings, n_samples: int
) -> None:
    run, correct = await opened(store, n_samples), epoch_of(n_samples)
    for n_in, shard in enumerate((2, 0, 1), start=1):
        outcome, epoch = await put(store, run, shard)
        assert (outcome, epoch.partial, epoch.n_stored_shards, epoch.n_shards) == ("stored", True, n_in, OF)
    assert (await only_round(store, run)).epochs == {}
    merged = await store.shards.merge(run, 0, epoch, 1)
    round_ = await only_round(store, run)
    assert round_.partial_epochs == {}
    assert round_.epochs == {0: merged}
    assert merged is not None
    assert (merged.kind, merged.n_observed, merged.n_correct) == ("shards", n_samples, int(np.count_nonzero(correct)))
    bits, observed = await store.bitmaps.read_epochs(run, 0, [merged])
    np.testing.assert_array_equal(bitmap.unpack(bits[0], n_samples), correct)
    np.testing.assert_array_equal(observed[0], bitmap.full(n_samples))
    assert fields(redis, settings, run) == [[f"0:1:{merged.digest}"]] * count_chunks(n_samples)


async def test_the_order_of_shards_decides_nothing(store: Store) -> None:
    digests = []
    for run_id, order in (("a", (0, 1, 2)), ("b", (2, 0, 1))):
        run = await opened(store, run_id=run_id)
        for shard in order:
            _, epoch = await put(store, run, shard)
        merged = await store.shards.merge(run, 0, epoch, None)
        assert merged is not None
        digests.append(merged.digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("committed", [False, True])
async def test_the_same_shard_again_changes_nothing_and_another_is_refused(
    store: Store, dump: Dump, committed: bool
) -> None:
    run = await opened(store)
    for shard in range(OF if committed else OF - 1):
        _, epoch = await put(store, run, shard)
    if committed:
        assert await store.shards.merge(run, 0, epoch, None)
    before = dump()
    outcome, epoch = await put(store, run, 1)
    assert (outcome, epoch.partial) == ("same", not committed)
    with pytest.raises(EpochConflict, match=r"shard 1 of epoch 0, round 0, holds other content .*replace=true"):
        await put(store, run, 1, seed=9)
    assert dump() == before


async def test_the_first_writer_fixes_how_an_epoch_is_written(store: Store, dump: Dump) -> None:
    run = await opened(store)
    await put(store, run, 0)
    before = dump()
    with pytest.raises(EpochKindConflict, match="written in 3 shards, got a shard of 4"):
        await put(store, run, 1, of=4)
    with pytest.raises(EpochKindConflict, match="written in shards, got a whole body"):
        await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    assert not await merge(store, run, [3])
    assert dump() == before


@pytest.mark.parametrize("kind", ["whole", "logs"])
async def test_a_shard_begins_an_epoch_of_another_kind_anew_only_when_told_to(
    store: Store, redis: Redis, settings: Settings, kind: str
) -> None:
    run = await opened(store)
    if kind == "whole":
        await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    else:
        await merge(store, run, [1])
    with pytest.raises(
        EpochKindConflict, match="a whole body, got a shard" if kind == "whole" else "by logs, got a shard"
    ):
        await put(store, run, 0)
    outcome, epoch = await put(store, run, 0, replace=True)
    assert (outcome, epoch.n_stored_shards) == ("replaced", 1)
    ((only,),) = fields(redis, settings, run)
    assert only.startswith("0:0:")


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_a_shard_is_replaced_in_what_is_partial_and_begins_what_is_committed_anew(
    store: Store, n_samples: int
) -> None:
    run = await opened(store, n_samples)
    await put(store, run, 0, seed=8)
    await put(store, run, 1)
    outcome, epoch = await put(store, run, 0, replace=True)
    assert (outcome, epoch.n_stored_shards) == ("replaced", 2)
    expected = [share(epoch_of(n_samples), shard, OF) for shard in (0, 1)]
    assert epoch.n_correct == sum(bitmap.popcount(bits.correct) for bits in expected)
    _, epoch = await put(store, run, 2)
    first = await store.shards.merge(run, 0, epoch, None)
    assert first == (await only_round(store, run)).epochs[0]
    outcome, epoch = await put(store, run, 0, seed=4, replace=True)
    assert (outcome, epoch.partial, epoch.n_stored_shards) == ("replaced", True, 1)
    again = await put_all(store, run, seed=4, replace=True)
    correct, _ = await store.bitmaps.read_epochs(run, 0, [again])
    np.testing.assert_array_equal(bitmap.unpack(correct[0], n_samples), epoch_of(n_samples, 4))


@pytest.mark.parametrize("committed", [False, True])
async def test_a_whole_body_takes_the_place_of_shards_only_when_told_to(
    store: Store, redis: Redis, settings: Settings, committed: bool
) -> None:
    run = await opened(store)
    if committed:
        await put_all(store, run)
    else:
        await put(store, run, 1)
    packed = epoch_bits(N, 5)
    assert (await store.epochs.commit(run, 0, 0, packed, 1, True))[0] == "replaced"
    assert fields(redis, settings, run) == [[f"0:1:{packed.digest}"]]
    assert redis.exists(Keys(settings.store_namespace).of_run("a", run.uid).shards(0)) == 0


async def test_resuming_drops_shards_with_their_epochs(store: Store, redis: Redis, settings: Settings) -> None:
    run = await opened(store)
    await put(store, run, 0)
    _, stale = await put(store, run, 1)
    assert await store.rounds.resume(run, 0, 0) == 2
    assert fields(redis, settings, run) == [[]]
    assert redis.exists(Keys(settings.store_namespace).of_run("a", run.uid).shards(0)) == 0
    with pytest.raises(StaleAttempt):
        await put(store, run, 2)
    assert await store.shards.merge(run, 0, stale, None) is None
    assert (await put(store, run, 0, attempt=2))[1].attempt == 2


async def test_a_partial_epoch_before_the_resumed_one_takes_the_rest_from_the_new_attempt(store: Store) -> None:
    run = await opened(store)
    await put(store, run, 0)
    await store.rounds.resume(run, 0, 1)
    await put(store, run, 1, attempt=2)
    _, epoch = await put(store, run, 2, attempt=2)
    with pytest.raises(StaleAttempt):
        await store.shards.merge(run, 0, epoch, 1)
    merged = await store.shards.merge(run, 0, epoch, 2)
    assert merged is not None
    correct, _ = await store.bitmaps.read_epochs(run, 0, [merged])
    np.testing.assert_array_equal(bitmap.unpack(correct[0], N), epoch_of(N))


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_of_many_that_merge_at_once_one_does(
    store: Store, redis: Redis, settings: Settings, n_samples: int
) -> None:
    run = await opened(store, n_samples)
    for shard in range(OF):
        _, epoch = await put(store, run, shard)
    version = (await only_round(store, run)).version
    merged = [m for m in await asyncio.gather(*(store.shards.merge(run, 0, epoch, None) for _ in range(8))) if m]
    round_ = await only_round(store, run)
    assert len(merged) == 1
    assert (round_.epochs, round_.version) == ({0: merged[0]}, version + 1)
    assert fields(redis, settings, run) == [[f"0:1:{merged[0].digest}"]] * count_chunks(n_samples)


async def test_a_shard_replaced_while_the_others_are_merged_is_not_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await opened(store)
    for shard in range(OF):
        _, epoch = await put(store, run, shard)
    read_union = store.bitmaps.read_union

    async def late_read_union(*arguments: Any) -> Any:
        union = await read_union(*arguments)
        monkeypatch.setattr(store.bitmaps, "read_union", read_union)
        await put(store, run, 1, seed=7, replace=True)
        return union

    monkeypatch.setattr(store.bitmaps, "read_union", late_read_union)
    assert await store.shards.merge(run, 0, epoch, None) is None
    epoch = (await only_round(store, run)).partial_epochs[0]
    merged = await store.shards.merge(run, 0, epoch, None)
    assert merged is not None
    expected = epoch_of(N)
    expected[1::OF] = epoch_of(N, 7)[1::OF]
    correct, _ = await store.bitmaps.read_epochs(run, 0, [merged])
    np.testing.assert_array_equal(bitmap.unpack(correct[0], N), expected)


async def test_shards_that_the_store_has_lost_are_named(store: Store, redis: Redis, settings: Settings) -> None:
    run = await opened(store)
    for shard in range(OF):
        _, epoch = await put(store, run, shard)
    redis.delete(Keys(settings.store_namespace).of_run("a", run.uid).chunk(0, 0))
    with pytest.raises(StoreDamaged, match="3 of 3"):
        await store.shards.merge(run, 0, epoch, None)


async def test_a_crash_between_a_shards_chunks_and_its_record_leaves_nothing_that_counts(
    store: Store, redis: Redis, settings: Settings
) -> None:
    run = await opened(store, LARGE)
    packed = PackedEpoch.from_bits(share(epoch_of(LARGE), 0, OF), "shards")
    await write_tail(store, run, "0:0:dead", packed)  # and then the writer dies
    assert (await only_round(store, run)).partial_epochs == {}
    await put_all(store, run)
    assert await finish(store, run, bitmap.full(LARGE))
    assert await store.rounds.collect_garbage(run, 0) == 2
    assert {name.count("dead") for chunk in fields(redis, settings, run) for name in chunk} == {0}


@pytest.mark.parametrize("meanwhile", ["finished", "deleted"])
async def test_a_round_or_run_that_goes_takes_its_shards_along(store: Store, dump: Dump, meanwhile: str) -> None:
    run = await opened(store, LARGE)
    await put_all(store, run)
    if meanwhile == "finished":
        await finish(store, run, bitmap.full(LARGE))
    else:
        await store.runs.delete("a", run.uid)
        assert dump() == {}
    before = dump()
    with pytest.raises(RoundFinished if meanwhile == "finished" else RunNotFound):
        await put(store, run, 0, replace=True)
    assert dump() == before
