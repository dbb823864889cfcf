"""Values that have changed in the store, or are not in their place: never read, named, and restored by the original."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from redis import Redis

from mild_core.audit import Annotations, Audit
from mild_core.types import EpochBits
from mild_core.wrong_predictions import WrongPredictions
from mild_service.errors import RoundFinished, StoreDamaged
from mild_service.models import ComputedSelection, Run, SampleIdsRef
from mild_service.store import PackedEpoch, Store, StoredRound
from mild_service.store.context import to_texts
from mild_service.store.keys import Keys, epoch_field, set_field
from mild_service.store.values import has_checksums, is_intact, seal, unseal
from tests.service.conftest import Dump
from tests.service.store.conftest import LARGE, N, epoch_bits, opened, random_bitmap

pytestmark = pytest.mark.anyio

KEY = Keys("mild").of_run("a", "0" * 16).chunk(0, 0)

CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": lambda value: bytes([value[0] ^ 1]) + value[1:],
    "a bit of the checksum": lambda value: value[:-1] + bytes([value[-1] ^ 1]),
    "cut": lambda value: value[:-3],
    "cut to almost nothing": lambda value: value[:5],
    "empty": lambda _: b"",
    "zeroed": lambda value: bytes(len(value)),
    "longer": lambda value: value + b"\0",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_value_is_not_unsealed(change: Callable[[bytes], bytes]) -> None:
    value = seal(KEY, "3:1:ab", bytes(range(100)))
    assert unseal(KEY, "3:1:ab", value) == bytes(range(100))
    with pytest.raises(StoreDamaged, match="damaged"):
        unseal(KEY, "3:1:ab", change(value))


def test_a_value_belongs_to_its_place_and_not_to_the_name_of_its_run() -> None:
    keys, value = Keys("mild"), seal(KEY, "3:1:ab", b"content")
    assert not is_intact(KEY, "4:1:ab", value)
    assert not is_intact(keys.of_run("a", "0" * 16).chunk(1, 0), "3:1:ab", value)
    assert not is_intact(keys.of_run("a", "0" * 16).chunk(0, 1), "3:1:ab", value)
    assert not is_intact(keys.of_run("a", "0" * 16).wrong_predictions(0, 0), "3:1:ab", value)
    assert is_intact(Keys("other").of_run("b", "1" * 16).chunk(0, 0), "3:1:ab", value)


async def filled(store: Store, n_samples: int) -> Run:
    """A run with values of every kind: a finished round, and an open one with shards and wrong predictions."""
    run = await opened(store, n_samples)
    await store.rounds.put_set(run, "planted", 0, random_bitmap(n_samples, 5), None)
    await store.annotations.put_labels(run, np.arange(n_samples) % 7)
    run = await store.runs.get("a")
    await store.annotations.put_audit(run, Audit(n_samples, random_bitmap(n_samples), random_bitmap(n_samples)))
    ids = [str(sample) for sample in range(min(n_samples, 8192))]
    ref = SampleIdsRef("upload", "d" * 32, await store.sample_ids.write_piece(run, "upload", 0, ids))
    if n_samples == N:
        await store.sample_ids.commit(await store.runs.get("a"), ref)
    for epoch in range(3):
        await store.epochs.commit(run, 0, epoch, epoch_bits(n_samples, epoch, planes=2), 1, False)
    (round_,) = await store.rounds.get(run, range(1))
    await store.rounds.finish(run, round_, random_bitmap(n_samples, 6), {}, {}, None)
    predicted = (np.arange(n_samples) % 3).astype(np.uint8)
    observed = random_bitmap(n_samples, 8)
    bits = EpochBits(n_samples, np.zeros_like(observed), observed)
    packed = PackedEpoch.from_bits(bits, "logs", WrongPredictions(predicted, np.minimum(predicted, np.uint8(1))))
    record = packed.make_record(0, 1, "logs")
    await store.epochs.merge(run, 1, record, packed.values, None, 1, wrong_predictions=packed.wrong_predictions)
    await store.shards.put(run, 1, 1, 0, 2, epoch_bits(n_samples, 9, planes=2), 1, False)
    return await store.runs.get("a")


def list_values(redis: Redis, namespace: str) -> Iterator[tuple[str, str]]:
    """Key and field of every value with a checksum."""
    for key in sorted(key.decode() for key in redis.scan_iter(f"{namespace}:*")):
        if has_checksums(key):
            yield from ((key, field) for field in sorted(to_texts(redis.hkeys(key))))


def read(redis: Redis, key: str, field: str) -> bytes:
    """Return the value of a field that is stored."""
    value = redis.hget(key, field)
    assert isinstance(value, bytes)
    return value


async def read_everything(store: Store, run: Run) -> None:
    """Read all that `filled` has stored, and whole rounds as a selection reads them."""
    first, second = await store.rounds.get(run, range(2))
    assert run.labels is not None
    assert run.audit is not None
    await store.annotations.read_labels(run, run.labels, np.arange(run.spec.num_samples))
    await store.annotations.read_audit(run, run.audit)
    if run.ids is not None:
        assert [piece async for piece in store.sample_ids.read_pieces(run, run.ids, [0])]
    await store.bitmaps.read_epochs(run, 0, list(first.epochs.values()))
    await store.bitmaps.read_epochs(run, 1, list(second.epochs.values()))
    for ref in (first.planted, first.selected):
        assert ref is not None
        await store.bitmaps.read_set(run, ref)
    await store.wrong_predictions.read(run, 1, second.epochs[0])
    refs = await store.shards.read_refs(run, 1, second.partial_epochs[1])
    assert refs
    await store.shards.read_bits(run, 1, 1, refs)


async def test_every_value_that_is_damaged_or_missing_is_named_and_never_read(store: Store, redis: Redis) -> None:
    run = await filled(store, N)
    await read_everything(store, run)
    places = list(list_values(redis, store._context.keys.namespace))
    assert len(places) >= 10
    assert [damage async for damage in store.verifier.verify()] == []
    for key, field in places:
        value = read(redis, key, field)
        for change, state in ((CHANGES["a bit"], "damaged"), (None, "missing")):
            redis.hdel(key, field) if change is None else redis.hset(key, field, change(value))
            with pytest.raises(StoreDamaged, match=r"run 'a'.*restore"):
                await read_everything(store, run)
            (damage,) = [damage async for damage in store.verifier.verify()]
            assert damage.run_id == "a"
            assert damage.what.endswith(f"of run 'a' is {state}")
            redis.hset(key, field, value)
    await read_everything(store, run)


async def test_swapped_values_are_noticed(store: Store, redis: Redis) -> None:
    run = await opened(store, LARGE)
    for epoch in range(2):
        await store.epochs.commit(run, 0, epoch, epoch_bits(LARGE, epoch), 1, False)
    (round_,) = await store.rounds.get(run, range(1))
    key = store._context.keys.of_run("a", run.uid).chunk(0, 1)
    fields = [epoch_field(epoch) for epoch in round_.epochs.values()]
    values = [read(redis, key, field) for field in fields]
    redis.hset(key, fields[0], values[1])
    redis.hset(key, fields[1], values[0])
    for damaged in round_.epochs.values():
        with pytest.raises(StoreDamaged, match=f"chunk 1 of epoch {damaged.number} of round 0 of run 'a' is damaged"):
            await store.bitmaps.read_epochs(run, 0, [damaged])
    source = store.open_samples(run, [StoredRound.from_epochs(round_, [round_.epochs[1]])], None, None, Annotations())
    (part,) = source.split()
    with pytest.raises(StoreDamaged, match=r"chunk 1 of epoch 1 of round 0 of run 'a' is damaged .* PUT the same"):
        part.read()


@pytest.mark.parametrize("n_samples", [N, LARGE])
@pytest.mark.parametrize("change", [CHANGES["a bit"], CHANGES["empty"], None], ids=["a bit", "empty", "missing"])
async def test_the_original_restores_what_was_damaged_in_open_and_finished_rounds(
    store: Store, redis: Redis, n_samples: int, change: Callable[[bytes], bytes] | None
) -> None:
    run = await filled(store, n_samples)
    namespace = store._context.keys.namespace
    before = {place: read(redis, *place) for place in list_values(redis, namespace)}
    first, second = await store.rounds.get(run, range(2))

    async def put_all() -> None:
        shard = await store.shards.put(run, 1, 1, 0, 2, epoch_bits(n_samples, 9, planes=2), 1, False)
        outcome, _ = await store.epochs.commit(run, 0, 0, epoch_bits(n_samples, 0, planes=2), 1, False)
        labels = await store.annotations.put_labels(run, np.arange(n_samples) % 7)
        planted = await store.rounds.put_set(run, "planted", 0, random_bitmap(n_samples, 5), None)
        members = await store.rounds.put_set(run, "members", 1, random_bitmap(n_samples, 6), None)
        assert (shard[0], outcome, labels[0], planted[0], members[0]) == ("same", "same", "same", False, False)

    assert first.planted is not None
    assert second.members is not None
    restorable = ["0:1:" + first.epochs[0].digest, "1:0:", "labels:"]
    restorable += [set_field(first.planted.digest), set_field(second.members.digest)]
    for (key, field), value in before.items():
        if field.startswith(tuple(restorable)):
            redis.hdel(key, field) if change is None else redis.hset(key, field, change(value))
    with pytest.raises(StoreDamaged):
        await read_everything(store, run)
    await put_all()
    assert {place: read(redis, *place) for place in list_values(redis, namespace)} == before
    await read_everything(store, run)
    with pytest.raises(RoundFinished):
        await put_all()


async def test_ids_are_restored_from_another_upload_of_them(store: Store, redis: Redis, dump: Dump) -> None:
    run = await filled(store, N)
    assert run.ids is not None
    before = dump()
    redis.hset(store._context.keys.of_run("a", run.uid).sample_ids(0), "upload:0", b"17")
    await store.sample_ids.write_piece(run, "again", 0, [str(sample) for sample in range(N)])
    await store.sample_ids.restore(run, run.ids, "again")
    await store.sample_ids.delete(run, "again")
    assert dump() == before


@pytest.mark.parametrize("field", ["summary", "fit", "bits:0"])
async def test_a_damaged_cached_selection_is_computed_again(store: Store, redis: Redis, field: str) -> None:
    run = await opened(store)
    computed = ComputedSelection("d" * 32, {"n": 1}, {"m": 2}, random_bitmap(N))
    await store.selection_cache.put(run, computed)
    key = store._context.keys.of_run("a", run.uid).cached_selection("d" * 32)
    assert await store.selection_cache.get(run, "d" * 32) is not None
    redis.hset(key, field, CHANGES["a bit"](read(redis, key, field)))
    assert await store.selection_cache.get(run, "d" * 32) is None
    await store.selection_cache.put(run, computed)
    assert await store.selection_cache.get(run, "d" * 32) is not None


async def test_records_that_cannot_be_true_are_named(store: Store, redis: Redis) -> None:
    run = await opened(store)
    await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    observed = EpochBits.from_body(2 * random_bitmap(N).tobytes(), N)
    await store.epochs.commit(run, 0, 1, PackedEpoch.from_bits(observed), 1, False)
    await store.rounds.put_metrics(run, 0, 0, {"validation_accuracy": 0.9}, 1, False)
    keys = store._context.keys_of(run)
    round_key, epochs_key, run_key = keys.round(0), keys.epochs(0), keys.run
    record, config = read(redis, epochs_key, "0"), read(redis, run_key, "config")
    counts, metrics_key = read(redis, epochs_key, "1").split(b":"), keys.metrics(0)
    metrics = read(redis, metrics_key, "0")
    for key, field, value in (
        (epochs_key, "0", record.replace(b"committed", b"comnitted")),
        (epochs_key, "0", record.replace(b":1:", b":9:")),
        (epochs_key, "0", record[:20]),
        (epochs_key, "4", record),
        (epochs_key, "0", None),
        (round_key, "state", b"opfn"),
        (round_key, "members", b"0:1"),
        (round_key, "version", None),
        (run_key, "config", config.replace(b'"min_keep":', b'"min_keep":1')),
        (run_key, "config", config[1:]),
        (run_key, "round", b"\x81"),
        (run_key, "round", b"1"),
        (epochs_key, "1", b":".join([*counts[:4], b"0", *counts[5:]])),
        (metrics_key, "0", metrics.replace(b"0.9", b"0.1")),
        (metrics_key, "0", metrics[:-1] + b"}"),
        (metrics_key, "1", metrics),
    ):
        before = redis.hget(key, field)
        redis.hdel(key, field) if value is None else redis.hset(key, field, value)
        with pytest.raises(StoreDamaged, match=r"record of .* is damaged"):
            await store.rounds.get(await store.runs.get("a"), range(1))
        (damage,) = [damage async for damage in store.verifier.verify()]
        assert (damage.run_id, "record of" in damage.what) == ("a", True)
        redis.hdel(key, field) if before is None else redis.hset(key, field, before)
    await store.rounds.get(await store.runs.get("a"), range(1))


async def test_the_doctor_survives_damaged_names_and_records(store: Store, redis: Redis) -> None:
    run = await opened(store)
    await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    keys = store._context.keys
    redis.hset(keys.of_run("a", run.uid).chunk(0, 0), b"0:1:\xb8", b"what was a value")
    redis.hset(keys.of_run("a", run.uid).round(0), "n_epochs", b"2")
    redis.set(keys.of_run("b\udcb8", run.uid).chunk(0, 0).encode(errors="surrogateescape"), b"")
    assert (await store.cleanup.scan()).fields == 0
    (damage,) = [damage async for damage in store.verifier.verify()]
    assert "2 were stored" in damage.what
    await store.epochs.commit(run, 0, 1, epoch_bits(N, 1), 1, False)
    (damage,) = [damage async for damage in store.verifier.verify()]
    assert "epoch 0 of round 0 of run 'a' is damaged" in damage.what


async def test_a_put_names_a_damaged_record(store: Store, redis: Redis) -> None:
    run = await opened(store)
    await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
    key = store._context.keys.of_run("a", run.uid).epochs(0)
    redis.hset(key, "0", read(redis, key, "0").replace(b"committed", b"comnitted"))
    with pytest.raises(StoreDamaged, match="record of epoch 0 is damaged"):
        await store.epochs.commit(run, 0, 0, epoch_bits(N), 1, False)
