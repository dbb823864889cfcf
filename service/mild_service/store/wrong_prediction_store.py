"""Wrong predictions of epochs from logs: two compressed planes per chunk, in a field named like that of their epoch.

A field is written before the record that names it, and deleted by the merge that replaces it. Fields of deleted or
replaced epochs are never read, and are removed when the round is finished.
"""

from collections.abc import Sequence

import numpy as np
import zstandard
from numpy.typing import NDArray

from mild_core.wrong_predictions import ClassNumbers, WrongPredictions
from mild_service.errors import StoreDamaged
from mild_service.models import Epoch, Round, Run
from mild_service.store import codec
from mild_service.store.context import StoreContext
from mild_service.store.error_translation import blob, translated, words
from mild_service.store.keys import epoch_field

_LEVEL = 3


def pack(wrong_predictions: WrongPredictions) -> list[bytes]:
    """Encode as one value per chunk: predicted classes, then labels, with the smallest sufficient integer width."""
    max_class = max(int(wrong_predictions.predicted.max()), int(wrong_predictions.labels.max()))
    dtype = next(dtype for dtype in (np.uint8, np.uint16, np.uint32) if max_class <= np.iinfo(dtype).max)
    planes = [plane.astype(dtype) for plane in (wrong_predictions.predicted, wrong_predictions.labels)]
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    starts = range(0, planes[0].size, codec.CHUNK_SAMPLES)
    return [
        compressor.compress(b"".join(plane[start : start + codec.CHUNK_SAMPLES].tobytes() for plane in planes))
        for start in starts
    ]


class WrongPredictionStore:
    """Reads and writes the wrong predictions of a run."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def write(self, run: Run, round_: int, epoch: Epoch, values: Sequence[bytes]) -> None:
        """Write the wrong predictions of an epoch, before a record names them."""
        with translated():
            for chunk, value in enumerate(values):
                key = self._key(run, round_, chunk)
                await self._context.writer.send((key, ("HSET", key, _field(epoch), value)))

    async def delete(self, run: Run, round_: int, epoch: Epoch) -> None:
        """Delete the wrong predictions of an epoch that no record will name again."""
        with translated():
            for chunk in range(codec.n_chunks(run.spec.num_samples)):
                await self._context.redis.hdel(self._key(run, round_, chunk), _field(epoch))

    async def read(self, run: Run, round_: int, epoch: Epoch) -> WrongPredictions:
        """Read all wrong predictions of an epoch.

        Raises
        ------
        StoreDamaged
            If they are missing.
        """
        chunks = [
            await self._read_chunk(run, round_, epoch, chunk) for chunk in range(codec.n_chunks(run.spec.num_samples))
        ]
        predicted, labels = (np.concatenate([planes[row] for planes in chunks]) for row in (0, 1))
        return WrongPredictions(predicted, labels)

    async def read_some(
        self, run: Run, round_: int, epochs: Sequence[Epoch], samples: NDArray[np.int64]
    ) -> tuple[ClassNumbers, ClassNumbers]:
        """Read predicted classes and labels of some samples, ascending; shape (n_epochs, n) each.

        At most one chunk of one epoch is in memory at a time.

        Raises
        ------
        StoreDamaged
            If the wrong predictions of an epoch are missing.
        """
        classes = np.zeros((2, len(epochs), samples.size), dtype=np.uint32)
        chunks = samples // codec.CHUNK_SAMPLES
        for chunk in np.unique(chunks).tolist():
            positions = slice(*np.searchsorted(chunks, (chunk, chunk + 1)))
            offsets = samples[positions] - chunk * codec.CHUNK_SAMPLES
            for row, epoch in enumerate(epochs):
                classes[:, row, positions] = (await self._read_chunk(run, round_, epoch, chunk))[:, offsets]
        return classes[0], classes[1]

    async def collect_garbage(self, run: Run, round_: Round) -> None:
        """Delete the wrong predictions that no record of a finished round names."""
        named_fields = {_field(epoch) for epoch in round_.epochs.values() if epoch.has_wrong_predictions}
        with translated():
            for chunk in range(codec.n_chunks(run.spec.num_samples)):
                key = self._key(run, round_.number, chunk)
                if unnamed_fields := [
                    name for name in words(await self._context.redis.hkeys(key)) if name not in named_fields
                ]:
                    await self._context.redis.hdel(key, *unnamed_fields)

    async def _read_chunk(self, run: Run, round_: int, epoch: Epoch, chunk: int) -> ClassNumbers:
        """Read one chunk, shape (2, n)."""
        key, field = self._key(run, round_, chunk), _field(epoch)
        with translated():
            reply = await self._context.redis.hget(key, field)
        if reply is None:
            raise StoreDamaged(
                f"{field} is missing in {key}; the store must not evict keys (maxmemory-policy noeviction) and must "
                "keep its append-only file"
            )
        raw = zstandard.ZstdDecompressor().decompress(blob(reply))
        n_samples = min(codec.CHUNK_SAMPLES, run.spec.num_samples - chunk * codec.CHUNK_SAMPLES)
        dtype = {1: np.uint8, 2: np.uint16, 4: np.uint32}[len(raw) // (2 * n_samples)]
        return np.frombuffer(raw, dtype=dtype).reshape(2, n_samples)

    def _key(self, run: Run, round_: int, chunk: int) -> str:
        return self._context.keys.wrong_predictions(run.run_id, run.uid, round_, chunk)


def _field(epoch: Epoch) -> str:
    return epoch_field(epoch.number, epoch.attempt, epoch.digest)
