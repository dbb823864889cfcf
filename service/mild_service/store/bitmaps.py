"""Bitmaps in chunk hashes."""

from collections.abc import AsyncIterator, Sequence

import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service.models import Epoch, Round, Run, SetRef
from mild_service.store import codec
from mild_service.store.context import StorePart
from mild_service.store.keys import epoch_field, set_field
from mild_service.store.values import read_values


class BitmapStore(StorePart):
    """Reads and deletes bitmaps in the chunk hashes of a run.

    The tail of a field is its chunks from 1 on. In a cluster, they may be on other servers than chunk 0.
    """

    async def delete_tail(self, run: Run, round_: int, fields: Sequence[str]) -> None:
        """Delete the tails of fields whose records were replaced."""
        if fields:
            chunks = self._context.keys_of(run).list_chunks(round_)
            await self._context.call_all(("HDEL", key, *fields) for key in chunks[1:])

    async def read_epochs(self, run: Run, round_: int, epochs: Sequence[Epoch]) -> tuple[Bitmap, Bitmap]:
        """Read the bits of committed epochs, in the given order.

        Returns
        -------
        correct, observed
            Shape (n_epochs, n_bytes) each; `observed` is all ones for an epoch without an observed bitmap.
        """
        n_bytes, planes = bitmap.n_bytes(run.spec.num_samples), [epoch.planes for epoch in epochs]
        correct = np.empty((len(epochs), n_bytes), dtype=np.uint8)
        observed = np.broadcast_to(bitmap.full(run.spec.num_samples), correct.shape)
        if 2 in planes:
            observed = observed.copy()
        fields = [epoch_field(epoch) for epoch in epochs]
        async for position, extent, chunk in self._read_chunks(run, round_, fields, planes):
            correct[position, extent] = chunk[-1]
            if len(chunk) == 2:
                observed[position, extent] = chunk[0]
        return correct, observed

    async def read_union(self, run: Run, round_: int, fields: Sequence[str]) -> tuple[Bitmap, Bitmap]:
        """Read fields of two bitmaps each (observed, correct), and return the union of the fields.

        At most one reply is in memory at a time.

        Returns
        -------
        observed, correct
            Shape (n_bytes,) each.
        """
        union = np.zeros((2, bitmap.n_bytes(run.spec.num_samples)), dtype=np.uint8)
        async for _, extent, chunk in self._read_chunks(run, round_, fields, [2] * len(fields)):
            union[:, extent] |= chunk
        return union[0], union[1]

    async def _read_chunks(
        self, run: Run, round_: int, fields: Sequence[str], planes: Sequence[int]
    ) -> AsyncIterator[tuple[int, slice, Bitmap]]:
        """Yield the chunks of fields: the position of the field, the bytes that the chunk covers, and its bitmaps."""
        n_samples = run.spec.num_samples
        for chunk, key in enumerate(self._context.keys_of(run).list_chunks(round_)):
            extent = codec.chunk_slice(chunk, n_samples)
            for group in codec.group_by_size([n_planes * (extent.stop - extent.start) for n_planes in planes]):
                values = await read_values(self._context, run, key, [fields[position] for position in group])
                for position, value in zip(group, values, strict=True):
                    yield position, extent, codec.decode_planes(value, planes[position], chunk, n_samples)

    async def read_set(self, run: Run, ref: SetRef) -> Bitmap:
        """Read a set of samples, shape (n_bytes,)."""
        parts: list[memoryview] = []
        for key in self._context.keys_of(run).list_chunks(ref.round):
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
