"""Bitmaps in chunk hashes, and rounds read from their records."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service.concurrency import LruCache
from mild_service.models import Epoch, Round, Run, SetRef
from mild_service.store import codec
from mild_service.store.checksums import restore_values, seal, unseal_all
from mild_service.store.context import Argument, StoreContext, run_not_found_error
from mild_service.store.error_translation import pairs_to_dict, to_bytes_list, to_texts, translate_errors
from mild_service.store.keys import epoch_field, set_field


class BitmapStore:
    """Reads and deletes bitmaps in the chunk hashes of a run.

    The tail of a field is its chunks from 1 on. In a cluster, they may be on other servers than chunk 0.
    """

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def write_tail(self, run: Run, round_: int, field: str, values: Sequence[bytes]) -> None:
        """Write the tail of a field; chunk 0 is written by the script that commits the field.

        Parameters
        ----------
        run, round_, field
            Run, number of the round and name of the field.
        values
            One stored value per chunk, including chunk 0.
        """
        tail = values[1:]
        with translate_errors():
            for group in codec.group_by_size([len(value) for value in tail]):
                names = [self._context.keys.chunk(run.run_id, run.uid, round_, position + 1) for position in group]
                await self._context.writer.send(
                    *((key, ("HSET", key, field, tail[position])) for key, position in zip(names, group, strict=True))
                )

    async def delete_tail(self, run: Run, round_: int, fields: Sequence[str]) -> None:
        """Delete the tails of fields whose records were replaced."""
        tail = range(1, codec.count_chunks(run.spec.num_samples))
        if fields and tail:
            with translate_errors():
                pipeline = self._context.redis.pipeline(transaction=False)
                for chunk in tail:
                    pipeline.hdel(self._context.keys.chunk(run.run_id, run.uid, round_, chunk), *fields)
                await pipeline.execute()

    async def delete_round_tail(self, run: Run, round_: int) -> None:
        """Delete the tails of all fields of a round whose run no longer exists."""
        with translate_errors():
            for chunk in range(1, codec.count_chunks(run.spec.num_samples)):
                await self._context.redis.unlink(self._context.keys.chunk(run.run_id, run.uid, round_, chunk))

    async def read_epochs(self, run: Run, round_: int, epochs: Sequence[Epoch]) -> tuple[Bitmap, Bitmap]:
        """Read the bits of committed epochs, in the given order.

        Returns
        -------
        correct, observed
            Shape (n_epochs, n_bytes) each; `observed` is all ones for an epoch without an observed bitmap.
        """
        n_samples = run.spec.num_samples
        correct = np.empty((len(epochs), bitmap.n_bytes(n_samples)), dtype=np.uint8)
        observed = np.broadcast_to(bitmap.full(n_samples), correct.shape)
        if any(epoch.planes == 2 for epoch in epochs):
            observed = observed.copy()
        fields = [epoch_field(epoch.number, epoch.attempt, epoch.digest) for epoch in epochs]
        for chunk in range(codec.count_chunks(n_samples)):
            extent = codec.chunk_slice(chunk, n_samples)
            width = extent.stop - extent.start
            key = self._context.keys.chunk(run.run_id, run.uid, round_, chunk)
            for group in codec.group_by_size([epoch.planes * width for epoch in epochs]):
                values = await self._read_fields(run, key, [fields[position] for position in group])
                for position, value in zip(group, values, strict=True):
                    planes = codec.decode_planes(value, epochs[position].planes, chunk, n_samples)
                    correct[position, extent] = planes[-1]
                    if len(planes) == 2:
                        observed[position, extent] = planes[0]
        return correct, observed

    async def read_union(self, run: Run, round_: int, fields: Sequence[str]) -> tuple[Bitmap, Bitmap]:
        """Read fields of two bitmaps each (observed, correct), and return the union of the fields.

        At most one reply is in memory at a time.

        Returns
        -------
        observed, correct
            Shape (n_bytes,) each.
        """
        n_samples = run.spec.num_samples
        planes = np.zeros((2, bitmap.n_bytes(n_samples)), dtype=np.uint8)
        for chunk in range(codec.count_chunks(n_samples)):
            extent = codec.chunk_slice(chunk, n_samples)
            key = self._context.keys.chunk(run.run_id, run.uid, round_, chunk)
            for group in codec.group_by_size([2 * (extent.stop - extent.start)] * len(fields)):
                for value in await self._read_fields(run, key, [fields[position] for position in group]):
                    planes[:, extent] |= codec.decode_planes(value, 2, chunk, n_samples)
        return planes[0], planes[1]

    async def read_set(self, run: Run, ref: SetRef) -> Bitmap:
        """Read a set of samples, shape (n_bytes,)."""
        n_samples = run.spec.num_samples
        members = np.empty(bitmap.n_bytes(n_samples), dtype=np.uint8)
        for chunk in range(codec.count_chunks(n_samples)):
            key = self._context.keys.chunk(run.run_id, run.uid, ref.round, chunk)
            (value,) = await self._read_fields(run, key, [set_field(ref.digest)])
            members[codec.chunk_slice(chunk, n_samples)] = np.frombuffer(value, dtype=np.uint8)
        return members

    async def collect_garbage(self, run: Run, round_: Round) -> int:
        """Delete the fields of chunks >= 1 to which no record of a finished round refers; return their number.

        The round must be finished: in an open round, a field is written before the record that refers to the field.
        """
        assert round_.finished, "only a finished round has garbage"
        named_fields = {epoch_field(e.number, e.attempt, e.digest) for e in round_.epochs.values()}
        named_fields |= {
            set_field(ref.digest) for ref in (round_.members, round_.planted, round_.selected) if ref is not None
        }
        removed = 0
        with translate_errors():
            for chunk in range(1, codec.count_chunks(run.spec.num_samples)):
                key = self._context.keys.chunk(run.run_id, run.uid, round_.number, chunk)
                names = to_texts(await self._context.redis.hkeys(key))
                if unnamed := [name for name in names if name not in named_fields]:
                    removed += await self._context.redis.hdel(key, *unnamed)
        return removed

    async def _read_fields(self, run: Run, key: str, fields: Sequence[str]) -> list[memoryview]:
        """Read fields of a chunk hash; raise `StoreDamaged`, or `RunNotFound` for a deleted run, if one is missing."""
        with translate_errors():
            values = to_bytes_list(await self._context.redis.hmget(key, list(fields)))
        if None in values:
            record = self._context.keys.run(run.run_id)
            with translate_errors():
                uid, deleting = to_bytes_list(await self._context.redis.hmget(record, ["uid", "deleting"]))
            if uid != run.uid.encode() or deleting is not None:
                raise run_not_found_error(run.run_id)
        return unseal_all(key, fields, values)


class BitmapWriter:
    """Runs scripts that write a bitmap and commit it."""

    def __init__(self, context: StoreContext, bitmaps: BitmapStore) -> None:
        self._context = context
        self._bitmaps = bitmaps

    async def write(
        self,
        script: str,
        names: Sequence[str],
        arguments: Sequence[Argument],
        run: Run,
        round_: int,
        field: str,
        values: Sequence[bytes],
    ) -> list[str]:
        """Run a script that writes a field of the chunk hashes, and return the reply of the script.

        On a single server, the script writes all chunks. If chunks >= 1 may be on other servers, the script is run
        twice: first only to check whether the write is accepted, since a refused write must leave nothing behind; then,
        after these chunks were written, to write chunk 0 and commit.

        Parameters
        ----------
        script
            Name of the script.
        names
            Keys of the script, without those of chunks >= 1.
        arguments
            Arguments of the script, without the field and its values.
        run, round_
            Run and number of the round.
        field, values
            Name of the field, and its content, one per chunk.
        """
        keys = [self._context.keys.chunk(run.run_id, run.uid, round_, chunk) for chunk in range(len(values))]
        values = [seal(key, field, value) for key, value in zip(keys, values, strict=True)]
        with translate_errors():
            if not self._context.sharded:
                return await self._context.scripts.run(script, [*names, *keys[1:]], [*arguments, field, *values])
            if len(values) > 1:
                answer = await self._context.scripts.run(script, names, arguments)
                if answer[0] != "clear":
                    return answer
                await self._bitmaps.write_tail(run, round_, field, values)
            answer = await self._context.scripts.run(script, names, [*arguments, field, values[0]])
        if len(values) > 1 and answer[0] == "gone":
            await self._bitmaps.delete_round_tail(run, round_)
        if len(values) > 1 and answer[0] == "finished":  # its cleanup may have run before these chunks were written
            await self._bitmaps.collect_garbage(run, *await read_rounds(self._context, run, range(round_, round_ + 1)))
        return answer

    async def restore(self, run: Run, round_: int, field: str, contents: Sequence[bytes]) -> int:
        """Write the values of a committed field again that are missing or damaged; return their number."""
        keys = [self._context.keys.chunk(run.run_id, run.uid, round_, chunk) for chunk in range(len(contents))]
        return await restore_values(self._context, field, zip(keys, contents, strict=True))

    def script_keys(self, run: Run, round_: int) -> list[str]:
        """Return the keys of the scripts that write epochs and sets: run, round, epochs, chunk 0, shards, events."""
        keys = self._context.keys
        return [
            keys.run(run.run_id),
            keys.round(run.run_id, run.uid, round_),
            keys.epochs(run.run_id, run.uid, round_),
            keys.chunk(run.run_id, run.uid, round_, 0),
            keys.shards(run.run_id, run.uid, round_),
            keys.events(run.run_id, run.uid),
        ]


@dataclass(frozen=True, slots=True)
class CachedRound:
    """A round as it was read last, with the tag that it had in the store."""

    tag: bytes
    round: Round

    @property
    def n_bytes(self) -> int:
        """Size in memory, about."""
        return 4096 + 512 * (len(self.round.epochs) + len(self.round.partial_epochs)) + 512 * len(self.round.metrics)


async def read_rounds(
    context: StoreContext, run: Run, numbers: range, cache: LruCache[CachedRound] | None = None
) -> list[Round]:
    """Read the rounds with these numbers atomically, ascending.

    Those in `cache` are not read again unless they have changed, by this or any other process.
    """
    keys = context.keys
    triples = [
        [name(run.run_id, run.uid, number) for name in (keys.round, keys.epochs, keys.metrics)] for number in numbers
    ]
    if not triples:
        return []
    cached = [None if cache is None else cache.get(record) for record, *_ in triples]
    tags = [b"" if entry is None else entry.tag for entry in cached]
    with translate_errors():
        names = [keys.run(run.run_id), *(name for triple in triples for name in triple)]
        replies = await context.scripts.read("read_rounds", names, tags)
    rounds = []
    for number, (record, *_), entry, (tag, *hashes) in zip(numbers, triples, cached, replies, strict=True):
        if hashes and not hashes[0]:
            raise run_not_found_error(run.run_id)
        if hashes or entry is None:
            entry = CachedRound(tag, codec.decode_round(number, *map(pairs_to_dict, hashes)))
            if cache is not None:
                cache.put(record, entry)
        rounds.append(entry.round)
    return rounds
