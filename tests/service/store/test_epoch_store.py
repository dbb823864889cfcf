import asyncio
from typing import Any

import numpy as np
import pytest
from redis import Redis

from mild_core import bitmap
from mild_core.types import EpochBits
from mild_service.config import Settings
from mild_service.errors import (
    EpochConflict,
    EpochKindConflict,
    MembersFrozen,
    RoundFinished,
    RoundNotOpen,
    RunNotFound,
    StaleAttempt,
    StoreDamaged,
)
from mild_service.store import PackedEpoch, Store, values
from mild_service.store.codec import CHUNK_SAMPLES
from mild_service.store.context import to_texts
from mild_service.store.keys import Keys
from tests.service.conftest import Dump
from tests.service.store.conftest import (
    LARGE,
    N,
    epoch_bits,
    finish,
    merge,
    only_round,
    opened,
    random_bitmap,
    write_tail,
)

pytestmark = pytest.mark.anyio


async def test_an_epoch_is_committed_once_whatever_the_order(store: Store) -> None:
    run = await opened(store)
    for number in (3, 0, 12, 1):
        outcome, epoch = await store.epochs.commit(run, 0, number, epoch_bits(N, number), 1, False)
        assert outcome == "committed"
        assert (epoch.number, epoch.attempt, epoch.planes, epoch.n_observed) == (number, 1, 1, None)
    outcome, _ = await store.epochs.commit(run, 0, 3, epoch_bits(N, 3), 1, False)
    assert outcome == "same"
    round_ = await only_round(store, run)
    assert list(round_.epochs) == [0, 1, 3, 12]
    assert round_.missing_epochs == [2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert round_.version == 4
    assert round_.epochs[3].n_correct == bitmap.popcount(random_bitmap(N, 3))


async def test_other_content_is_refused_and_changes_nothing(store: Store, dump: Dump) -> None:
    run = await opened(store)
    await store.epochs.commit(run, 0, 0, epoch_bits(N, 1), 1, False)
    before = dump()
    with pytest.raises(EpochConflict, match="replace"):
        await store.epochs.commit(run, 0, 0, epoch_bits(N, 2), 1, False)
    assert dump() == before


async def test_refused_writes_of_many_chunks_leave_no_chunk_behind(either_store: Store, dump: Dump) -> None:
    run = await opened(either_store, LARGE)
    await either_store.epochs.commit(run, 0, 0, epoch_bits(LARGE, 1), 1, False)
    await finish(either_store, run, random_bitmap(LARGE, 2))
    await either_store.epochs.commit(run, 1, 0, epoch_bits(LARGE, 1), 1, False)
    before = dump()
    for round_, attempt, error in ((0, 1, RoundFinished), (1, 1, EpochConflict), (1, 7, StaleAttempt)):
        with pytest.raises(error):
            await either_store.epochs.commit(run, round_, 0, epoch_bits(LARGE, 3), attempt, False)
    with pytest.raises(RoundNotOpen):
        await either_store.epochs.commit(run, 5, 0, epoch_bits(LARGE, 3), 1, False)
    for number, refusal in ((0, RoundFinished), (1, MembersFrozen), (5, RoundNotOpen)):
        with pytest.raises(refusal):
            await either_store.rounds.put_set(run, "members", number, random_bitmap(LARGE, 4), None)
    assert dump() == before
    await either_store.runs.delete("a", run.uid)
    assert dump() == {}


@pytest.mark.parametrize("meanwhile", ["finished", "deleted"])
async def test_a_write_overtaken_between_its_chunks_and_its_commit_leaves_no_chunk_behind(
    sharded_store: Store, dump: Dump, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    run = await opened(sharded_store, LARGE)
    await sharded_store.epochs.commit(run, 0, 0, epoch_bits(LARGE, 1), 1, False)
    before = {}

    async def late_write(*arguments: Any) -> None:
        monkeypatch.undo()
        if meanwhile == "finished":
            await finish(sharded_store, run, random_bitmap(LARGE, 2))
        else:
            await sharded_store.runs.delete("a", run.uid)
        before.update(dump())
        await values.write_values(*arguments)

    monkeypatch.setattr(values, "write_values", late_write)
    with pytest.raises(RoundFinished if meanwhile == "finished" else RunNotFound):
        await sharded_store.epochs.commit(run, 0, 1, epoch_bits(LARGE, 3), 1, False)
    assert dump() == before


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_replaced_content_is_what_is_read(store: Store, n_samples: int) -> None:
    run = await opened(store, n_samples)
    await store.epochs.commit(run, 0, 0, epoch_bits(n_samples, 1), 1, False)
    outcome, _ = await store.epochs.commit(run, 0, 0, epoch_bits(n_samples, 2), 1, True)
    assert outcome == "replaced"
    round_ = await only_round(store, run)
    correct, _ = await store.bitmaps.read_epochs(run, 0, list(round_.epochs.values()))
    np.testing.assert_array_equal(correct[0], random_bitmap(n_samples, 2))


async def test_a_run_of_three_chunks_reads_back_as_written(either_store: Store) -> None:
    run = await opened(either_store, LARGE)
    packed = [epoch_bits(LARGE, seed, planes=1 + seed % 2) for seed in range(3)]
    for number, bits in enumerate(packed):
        await either_store.epochs.commit(run, 0, number, bits, 1, False)
    round_ = await only_round(either_store, run)
    correct, observed = await either_store.bitmaps.read_epochs(run, 0, list(round_.epochs.values()))
    for number in range(3):
        expected_observed = random_bitmap(LARGE, number + 1000) if number % 2 else bitmap.full(LARGE)
        np.testing.assert_array_equal(observed[number], expected_observed)
        np.testing.assert_array_equal(correct[number], random_bitmap(LARGE, number) & expected_observed)


async def test_a_crash_before_the_commit_leaves_nothing_of_the_epoch(
    store: Store, redis: Redis, settings: Settings
) -> None:
    run = await opened(store, LARGE)
    packed = epoch_bits(LARGE)
    await write_tail(store, run, f"0:1:{packed.digest}", packed)  # and then the writer dies
    round_ = await only_round(store, run)
    assert round_.epochs == {}
    assert (await store.epochs.commit(run, 0, 0, epoch_bits(LARGE, 5), 1, False))[0] == "committed"
    await finish(store, run, random_bitmap(LARGE, 9))
    assert await store.rounds.collect_garbage(run, 0) == 2
    names = to_texts(redis.hkeys(Keys(settings.store_namespace).of_run("a", run.uid).chunk(0, 2)))
    assert sorted(name.partition(":")[0] for name in names) == ["0", "set"]
    correct, _ = await store.bitmaps.read_epochs(run, 0, list(round_.epochs.values()))
    assert correct.shape == (0, bitmap.n_bytes(LARGE))


async def test_garbage_collection_keeps_what_is_committed(store: Store) -> None:
    run = await opened(store, LARGE)
    members = random_bitmap(LARGE, 50)
    await store.rounds.put_set(run, "members", 0, members, None)
    await store.epochs.commit(run, 0, 0, epoch_bits(LARGE, 1), 1, False)
    await store.epochs.commit(run, 0, 0, epoch_bits(LARGE, 2), 1, True)
    selected = random_bitmap(LARGE, 60)
    await finish(store, run, selected)
    round_ = await only_round(store, run)
    assert await store.rounds.collect_garbage(run, 0) == 2
    assert await store.rounds.collect_garbage(run, 0) == 0
    correct, _ = await store.bitmaps.read_epochs(run, 0, list(round_.epochs.values()))
    np.testing.assert_array_equal(correct[0], random_bitmap(LARGE, 2))
    assert round_.members is not None
    assert round_.selected is not None
    np.testing.assert_array_equal(await store.bitmaps.read_set(run, round_.members), members)
    np.testing.assert_array_equal(await store.bitmaps.read_set(run, round_.selected), selected)


async def test_of_many_writers_of_one_epoch_exactly_one_wins(store: Store) -> None:
    run = await opened(store)
    outcomes = await asyncio.gather(
        *(store.epochs.commit(run, 0, 0, epoch_bits(N, seed), 1, False) for seed in range(20)), return_exceptions=True
    )
    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(won) == 1
    assert all(isinstance(o, EpochConflict) for o in outcomes if isinstance(o, BaseException))


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_a_late_write_of_the_older_attempt_cannot_spoil_the_newer_one(store: Store, n_samples: int) -> None:
    run = await opened(store, n_samples)
    old = epoch_bits(n_samples, 1)
    await store.epochs.commit(run, 0, 0, old, 1, False)
    await store.rounds.resume(run, 0, 0)
    await store.epochs.commit(run, 0, 0, epoch_bits(n_samples, 2), 2, False)
    with pytest.raises(StaleAttempt):
        await store.epochs.commit(run, 0, 0, old, 1, True)
    round_ = await only_round(store, run)
    correct, _ = await store.bitmaps.read_epochs(run, 0, list(round_.epochs.values()))
    np.testing.assert_array_equal(correct[0], random_bitmap(n_samples, 2))


async def test_members_that_changed_since_they_were_checked_stop_the_commit(store: Store, dump: Dump) -> None:
    run = await opened(store)
    await store.rounds.put_set(run, "members", 0, random_bitmap(N, 1), 1)
    before = dump()
    assert (await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False, None))[0] == "moved"
    assert dump() == before
    members = (await only_round(store, run)).members
    assert (await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False, members))[0] == "committed"


async def test_bits_that_the_store_has_lost_are_named(store: Store, redis: Redis, settings: Settings) -> None:
    run = await opened(store)
    await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    redis.delete(Keys(settings.store_namespace).of_run("a", run.uid).chunk(0, 0))
    round_ = await only_round(store, run)
    with pytest.raises(StoreDamaged, match="noeviction"):
        await store.bitmaps.read_epochs(run, 0, list(round_.epochs.values()))


@pytest.mark.parametrize("n_samples", [N, LARGE])
async def test_logs_fill_an_epoch_up_and_leave_nothing_of_what_they_superseded(
    store: Store, redis: Redis, settings: Settings, n_samples: int
) -> None:
    run = await opened(store, n_samples)
    assert await merge(store, run, [1])
    first = (await only_round(store, run)).partial_epochs[0]
    assert await merge(store, run, [1, 2], False, first)
    round_ = await only_round(store, run)
    assert (round_.partial_epochs, list(round_.epochs), round_.version) == ({}, [0], 2)
    assert (round_.epochs[0].kind, round_.epochs[0].n_observed) == ("logs", 2)
    correct, observed = await store.bitmaps.read_epochs(run, 0, [round_.epochs[0]])
    assert bitmap.to_indices(correct[0], n_samples).tolist() == [1, 2]
    assert bitmap.to_indices(observed[0], n_samples).tolist() == [1, 2]
    for chunk in range(-(-n_samples // CHUNK_SAMPLES)):
        assert redis.hlen(Keys(settings.store_namespace).of_run("a", run.uid).chunk(0, chunk)) == 1


async def test_a_merge_with_what_stands_there_no_more_changes_nothing(store: Store, dump: Dump) -> None:
    run = await opened(store)
    await merge(store, run, [1])
    first = (await only_round(store, run)).partial_epochs[0]
    await merge(store, run, [1, 2], old=first)
    before = dump()
    assert not await merge(store, run, [1, 3], old=first)
    assert not await merge(store, run, [3])
    assert dump() == before
    await store.rounds.resume(run, 0, 0)
    assert (await only_round(store, run)).partial_epochs == {}
    with pytest.raises(StaleAttempt):
        await merge(store, run, [3])
    await store.rounds.put_set(run, "members", 0, random_bitmap(N, 1), 2)
    assert not await merge(store, run, [3], attempt=2)  # judged by other members


async def test_a_whole_body_takes_the_place_of_logs_only_when_told_to(store: Store, dump: Dump) -> None:
    run = await opened(store)
    await merge(store, run, [1])
    before = dump()
    with pytest.raises(EpochKindConflict, match="replace=true"):
        await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    assert dump() == before
    assert (await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, True))[0] == "replaced"
    round_ = await only_round(store, run)
    assert (round_.partial_epochs, round_.epochs[0].kind) == ({}, "whole")


async def test_a_packed_epoch_counts_its_bits() -> None:
    observed, correct = random_bitmap(N, 1), random_bitmap(N, 1) & random_bitmap(N, 2)
    packed = PackedEpoch.from_bits(EpochBits(N, correct, observed))
    assert (packed.planes, packed.n_observed) == (2, bitmap.popcount(observed))
    assert packed.values == [observed.tobytes() + correct.tobytes()]
