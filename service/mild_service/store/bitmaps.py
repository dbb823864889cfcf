"""Bitmaps in chunk hashes, and rounds read from their records."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import MildError
from mild_service.concurrency import LruCache
from mild_service.models import Epoch, Round, Run, SetRef, run_not_found_error
from mild_service.store import codec
from mild_service.store.context import StoreContext, refusal_error
from mild_service.store.keys import epoch_field, set_field
from mild_service.store.values import delete_unnamed, read_values


class BitmapStore:
    """Reads and deletes bitmaps in the chunk hashes of a run.

    The tail of a field is its chunks from 1 on. In a cluster, they may be on other servers than chunk 0.
    """

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def delete_tail(self, run: Run, round_: int, fields: Sequence[str]) -> None:
        """Delete the tails of fields whose records were replaced."""
        if fields:
            await self._context.call_all(("HDEL", key, *fields) for key in self._list_chunks(run, round_)[1:])

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
        fields = [epoch_field(epoch) for epoch in epochs]
        for chunk, key in enumerate(self._list_chunks(run, round_)):
            extent = codec.chunk_slice(chunk, n_samples)
            width = extent.stop - extent.start
            for group in codec.group_by_size([epoch.planes * width for epoch in epochs]):
                values = await read_values(self._context, run, key, [fields[position] for position in group])
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
        for chunk, key in enumerate(self._list_chunks(run, round_)):
            extent = codec.chunk_slice(chunk, n_samples)
            for group in codec.group_by_size([2 * (extent.stop - extent.start)] * len(fields)):
                for value in await read_values(self._context, run, key, [fields[position] for position in group]):
                    planes[:, extent] |= codec.decode_planes(value, 2, chunk, n_samples)
        return planes[0], planes[1]

    async def read_set(self, run: Run, ref: SetRef) -> Bitmap:
        """Read a set of samples, shape (n_bytes,)."""
        parts: list[memoryview] = []
        for key in self._list_chunks(run, ref.round):
            parts += await read_values(self._context, run, key, [set_field(ref.digest)])
        return np.frombuffer(b"".join(parts), dtype=np.uint8)

    async def read_members(self, run: Run, round_: Round) -> Bitmap:
        """Read the samples on which the model is trained in a round, shape (n_bytes,)."""
        if round_.members is None:
            return bitmap.full(run.spec.num_samples)
        return await self.read_set(run, round_.members)

    async def read_expected(self, run: Run, round_: Round) -> Bitmap:
        """Read the samples that the run observes in every epoch of a round, shape (n_bytes,)."""
        if run.spec.observe == "members":
            return await self.read_members(run, round_)
        return bitmap.full(run.spec.num_samples)

    async def make_refusal(self, answer: list[str], run: Run, round_: int, attempt: int | None) -> MildError:
        """Return the error for a refused write to a round, whose chunks are deleted if they came after its cleanup.

        Parameters as in `refusal_error`, but for the record of the run.
        """
        if answer[0] == "finished" and self._context.sharded and codec.count_chunks(run.spec.num_samples) > 1:
            await self.collect_garbage(run, *await read_rounds(self._context, run, range(round_, round_ + 1)))
        return refusal_error(answer, run.run_id, round_, attempt)

    async def collect_garbage(self, run: Run, round_: Round) -> int:
        """Delete the fields of chunks >= 1 to which no record of a finished round refers; return their number.

        The round must be finished: in an open round, a field is written before the record that refers to the field.
        """
        assert round_.finished, "only a finished round has garbage"
        named_fields = {epoch_field(epoch) for epoch in round_.epochs.values()}
        named_fields |= {
            set_field(ref.digest) for ref in (round_.members, round_.planted, round_.selected) if ref is not None
        }
        return await delete_unnamed(self._context, self._list_chunks(run, round_.number)[1:], named_fields)

    def _list_chunks(self, run: Run, round_: int) -> list[str]:
        """Return the keys of the chunks of a round."""
        return self._context.keys_of(run).list_chunks(round_, codec.count_chunks(run.spec.num_samples))


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
    keys = context.keys_of(run)
    triples = [[name(number) for name in (keys.round, keys.epochs, keys.metrics)] for number in numbers]
    if not triples:
        return []
    cached = [None if cache is None else cache.get(record) for record, *_ in triples]
    tags = [b"" if entry is None else entry.tag for entry in cached]
    replies = await context.scripts.read(
        "read_rounds", [keys.run, *(name for triple in triples for name in triple)], tags
    )
    rounds = []
    for number, (record, *_), entry, (tag, *hashes) in zip(numbers, triples, cached, replies, strict=True):
        if hashes and not hashes[0]:
            raise run_not_found_error(run.run_id)
        if hashes or entry is None:
            hashes = [dict(zip(pairs[::2], pairs[1::2], strict=True)) for pairs in hashes]
            entry = CachedRound(tag, codec.decode_round(number, *hashes))
            if cache is not None:
                cache.put(record, entry, entry.n_bytes)
        rounds.append(entry.round)
    return rounds
