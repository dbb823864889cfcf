from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mild_core import bitmap
from mild_service.config import Settings
from mild_service.errors import (
    MembersFrozen,
    MetricsConflict,
    RoundFinished,
    RoundNotOpen,
    RunNotFound,
    StaleAttempt,
    StoreDamaged,
)
from mild_service.models import Round, Run
from mild_service.store import Store
from tests.service.conftest import Clock, Dump
from tests.service.store.conftest import LARGE, N, epoch_bits, finish, merge, only_round, opened, random_bitmap

pytestmark = pytest.mark.anyio


async def test_resuming_drops_later_epochs_and_shuts_out_the_older_attempt(store: Store) -> None:
    run = await opened(store)
    for number in range(4):
        await store.epochs.commit(run, 0, number, epoch_bits(N, number), 1, False)
        await store.rounds.put_metrics(run, 0, number, {"loss": float(number)}, 1, False)
    assert await store.rounds.resume(run, 0, 2) == 2
    round_ = await only_round(store, run)
    assert list(round_.epochs) == list(round_.metrics) == [0, 1]
    for refused in (
        store.epochs.commit(run, 0, 2, epoch_bits(N, 2), 1, False),
        store.rounds.put_metrics(run, 0, 2, {"loss": 1.0}, 1, False),
        store.rounds.put_set(run, "members", 0, random_bitmap(N), 1),
    ):
        with pytest.raises(StaleAttempt, match="attempt 2, got attempt 1"):
            await refused
    with pytest.raises(StaleAttempt):
        await store.rounds.finish(run, round_, bitmap.full(N), {}, {}, 1)
    assert (await store.epochs.commit(run, 0, 2, epoch_bits(N, 7), 2, False))[0] == "committed"
    assert (await store.epochs.commit(run, 0, 1, epoch_bits(N, 1), 2, False))[0] == "same"


async def test_members_are_everyone_then_the_previous_set_unless_set(store: Store) -> None:
    run = await opened(store)
    assert (await only_round(store, run)).members is None
    assert await store.rounds.put_set(run, "members", 0, bitmap.full(N), None) == (False, N)
    members = random_bitmap(N, 1)
    assert await store.rounds.put_set(run, "members", 0, members, 1) == (True, bitmap.popcount(members))
    assert (await store.rounds.put_set(run, "members", 0, members, 1))[0] is False
    await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    assert (await store.rounds.put_set(run, "members", 0, members, 1))[0] is False
    with pytest.raises(MembersFrozen, match="1 epochs"):
        await store.rounds.put_set(run, "members", 0, random_bitmap(N, 2), 1)
    selected = random_bitmap(N, 3)
    assert await finish(store, run, selected)
    ref = (await only_round(store, run, 1)).members
    assert ref is not None
    assert (ref.round, ref.n_members) == (0, bitmap.popcount(selected))
    np.testing.assert_array_equal(await store.bitmaps.read_set(run, ref), selected)


async def test_metrics_are_kept_once(store: Store) -> None:
    run = await opened(store)
    assert await store.rounds.put_metrics(run, 0, 3, {"b": 1.0, "a": 0.5}, None, False) == "committed"
    assert await store.rounds.put_metrics(run, 0, 3, {"a": 0.5, "b": 1.0}, None, False) == "same"
    with pytest.raises(MetricsConflict, match=r'has the metrics \{"a":0\.5,"b":1\.0\}, got \{"a":0\.75\}; send'):
        await store.rounds.put_metrics(run, 0, 3, {"a": 0.75}, None, False)
    assert await store.rounds.put_metrics(run, 0, 3, {"a": 0.75}, None, True) == "replaced"
    assert (await only_round(store, run)).metrics == {3: {"a": 0.75}}


async def test_metrics_without_a_checksum_are_damaged(store: Store) -> None:
    run = await opened(store)
    context = store._context
    await context.redis.hset(context.keys.of_run("a", run.uid).metrics(0), "3", '{"a":0.5}')
    with pytest.raises(StoreDamaged, match="the metrics of epoch 3 do not match their checksum"):
        await only_round(store, run)


async def test_finishing_freezes_a_round_and_opens_the_next(store: Store, dump: Dump) -> None:
    run = await opened(store)
    await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    selected = random_bitmap(N, 3)
    assert await finish(store, run, selected)
    round_ = await only_round(store, run)
    assert round_.finished
    assert (round_.selection, round_.fit) == ({"verdict": "weak"}, {"reasons": []})
    assert (await store.runs.get("a")).round == 1
    before = dump()
    for refused in (
        store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False),
        store.rounds.put_set(run, "members", 0, random_bitmap(N), 1),
        store.rounds.put_metrics(run, 0, 0, {"a": 1.0}, 1, False),
        store.rounds.resume(run, 0, 0),
        finish(store, run, random_bitmap(N, 4)),
    ):
        with pytest.raises(RoundFinished, match="round 1 is open"):
            await refused
    for refused in (
        store.epochs.commit(run, 2, 0, epoch_bits(N), 1, False),
        store.rounds.put_set(run, "members", 2, random_bitmap(N), 1),
        store.rounds.put_metrics(run, 2, 0, {"a": 1.0}, 1, False),
        store.rounds.resume(run, 2, 0),
    ):
        with pytest.raises(RoundNotOpen, match="round 1 is open"):
            await refused
    assert dump() == before


async def test_a_round_that_changed_since_it_was_read_is_not_finished(store: Store) -> None:
    run = await opened(store)
    await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    round_ = await only_round(store, run)
    await store.epochs.commit(run, 0, 1, epoch_bits(N), 1, False)
    assert not await store.rounds.finish(run, round_, bitmap.full(N), {}, {}, 1)
    assert not (await only_round(store, run)).finished
    assert (await store.runs.get("a")).round == 0


async def test_everyone_selected_means_everyone_in_the_next_round(store: Store) -> None:
    run = await opened(store)
    await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    assert await finish(store, run, bitmap.full(N))
    assert (await only_round(store, run, 1)).members is None


async def test_finishing_commits_what_logs_have_begun(store: Store) -> None:
    run = await opened(store, LARGE)
    await merge(store, run, [5, LARGE - 1])
    partial = await only_round(store, run)
    with pytest.raises(MembersFrozen):
        await store.rounds.put_set(run, "members", 0, random_bitmap(LARGE), 1)
    assert await finish(store, run, random_bitmap(LARGE, 3))
    round_ = await only_round(store, run)
    assert (round_.partial_epochs, round_.epochs[0].kind) == ({}, "logs")
    assert await store.rounds.collect_garbage(run, 0) == 0
    correct, _ = await store.bitmaps.read_epochs(run, 0, [round_.epochs[0]])
    assert bitmap.to_indices(correct[0], LARGE).tolist() == [5, LARGE - 1]
    assert partial.missing_epochs == round_.missing_epochs == []


async def test_sets_of_three_chunks_read_back_as_written(either_store: Store) -> None:
    run = await opened(either_store, LARGE)
    planted, members = random_bitmap(LARGE, 1), random_bitmap(LARGE, 2)
    await either_store.rounds.put_set(run, "planted", 0, planted, None)
    await either_store.rounds.put_set(run, "members", 0, members, None)
    round_ = await only_round(either_store, run)
    assert round_.planted is not None
    assert round_.members is not None
    np.testing.assert_array_equal(await either_store.bitmaps.read_set(run, round_.planted), planted)
    np.testing.assert_array_equal(await either_store.bitmaps.read_set(run, round_.members), members)


async def count_read_bytes(store: Store, run: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Round, int]:
    """Read round 0; return it with the bytes of the store's reply to the only command."""
    sizes: list[int] = []
    read = store.rounds._context.read_script

    async def read_and_count(name: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> list[Any]:
        reply = await read(name, keys, arguments)
        sizes.append(len(repr(reply)))
        return reply

    with monkeypatch.context() as patched:
        patched.setattr(store.rounds._context, "read_script", read_and_count)
        (round_,) = await store.rounds.get(run, range(1))
    (size,) = sizes
    return round_, size


async def test_an_unchanged_round_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await opened(store)
    for number in range(60):
        await store.epochs.commit(run, 0, number, epoch_bits(N, number), 1, False)
        await store.rounds.put_metrics(run, 0, number, {"loss": float(number)}, 1, False)
    first, size = await count_read_bytes(store, run, monkeypatch)
    again, size_again = await count_read_bytes(store, run, monkeypatch)
    assert again is first
    assert size > 60 * 30
    assert size_again < 100


async def test_every_change_by_another_process_is_seen(
    store: Store, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await opened(store)
    assert settings.store_url is not None
    other = Store(settings, settings.store_url, clock)  # whose clock stands still too
    try:
        await store.epochs.commit(run, 0, 0, epoch_bits(N, 0), 1, False)
        before = await only_round(store, run)
        await other.epochs.commit(run, 0, 0, epoch_bits(N, 1), 1, True)
        replaced = await only_round(store, run)
        assert replaced.epochs[0].digest != before.epochs[0].digest
        assert replaced.committed_digest != before.committed_digest
        await other.rounds.put_metrics(run, 0, 0, {"loss": 1.0}, 1, False)
        assert (await only_round(store, run)).metrics == {0: {"loss": 1.0}}
        await other.rounds.put_metrics(run, 0, 0, {"loss": 2.0}, 1, True)
        assert (await only_round(store, run)).metrics == {0: {"loss": 2.0}}
        await other.epochs.commit(run, 0, 1, epoch_bits(N, 1), 1, False)
        assert list((await only_round(store, run)).epochs) == [0, 1]
        await other.rounds.resume(run, 0, 1)
        assert list((await only_round(store, run)).epochs) == [0]
        assert await finish(other, run, bitmap.full(N))
        finished = await only_round(store, run)
        assert finished.finished
        await other.runs.patch(run, {"tags": {"a": "b"}})
        again, size = await count_read_bytes(store, run, monkeypatch)
        assert again is finished
        assert size < 100
        await other.runs.delete(run.run_id, run.uid)
        with pytest.raises(RunNotFound):
            await only_round(store, run)
    finally:
        await other.aclose()
