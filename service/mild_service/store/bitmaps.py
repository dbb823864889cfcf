"""Bitmaps in chunk hashes: written field by field, read group by group.

A field and the record that names it, written in this order: all of it counts, or nothing.

Rounds read back as they stand.
"""

from collections.abc import Sequence

import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service.errors import StoreDamaged
from mild_service.models import Epoch, Round, Run, SetRef
from mild_service.store import codec
from mild_service.store.context import Argument, StoreContext, run_not_found_error
from mild_service.store.error_translation import blobs, pairs, translated, words
from mild_service.store.keys import epoch_field, set_field


class BitmapStore:
    """Fields of a run's chunk hashes."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def write_tail(self, run: Run, round_: int, field: str, values: Sequence[bytes]) -> None:
        """Write chunks >= 1 of a field; chunk 0 goes with the script that commits it."""
        tail = values[1:]
        with translated():
            for group in codec.group_by_size([len(value) for value in tail]):
                names = [self._context.keys.chunk(run.run_id, run.uid, round_, position + 1) for position in group]
                await self._context.writer.send(
                    *((key, ("HSET", key, field, tail[position])) for key, position in zip(names, group, strict=True))
                )

    async def delete_tail(self, run: Run, round_: int, fields: Sequence[str]) -> None:
        """Delete chunks >= 1 of fields that no record will ever name again."""
        tail = range(1, codec.n_chunks(run.spec.num_samples))
        if fields and tail:
            with translated():
                pipeline = self._context.redis.pipeline(transaction=False)
                for chunk in tail:
                    pipeline.hdel(self._context.keys.chunk(run.run_id, run.uid, round_, chunk), *fields)
                await pipeline.execute()

    async def unlink_tail(self, run: Run, round_: int) -> None:
        """Delete chunks >= 1 of a round, of a run that is gone."""
        with translated():
            for chunk in range(1, codec.n_chunks(run.spec.num_samples)):
                await self._context.redis.unlink(self._context.keys.chunk(run.run_id, run.uid, round_, chunk))

    async def read_epochs(self, run: Run, round_: int, epochs: Sequence[Epoch]) -> tuple[Bitmap, Bitmap]:
        """Committed epochs, in order.

        Returns
        -------
        correct, observed
            Shape (n_epochs, n_bytes) each; `observed` is all ones where an epoch's body does not say.

        Raises
        ------
        StoreDamaged
            If a field that a commit names is not there.
        RunNotFound
            If that is because the run has gone meanwhile.
        """
        n_samples = run.spec.num_samples
        correct = np.empty((len(epochs), bitmap.n_bytes(n_samples)), dtype=np.uint8)
        observed = np.broadcast_to(bitmap.full(n_samples), correct.shape)
        if any(epoch.planes == 2 for epoch in epochs):
            observed = observed.copy()
        fields = [epoch_field(epoch.number, epoch.attempt, epoch.digest) for epoch in epochs]
        for chunk in range(codec.n_chunks(n_samples)):
            extent = codec.chunk_slice(chunk, n_samples)
            width = extent.stop - extent.start
            key = self._context.keys.chunk(run.run_id, run.uid, round_, chunk)
            for group in codec.group_by_size([epoch.planes * width for epoch in epochs]):
                values = await self._fetch(run, key, [fields[position] for position in group])
                for position, value in zip(group, values, strict=True):
                    planes = codec.read_planes(value, epochs[position].planes)
                    correct[position, extent] = planes[-1]
                    if len(planes) == 2:
                        observed[position, extent] = planes[0]
        return correct, observed

    async def read_union(self, run: Run, round_: int, fields: Sequence[str]) -> tuple[Bitmap, Bitmap]:
        """Fields of two bitmaps each (observed, correct), merged: a bit is set where it is set in any of them.

        Returns
        -------
        observed, correct
            Shape (n_bytes,) each. Beside these, no more than one reply is held at once.

        Raises
        ------
        StoreDamaged
            If a field is not there (any more).
        RunNotFound
            If that is because the run has gone meanwhile.
        """
        n_samples = run.spec.num_samples
        both = np.zeros((2, bitmap.n_bytes(n_samples)), dtype=np.uint8)
        for chunk in range(codec.n_chunks(n_samples)):
            extent = codec.chunk_slice(chunk, n_samples)
            key = self._context.keys.chunk(run.run_id, run.uid, round_, chunk)
            for group in codec.group_by_size([2 * (extent.stop - extent.start)] * len(fields)):
                for value in await self._fetch(run, key, [fields[position] for position in group]):
                    both[:, extent] |= codec.read_planes(value, 2)
        return both[0], both[1]

    async def read_set(self, run: Run, ref: SetRef) -> Bitmap:
        """A set of samples, shape (n_bytes,).

        Raises
        ------
        StoreDamaged
            If it is not there.
        RunNotFound
            If that is because the run has gone meanwhile.
        """
        n_samples = run.spec.num_samples
        out = np.empty(bitmap.n_bytes(n_samples), dtype=np.uint8)
        for chunk in range(codec.n_chunks(n_samples)):
            key = self._context.keys.chunk(run.run_id, run.uid, ref.round, chunk)
            (value,) = await self._fetch(run, key, [set_field(ref.digest)])
            out[codec.chunk_slice(chunk, n_samples)] = np.frombuffer(value, dtype=np.uint8)
        return out

    async def collect_garbage(self, run: Run, round_: Round) -> int:
        """Delete the fields of chunks >= 1 that no record of a finished round names; return how many.

        In an open round nothing may be deleted: a field may be on its way to being committed.
        """
        assert round_.finished, "only a finished round has garbage"
        kept = {epoch_field(e.number, e.attempt, e.digest) for e in round_.epochs.values()}
        kept |= {set_field(ref.digest) for ref in (round_.members, round_.planted, round_.selected) if ref is not None}
        removed = 0
        with translated():
            for chunk in range(1, codec.n_chunks(run.spec.num_samples)):
                key = self._context.keys.chunk(run.run_id, run.uid, round_.number, chunk)
                names = words(await self._context.redis.hkeys(key))
                if stray := [name for name in names if name not in kept]:
                    removed += await self._context.redis.hdel(key, *stray)
        return removed

    async def _fetch(self, run: Run, key: str, fields: Sequence[str]) -> list[bytes]:
        with translated():
            values = blobs(await self._context.redis.hmget(key, list(fields)))
        lost = [field for field, value in zip(fields, values, strict=True) if value is None]
        if lost:
            record = self._context.keys.run(run.run_id)
            with translated():
                uid, deleting = blobs(await self._context.redis.hmget(record, ["uid", "deleting"]))
            if uid != run.uid.encode() or deleting is not None:
                raise run_not_found_error(run.run_id)
            raise StoreDamaged(
                f"{len(lost)} of {len(fields)} committed fields are missing in {key}, the first is {lost[0]}; "
                "the store must not evict keys (maxmemory-policy noeviction) and must keep its append-only file"
            )
        return [value for value in values if value is not None]


async def read_rounds(context: StoreContext, run: Run, numbers: range) -> list[Round]:
    """Rounds, all of one instant.

    Raises
    ------
    RunNotFound
        If the run has gone meanwhile.
    """
    keys = context.keys
    names = [
        name(run.run_id, run.uid, number) for number in numbers for name in (keys.round, keys.epochs, keys.metrics)
    ]
    if not names:
        return []
    with translated():
        found = await context.scripts.read("read_rounds", names)
    if not all(found[::3]):
        raise run_not_found_error(run.run_id)
    return [
        codec.read_round(number, *(pairs(reply) for reply in found[3 * position : 3 * position + 3]))
        for position, number in enumerate(numbers)
    ]


class BitmapWriter:
    """Writes bitmaps of any size with one script's leave."""

    def __init__(self, context: StoreContext, bits: BitmapStore) -> None:
        self._context = context
        self._bits = bits

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
        """Run a script that writes a field, and return its answer.

        On one server all chunks go with it. Where chunks >= 1 may lie on other servers, they go first, and the script
        is asked before whether it would take them: a refused write must not leave them behind.
        """
        with translated():
            if not self._context.sharded:
                tail = [self._context.keys.chunk(run.run_id, run.uid, round_, chunk) for chunk in range(1, len(values))]
                return await self._context.scripts.run(script, [*names, *tail], [*arguments, field, *values])
            if len(values) > 1:
                answer = await self._context.scripts.run(script, names, arguments)
                if answer[0] != "clear":
                    return answer
                await self._bits.write_tail(run, round_, field, values)
            answer = await self._context.scripts.run(script, names, [*arguments, field, values[0]])
        if len(values) > 1 and answer[0] == "gone":
            await self._bits.unlink_tail(run, round_)
        if len(values) > 1 and answer[0] == "finished":  # and cleaned up, perhaps before these were written
            await self._bits.collect_garbage(run, *await read_rounds(self._context, run, range(round_, round_ + 1)))
        return answer

    def names(self, run: Run, round_: int) -> list[str]:
        """Keys of what an epoch's or a set's script looks at: run, round, epochs, chunk 0, shards, events."""
        keys = self._context.keys
        return [
            keys.run(run.run_id),
            keys.round(run.run_id, run.uid, round_),
            keys.epochs(run.run_id, run.uid, round_),
            keys.chunk(run.run_id, run.uid, round_, 0),
            keys.shards(run.run_id, run.uid, round_),
            keys.events(run.run_id, run.uid),
        ]
