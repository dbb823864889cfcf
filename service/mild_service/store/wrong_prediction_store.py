"""Wrong predictions of epochs from logs: two compressed planes per chunk, in a field named like that of their epoch.

A field is written before the record that names it, and deleted by the merge that replaces it. Fields of deleted or
replaced epochs are never read, and are removed when the round is finished.
"""

from collections.abc import AsyncIterator, Sequence

import numpy as np
import zstandard
from numpy.typing import NDArray

from mild_core.wrong_predictions import ClassNumbers, WrongPredictions
from mild_service.models import Epoch, Run
from mild_service.store import codec
from mild_service.store.context import StorePart
from mild_service.store.keys import epoch_field
from mild_service.store.values import read_values, write_values

_COMPRESSION_LEVEL = 3
_MAX_BYTES = 8
"""Most bytes of a sample: two classes of 32 bits."""


def pack_wrong_predictions(wrong_predictions: WrongPredictions) -> list[bytes]:
    """Encode wrong predictions as one compressed value per chunk.

    A value has the predicted classes of all samples of the chunk, then their labels, with the smallest sufficient
    integer width.
    """
    compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL)
    planes = codec.split_integers([wrong_predictions.predicted, wrong_predictions.labels])
    return [compressor.compress(value) for value in planes]


class WrongPredictionStore(StorePart):
    """Reads and writes the wrong predictions of epochs."""

    async def write(self, run: Run, round_: int, epoch: Epoch, values: Sequence[bytes]) -> None:
        """Write the wrong predictions of an epoch; this must happen before the record of the epoch is committed.

        Parameters
        ----------
        run, round_, epoch
            The run, the number of the round, and the record that will be committed.
        values
            One value per chunk, as `pack_wrong_predictions` returns them.
        """
        keys = self._context.keys_of(run).list_wrong_predictions(round_)
        await write_values(self._context, epoch_field(epoch), zip(keys, values, strict=False))

    async def delete(self, run: Run, round_: int, epoch: Epoch) -> None:
        """Delete the wrong predictions of an epoch whose record was replaced."""
        keys = self._context.keys_of(run).list_wrong_predictions(round_)
        await self._context.call_all(("HDEL", key, epoch_field(epoch)) for key in keys)

    async def read(self, run: Run, round_: int, epoch: Epoch) -> WrongPredictions:
        """Read all wrong predictions of an epoch."""
        chunks = [
            planes
            for chunk in range(codec.count_chunks(run.spec.num_samples))
            async for planes in self._read_chunk(run, round_, [epoch], chunk)
        ]
        predicted, labels = (np.concatenate([planes[row] for planes in chunks]) for row in (0, 1))
        return WrongPredictions(predicted, labels)

    async def read_samples(
        self, run: Run, round_: int, epochs: Sequence[Epoch], samples: NDArray[np.int64]
    ) -> tuple[ClassNumbers, ClassNumbers]:
        """Read the predicted classes and the labels of some samples.

        At most one reply and one chunk of one epoch are in memory at a time.

        Parameters
        ----------
        run, round_
            The run, and the number of the round.
        epochs
            Epochs of the round that have wrong predictions.
        samples
            Shape (n,), ascending indices of the samples.

        Returns
        -------
        predicted, labels
            Shape (n_epochs, n) each, as in `WrongPredictions`.
        """
        classes = np.zeros((2, len(epochs), samples.size), dtype=np.uint32)
        for chunk, positions, offsets in codec.group_samples(samples):
            row = 0
            async for planes in self._read_chunk(run, round_, epochs, chunk):
                classes[:, row, positions] = planes[:, offsets]
                row += 1
        return classes[0], classes[1]

    async def _read_chunk(
        self, run: Run, round_: int, epochs: Sequence[Epoch], chunk: int
    ) -> AsyncIterator[ClassNumbers]:
        """Yield the predicted classes and the labels of one chunk of each epoch, shape (2, n)."""
        key = self._context.keys_of(run).wrong_predictions(round_, chunk)
        extent = codec.chunk_slice(chunk, run.spec.num_samples)
        n_bytes = _MAX_BYTES * 8 * (extent.stop - extent.start)
        for group in codec.group_by_size([n_bytes] * len(epochs)):
            for value in await read_values(self._context, run, key, [epoch_field(epochs[row]) for row in group]):
                content = zstandard.ZstdDecompressor().decompress(value)
                yield codec.decode_integers(content, 2, chunk, run.spec.num_samples)
