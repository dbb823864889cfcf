"""The samples of a run, read from the store part by part, in any thread or process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Annotations, Audit
from mild_core.bitmap import Bitmap
from mild_core.sources import SampleBlock, split_bytes
from mild_core.types import Observe, RoundBits
from mild_service.models import Epoch, Round, SetRef
from mild_service.store import codec
from mild_service.store.connection import connect_blocking
from mild_service.store.context import translate_blocking_errors
from mild_service.store.keys import RunKeys, epoch_field, set_field
from mild_service.store.values import unseal_all

PART_BYTES = 16 * 1024 * 1024
"""Bytes of bits that are read at a time, unless one chunk has more."""


@dataclass(frozen=True, slots=True)
class StoredRound:
    """The epochs of a round that a selection uses, and the sets of the round.

    Attributes
    ----------
    number
        Number of the round.
    fields, planes
        Field of every epoch in the chunk hashes, and its number of bitmaps.
    members, planted
        As in `Round`.
    """

    number: int
    fields: Sequence[str]
    planes: Sequence[int]
    members: SetRef | None
    planted: SetRef | None

    @classmethod
    def from_epochs(cls, round_: Round, epochs: Sequence[Epoch]) -> "StoredRound":
        """Take some epochs of a round."""
        return cls(
            round_.number,
            tuple(epoch_field(epoch) for epoch in epochs),
            tuple(epoch.planes for epoch in epochs),
            round_.members,
            round_.planted,
        )


@dataclass(frozen=True, slots=True, eq=False)
class StoredSamples:
    """A `SampleSource` of a run. It holds no connection: each process that reads opens its own.

    Attributes
    ----------
    url, timeout, keys
        URL of the store, seconds that one command may take, and the key names of the run.
    n_samples, observe
        Of the run.
    rounds
        The rounds, oldest first.
    labels_field
        Field of the given labels in the annotation hashes; None where a selection uses none.
    members, annotations
        As in `SampleSource`; without the labels, which are read with the parts.
    """

    url: str
    timeout: float
    keys: RunKeys
    n_samples: int
    observe: Observe
    rounds: Sequence[StoredRound]
    labels_field: str | None
    members: Bitmap | None
    annotations: Annotations

    @property
    def is_shared(self) -> bool:
        """Whether other processes can read parts: every process that reaches the store."""
        return True

    @property
    def round_lengths(self) -> Sequence[int]:
        """Number of epochs of every round in which some samples were observed."""
        return [len(round_.fields) for round_ in self.rounds]

    @property
    def planted_round(self) -> int | None:
        """Index of the first round with planted samples; None without any."""
        with_planted = (i for i, round_ in enumerate(self.rounds) if round_.planted and round_.planted.n_members)
        return next(with_planted, None)

    def split(self) -> "Sequence[StoredPart]":
        """Return parts of some whole chunks each."""
        n_planes = max(sum(sum(round_.planes) for round_ in self.rounds), 1)
        n_chunks = max(1, PART_BYTES // (n_planes * codec.CHUNK_BYTES))
        bare, audit = replace(self, members=None, annotations=Annotations()), self.annotations.audit
        return [
            StoredPart(bare, extent, None if audit is None else audit.take(extent))
            for extent in split_bytes(bitmap.n_bytes(self.n_samples), n_chunks * codec.CHUNK_BYTES)
        ]

    def read_rounds(self, part: slice) -> list[RoundBits]:
        """Read the bits of the samples of a slice of the bitmaps' bytes, one `RoundBits` per round."""
        return [self._read_round(round_, part) for round_ in self.rounds]

    def read_labels(self, part: slice) -> NDArray[np.integer]:
        """Read the given labels of the samples of a slice of the bitmaps' bytes."""
        assert self.labels_field is not None, "the options that need labels are refused without them"
        labels = []
        for chunk in self._list_chunks(part):
            key = self.keys.annotations(chunk)
            (value,) = self._read_fields(key, [self.labels_field])
            labels.append(codec.decode_integers(value, 1, chunk, self.n_samples)[0])
        return np.concatenate(labels)

    def _read_round(self, round_: StoredRound, part: slice) -> RoundBits:
        """Read the bits of one round."""
        n_bytes = part.stop - part.start
        n_samples = min(n_bytes * 8, self.n_samples - part.start * 8)
        correct = np.empty((len(round_.fields), n_bytes), dtype=np.uint8)
        observed = [np.empty(n_bytes, dtype=np.uint8) if planes == 2 else None for planes in round_.planes]
        for chunk in self._list_chunks(part):
            extent = codec.chunk_slice(chunk, self.n_samples)
            key = self.keys.chunk(round_.number, chunk)
            local = slice(extent.start - part.start, extent.stop - part.start)
            width = extent.stop - extent.start
            for group in codec.group_by_size([planes * width for planes in round_.planes]):
                values = self._read_fields(key, [round_.fields[position] for position in group])
                for position, value in zip(group, values, strict=True):
                    planes = codec.decode_planes(value, round_.planes[position], chunk, self.n_samples)
                    correct[position, local] = planes[-1]
                    if (mask := observed[position]) is not None:
                        mask[local] = planes[0]
        members, planted = (self._read_set(ref, part) for ref in (round_.members, round_.planted))
        return RoundBits.from_epochs(n_samples, correct, observed, members, self.observe, planted)

    def _read_set(self, ref: SetRef | None, part: slice) -> Bitmap | None:
        """Read the part of a set of samples; None without a set."""
        if ref is None:
            return None
        chunks = []
        for chunk in self._list_chunks(part):
            key = self.keys.chunk(ref.round, chunk)
            chunks += self._read_fields(key, [set_field(ref.digest)])
        return np.frombuffer(b"".join(chunks), dtype=np.uint8)

    def _list_chunks(self, part: slice) -> range:
        """Return the numbers of the chunks of a part."""
        return range(part.start // codec.CHUNK_BYTES, -(-part.stop // codec.CHUNK_BYTES))

    def _read_fields(self, key: str, fields: Sequence[str]) -> list[memoryview]:
        """Read fields of a hash."""
        if not fields:
            return []
        with translate_blocking_errors():
            client = connect_blocking(self.url, self.timeout)
            values: list[bytes | None] = client.execute_command("HMGET", key, *fields)  # type: ignore[no-untyped-call]  # redis-py
        return unseal_all(key, fields, values)


@dataclass(frozen=True, slots=True, eq=False)
class StoredPart:
    """A `SamplePart` of a run. What is pickled grows with the part, not with the run.

    Attributes
    ----------
    samples
        The run, without the sets and the annotations of all samples.
    extent
        As in `SamplePart`.
    audit
        Marks of the samples of the part; None where a selection uses none.
    """

    samples: StoredSamples
    extent: slice
    audit: Audit | None

    def read(self) -> SampleBlock:
        """Read the samples."""
        labels = None if self.samples.labels_field is None else self.read_labels()
        return SampleBlock(self.samples.read_rounds(self.extent), labels, self.audit)

    def read_labels(self) -> NDArray[np.integer]:
        """Read the given labels of the samples."""
        return self.samples.read_labels(self.extent)
