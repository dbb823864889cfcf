"""Wrong predictions of epochs from logs: two compressed planes per chunk, in a field named like that of their epoch.

A field is written before the record that names it, and deleted by the merge that replaces it. Fields of deleted or
replaced epochs are never read, and are removed when the round is finished.
"""

from collections.abc import Sequence

import numpy as np
import zstandard
from numpy.typing import NDArray

from mild_core.wrong_predictions import ClassNumbers, WrongPredictions
from mild_service.models import Epoch, Round, Run
from mild_service.store import codec
from mild_service.store.context import StoreContext
from mild_service.store.keys import epoch_field
from mild_service.store.values import delete_unnamed, read_values, write_values

_COMPRESSION_LEVEL = 3


def pack_wrong_predictions(wrong_predictions: WrongPredictions) -> list[bytes]:
    """Encode wrong predictions as one compressed value per chunk.

    A value has the predicted classes of all samples of the chunk, then their labels, with the smallest sufficient
    integer width.
    """
    max_class = max(int(wrong_predictions.predicted.max()), int(wrong_predictions.labels.max()))
    dtype = next(dtype for dtype in (np.uint8, np.uint16, np.uint32) if max_class <= np.iinfo(dtype).max)
    planes = [plane.astype(dtype) for plane in (wrong_predictions.predicted, wrong_predictions.labels)]
    compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL)
    starts = range(0, planes[0].size, codec.CHUNK_SAMPLES)
    return [
        compressor.compress(b"".join(plane[start : start + codec.CHUNK_SAMPLES].tobytes() for plane in planes))
        for start in starts
    ]


class WrongPredictionStore:
    """Reads and writes the wrong predictions of epochs."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def write(self, run: Run, round_: int, epoch: Epoch, values: Sequence[bytes]) -> None:
        """Write the wrong predictions of an epoch; this must happen before the record of the epoch is committed.

        Parameters
        ----------
        run, round_, epoch
            The run, the number of the round, and the record that will be committed.
        values
            One value per chunk, as `pack_wrong_predictions` returns them.
        """
        await write_values(self._context, epoch_field(epoch), zip(self._list_chunks(run, round_), values, strict=False))

    async def delete(self, run: Run, round_: int, epoch: Epoch) -> None:
        """Delete the wrong predictions of an epoch whose record was replaced."""
        await self._context.call_all(("HDEL", key, epoch_field(epoch)) for key in self._list_chunks(run, round_))

    async def read(self, run: Run, round_: int, epoch: Epoch) -> WrongPredictions:
        """Read all wrong predictions of an epoch."""
        chunks = [
            await self._read_chunk(run, round_, epoch, chunk)
            for chunk in range(codec.count_chunks(run.spec.num_samples))
        ]
        predicted, labels = (np.concatenate([planes[row] for planes in chunks]) for row in (0, 1))
        return WrongPredictions(predicted, labels)

    async def read_samples(
        self, run: Run, round_: int, epochs: Sequence[Epoch], samples: NDArray[np.int64]
    ) -> tuple[ClassNumbers, ClassNumbers]:
        """Read the predicted classes and the labels of some samples.

        At most one chunk of one epoch is in memory at a time.

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
        chunks = samples // codec.CHUNK_SAMPLES
        for chunk in np.unique(chunks).tolist():
            positions = slice(*np.searchsorted(chunks, (chunk, chunk + 1)))
            offsets = samples[positions] - chunk * codec.CHUNK_SAMPLES
            for row, epoch in enumerate(epochs):
                classes[:, row, positions] = (await self._read_chunk(run, round_, epoch, chunk))[:, offsets]
        return classes[0], classes[1]

    async def collect_garbage(self, run: Run, round_: Round) -> None:
        """Delete the wrong predictions to which no record of a finished round refers."""
        named_fields = {epoch_field(epoch) for epoch in round_.epochs.values() if epoch.has_wrong_predictions}
        await delete_unnamed(self._context, self._list_chunks(run, round_.number), named_fields)

    async def _read_chunk(self, run: Run, round_: int, epoch: Epoch, chunk: int) -> ClassNumbers:
        """Read the predicted classes and the labels of one chunk, shape (2, n)."""
        key = self._context.keys_of(run).wrong_predictions(round_, chunk)
        (value,) = await read_values(self._context, run, key, [epoch_field(epoch)])
        content = zstandard.ZstdDecompressor().decompress(value)
        n_samples = min(codec.CHUNK_SAMPLES, run.spec.num_samples - chunk * codec.CHUNK_SAMPLES)
        dtype = {1: np.uint8, 2: np.uint16, 4: np.uint32}[len(content) // (2 * n_samples)]
        return np.frombuffer(content, dtype=dtype).reshape(2, n_samples)

    def _list_chunks(self, run: Run, round_: int) -> list[str]:
        """Return the keys of the chunks of the wrong predictions of a round."""
        keys = self._context.keys_of(run)
        return [keys.wrong_predictions(round_, chunk) for chunk in range(codec.count_chunks(run.spec.num_samples))]
