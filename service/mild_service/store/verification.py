"""Verification of all stored values, for ``mild-service doctor --bits``."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import get_args

import anyio

from mild_service.errors import RunNotFound, StoreDamaged
from mild_service.models import AnnotationName, Round, Run
from mild_service.store import codec
from mild_service.store.bitmaps import read_rounds
from mild_service.store.context import StoreContext
from mild_service.store.keys import annotation_field, describe_value, epoch_field, find_remedy, name_in_run, set_field
from mild_service.store.run_store import RunStore
from mild_service.store.sample_id_store import PIECE_SAMPLES
from mild_service.store.shard_store import ShardStore, list_fields
from mild_service.store.values import has_checksums, is_intact

_BYTES_PER_SECOND = 200 * 2**20
"""Most bytes that are read in a second, so that the store goes on to answer others."""
_VALUE_BYTES = 4 * 2**20
"""Assumed size of a value of labels, ids or wrong predictions."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Damage of a run: the run's id, what is damaged or missing, and what restores it."""

    run_id: str
    what: str
    remedy: str


class ValueVerifier:
    """Reads every value of every run, compares it with its checksum, and finds values that are missing.

    At most `codec.REPLY_BYTES` are in memory at a time, or one value.
    """

    def __init__(self, context: StoreContext, runs: RunStore, shards: ShardStore) -> None:
        self._context = context
        self._runs = runs
        self._shards = shards

    async def verify(self) -> AsyncIterator[Damage]:
        """Yield the damages of all runs in the index of runs."""
        for entry in sorted([entry async for entry in self._context.iterate_index()]):
            run_id = entry.partition(":")[2]
            try:
                async for damage in self._verify_run(await self._runs.get(run_id)):
                    yield damage
            except RunNotFound:
                continue
            except StoreDamaged as error:  # of a record
                what, _, remedy = str(error).partition("; ")
                yield Damage(run_id, what, remedy)

    async def _verify_run(self, run: Run) -> AsyncIterator[Damage]:
        """Yield the damages of one run."""
        named, n_chunks = await self._list_named_fields(run), codec.count_chunks(run.spec.num_samples)
        missing: list[tuple[str, str]] = []
        for key in self._context.keys_of(run).list_hashes(run.round + 1, n_chunks):
            if has_checksums(key):
                fields = await self._context.call("HKEYS", key)
                missing += [(key, field) for field in sorted(named[key] - {f.decode(errors="replace") for f in fields})]
                async for field in self._find_damaged(key, fields):
                    yield _make_damage(run, key, field, "damaged")
        if missing:  # unless they were replaced in the meantime
            named = await self._list_named_fields(await self._runs.get(run.run_id))
            for key, field in missing:
                if field in named[key]:
                    yield _make_damage(run, key, field, "missing")

    async def _find_damaged(self, key: str, fields: list[bytes]) -> AsyncIterator[str]:
        """Yield the fields of a hash whose values do not match their checksums."""
        size = 2 * codec.CHUNK_BYTES if name_in_run(key).startswith("chunk:") else _VALUE_BYTES
        for group in codec.group_by_size([size] * len(fields)):
            start = time.monotonic()
            names = [fields[position] for position in group]
            values = await self._context.read_fields(key, names)
            for name, value in zip(names, values, strict=True):
                field = name.decode(errors="replace")
                if value is not None and not is_intact(key, field, value):
                    yield field
            n_bytes = sum(len(value) for value in values if value is not None)
            await anyio.sleep(max(0, n_bytes / _BYTES_PER_SECOND - (time.monotonic() - start)))

    async def _list_named_fields(self, run: Run) -> dict[str, set[str]]:
        """Return the fields that the records of a run name, by key."""
        keys, chunks = self._context.keys_of(run), range(codec.count_chunks(run.spec.num_samples))
        named: dict[str, set[str]] = defaultdict(set)
        for name in get_args(AnnotationName):
            if (ref := run.annotation_ref(name)) is not None:
                for chunk in chunks:
                    named[keys.annotations(chunk)].add(annotation_field(name, ref))
        if run.ids is not None:
            for piece in range(-(-run.spec.num_samples // PIECE_SAMPLES)):
                key = keys.sample_ids(piece * PIECE_SAMPLES // codec.CHUNK_SAMPLES)
                named[key].add(f"{run.ids.upload}:{piece}")
        for round_ in await read_rounds(self._context, run, range(run.round + 1)):
            shard_fields = await self._list_shard_fields(run, round_)
            for chunk in chunks:
                for number, field in [*_list_bitmaps(round_), *((round_.number, field) for field in shard_fields)]:
                    named[keys.chunk(number, chunk)].add(field)
                named[keys.wrong_predictions(round_.number, chunk)].update(
                    epoch_field(epoch) for epoch in round_.all_epochs.values() if epoch.has_wrong_predictions
                )
        return named

    async def _list_shard_fields(self, run: Run, round_: Round) -> list[str]:
        """Return the fields of shards that are not merged yet."""
        fields: list[str] = []
        for epoch in round_.partial_epochs.values():
            if epoch.kind == "shards":
                refs = await self._shards.read_refs(run, round_.number, epoch)
                fields += list_fields(epoch.number, refs or ())
        return fields


def _list_bitmaps(round_: Round) -> Iterator[tuple[int, str]]:
    """Yield the number of the round whose chunks hold it, and the field, of each bitmap that a round's records name."""
    for epoch in round_.all_epochs.values():
        if not (epoch.partial and epoch.kind == "shards"):
            yield round_.number, epoch_field(epoch)
    for ref in (round_.members, round_.planted, round_.selected):
        if ref is not None:
            yield ref.round, set_field(ref.digest)


def _make_damage(run: Run, key: str, field: str, state: str) -> Damage:
    return Damage(run.run_id, f"{describe_value(key, field)} is {state}", find_remedy(key, field))
