"""Wrong predictions of epochs from logs: two planes a chunk, compressed, under the name of their epoch's field.

A field is written before the record that names it and deleted when it is merged away. What a dropped or replaced epoch
leaves is never read, and collected when its round is finished.
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


def pack(votes: WrongPredictions) -> list[bytes]:
    """One value per chunk: the predicted classes, then the labels, in as few bytes each as they fit."""
    most = max(int(votes.predicted.max()), int(votes.labels.max()))
    narrow = next(kind for kind in (np.uint8, np.uint16, np.uint32) if most <= np.iinfo(kind).max)
    planes = [plane.astype(narrow) for plane in (votes.predicted, votes.labels)]
    press = zstandard.ZstdCompressor(level=_LEVEL)
    starts = range(0, planes[0].size, codec.CHUNK_SAMPLES)
    return [
        press.compress(b"".join(plane[start : start + codec.CHUNK_SAMPLES].tobytes() for plane in planes))
        for start in starts
    ]


class WrongPredictionStore:
    """Verbs on a run's wrong predictions."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def write(self, run: Run, round_: int, epoch: Epoch, values: Sequence[bytes]) -> None:
        """Write an epoch's votes, which no record names yet."""
        with translated():
            for chunk, value in enumerate(values):
                key = self._key(run, round_, chunk)
                await self._context.writer.send((key, ("HSET", key, _field(epoch), value)))

    async def delete(self, run: Run, round_: int, epoch: Epoch) -> None:
        """Delete the votes of an epoch that no record will ever name again."""
        with translated():
            for chunk in range(codec.n_chunks(run.spec.num_samples)):
                await self._context.redis.hdel(self._key(run, round_, chunk), _field(epoch))

    async def read(self, run: Run, round_: int, epoch: Epoch) -> WrongPredictions:
        """All of an epoch's votes.

        Raises
        ------
        StoreDamaged
            If they are not there (any more).
        """
        found = [await self._planes(run, round_, epoch, chunk) for chunk in range(codec.n_chunks(run.spec.num_samples))]
        predicted, labels = (np.concatenate([planes[row] for planes in found]) for row in (0, 1))
        return WrongPredictions(predicted, labels)

    async def read_some(
        self, run: Run, round_: int, epochs: Sequence[Epoch], samples: NDArray[np.int64]
    ) -> tuple[ClassNumbers, ClassNumbers]:
        """Predicted classes and labels of some samples, ascending; shape (n_epochs, n) each.

        One chunk of one epoch is in memory beside them.

        Raises
        ------
        StoreDamaged
            If an epoch's votes are not there (any more).
        """
        out = np.zeros((2, len(epochs), samples.size), dtype=np.uint32)
        parts = samples // codec.CHUNK_SAMPLES
        for chunk in np.unique(parts).tolist():
            places = slice(*np.searchsorted(parts, (chunk, chunk + 1)))
            within = samples[places] - chunk * codec.CHUNK_SAMPLES
            for row, epoch in enumerate(epochs):
                out[:, row, places] = (await self._planes(run, round_, epoch, chunk))[:, within]
        return out[0], out[1]

    async def collect_garbage(self, run: Run, round_: Round) -> None:
        """Delete the votes that no record of a finished round names."""
        kept = {_field(epoch) for epoch in round_.epochs.values() if epoch.has_wrong_predictions}
        with translated():
            for chunk in range(codec.n_chunks(run.spec.num_samples)):
                key = self._key(run, round_.number, chunk)
                if stray := [name for name in words(await self._context.redis.hkeys(key)) if name not in kept]:
                    await self._context.redis.hdel(key, *stray)

    async def _planes(self, run: Run, round_: int, epoch: Epoch, chunk: int) -> ClassNumbers:
        """One chunk, shape (2, n)."""
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
        kind = {1: np.uint8, 2: np.uint16, 4: np.uint32}[len(raw) // (2 * n_samples)]
        return np.frombuffer(raw, dtype=kind).reshape(2, n_samples)

    def _key(self, run: Run, round_: int, chunk: int) -> str:
        return self._context.keys.wrong_predictions(run.run_id, run.uid, round_, chunk)


def _field(epoch: Epoch) -> str:
    return epoch_field(epoch.number, epoch.attempt, epoch.digest)
