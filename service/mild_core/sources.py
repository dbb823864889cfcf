"""Sources of the samples of a selection, read part by part, so that a selection never holds a whole run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Annotations, Audit
from mild_core.bitmap import Bitmap
from mild_core.dynamics import BLOCK_BYTES
from mild_core.types import RoundBits


@dataclass(frozen=True, slots=True, eq=False)
class SampleBlock:
    """Everything that is known of some consecutive samples.

    Attributes
    ----------
    rounds
        Bits of these samples in all rounds, oldest first.
    labels
        Shape (n_samples,), their given labels; None where a selection uses none.
    audit
        Their marks; None where a selection uses none.
    """

    rounds: Sequence[RoundBits]
    labels: NDArray[np.integer] | None = None
    audit: Audit | None = None

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return self.rounds[0].n_samples

    def take(self, part: slice) -> "SampleBlock":
        """Return the samples of a slice of the bitmaps' bytes, which share memory with these."""
        samples = slice(part.start * 8, min(part.stop * 8, self.n_samples))
        n_samples = samples.stop - samples.start
        return SampleBlock(
            [bits.convert(n_samples, lambda packed: packed[..., part]) for bits in self.rounds],
            None if self.labels is None else self.labels[samples],
            None if self.audit is None else self.audit.take(part),
        )

    def split(self) -> "list[SampleBlock]":
        """Split into blocks of at most `BLOCK_BYTES`."""
        parts = split_bytes(bitmap.n_bytes(self.n_samples), BLOCK_BYTES)
        return [self] if len(parts) == 1 else [self.take(part) for part in parts]


class SamplePart(Protocol):
    """Some consecutive samples of a source. It is pickled where other processes read it."""

    @property
    def extent(self) -> slice:
        """Slice of the bitmaps' bytes."""

    def read(self) -> SampleBlock:
        """Read the samples."""

    def read_labels(self) -> NDArray[np.integer]:
        """Read the given labels of the samples; the annotations of the source say whether there are any."""


class SampleSource(Protocol):
    """Where a selection reads its samples, part by part."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes can read the parts: what is sent to them does not contain the bits."""

    @property
    def n_samples(self) -> int:
        """Number of samples."""

    @property
    def round_lengths(self) -> Sequence[int]:
        """Number of epochs of every round, oldest first; without epochs in which no sample was observed."""

    @property
    def planted_round(self) -> int | None:
        """Index of the first round with planted samples; None without any."""

    @property
    def members(self) -> Bitmap | None:
        """Members of the last round, shape (n_bytes,); None for all samples."""

    @property
    def annotations(self) -> Annotations:
        """Labels and audit, as far as the selection uses them."""

    def split(self) -> Sequence[SamplePart]:
        """Return the parts that are read one at a time, in the order of the samples."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayPart:
    """A `SamplePart` in memory.

    Attributes
    ----------
    extent
        As in `SamplePart`.
    block
        The samples.
    """

    extent: slice
    block: SampleBlock

    def read(self) -> SampleBlock:
        """Return the samples."""
        return self.block

    def read_labels(self) -> NDArray[np.integer]:
        """Return the given labels."""
        assert self.block.labels is not None, "the options that need labels are refused without them"
        return self.block.labels


class ArraySource:
    """Samples whose bits are in memory.

    Parameters
    ----------
    rounds
        Bits of all rounds, oldest first.
    annotations
        Labels and audit, as far as the selection uses them.
    """

    is_shared = False

    def __init__(self, rounds: Sequence[RoundBits], annotations: Annotations) -> None:
        rounds = [bits.drop_empty_epochs() for bits in rounds]
        self.n_samples = int(rounds[0].n_samples)  # numbers of numpy are no JSON values
        self.round_lengths = [bits.n_epochs for bits in rounds]
        self.planted_round = next(
            (index for index, bits in enumerate(rounds) if bits.planted is not None and bits.planted.any()), None
        )
        self.members = rounds[-1].members
        self.annotations = annotations
        self._block = SampleBlock(rounds, annotations.labels, annotations.audit)

    def split(self) -> Sequence[ArrayPart]:
        """Return one part per block."""
        extents = split_bytes(bitmap.n_bytes(self.n_samples), BLOCK_BYTES)
        return [ArrayPart(extent, self._block.take(extent)) for extent in extents]


def pick_samples(source: SampleSource, indices: NDArray[np.integer]) -> list[RoundBits]:
    """Return the bits of some samples of a source, one `RoundBits` per round; reads only the parts that hold them.

    Parameters
    ----------
    source
        The samples.
    indices
        Shape (n,), ascending.
    """
    parts = [
        (part, indices[slice(*np.searchsorted(indices, (part.extent.start * 8, part.extent.stop * 8)))])
        for part in source.split()
    ]
    read_parts = [(part, local - part.extent.start * 8) for part, local in parts if local.size] or parts[:1]
    pieces = [[_pick_round(bits, local) for bits in part.read().rounds] for part, local in read_parts]
    return [_join_rounds(same_round) for same_round in zip(*pieces, strict=True)]


def _pick_round(bits: RoundBits, indices: NDArray[np.integer]) -> RoundBits:
    """Return the bits of some samples of a round."""
    shift = (7 - indices % 8).astype(np.uint8)
    return bits.convert(indices.size, lambda packed: np.packbits(packed[..., indices // 8] >> shift & 1, axis=-1))


def _join_rounds(pieces: Sequence[RoundBits]) -> RoundBits:
    """Join the bits of consecutive samples of one round."""
    if len(pieces) == 1:
        return pieces[0]

    n_samples = sum(bits.n_samples for bits in pieces)
    planes: dict[str, Any] = {
        name: bitmap.pack(
            np.concatenate([bitmap.unpack(getattr(bits, name), bits.n_samples) for bits in pieces], axis=-1)
        )
        for name in ("correct", "observed", "members", "planted")
        if getattr(pieces[0], name) is not None
    }
    return replace(pieces[0], n_samples=n_samples, **planes)


def split_bytes(n_bytes: int, size: int) -> list[slice]:
    """Split a range of bytes into slices of at most `size`."""
    return [slice(start, min(start + size, n_bytes)) for start in range(0, n_bytes, size)]
