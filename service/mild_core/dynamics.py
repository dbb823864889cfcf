"""Learning dynamics: per-sample counts of one round, computed on packed bits.

The counters are *bit-sliced*: plane ``j`` of a counter is a bitmap that holds bit ``j`` of every sample's count, so one
64-bit operation updates 64 samples. Rows are added with carry-save adders (five bitwise operations merge three bitmaps
of weight ``2**j`` into one of weight ``2**j`` and one of weight ``2**(j + 1)``), about five operations per row for any
number of epochs. Samples are processed in blocks that fit the cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.types import RoundBits

BLOCK_BYTES = 1 << 15
"""Bytes of a bitmap per block: 262,144 samples; about a dozen live planes then fit a 1 MiB cache."""

MAX_EPOCHS = np.iinfo(np.uint16).max
"""Largest number of epochs of a round: the counts are 16-bit integers."""

_Words: TypeAlias = NDArray[np.uint64]
_Counts: TypeAlias = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class Dynamics:
    """Counts of one round over the observed epochs, arrays of shape (n_samples,).

    A segment is a maximal run of equal bits in the sequence of a sample's observed bits.

    Attributes
    ----------
    observed
        Epochs in which the sample was observed.
    memorised
        Observed epochs with correctness bit 1.
    forgotten
        Transitions from memorised to misclassified (forgetting events).
    first, last
        Correctness bit of the first and of the last observed epoch; False if never observed.
    """

    observed: _Counts
    memorised: _Counts
    forgotten: _Counts
    first: NDArray[np.bool_]
    last: NDArray[np.bool_]

    @property
    def misclassified(self) -> _Counts:
        """Observed epochs with correctness bit 0."""
        return self.observed - self.memorised

    @property
    def memorised_segments(self) -> _Counts:
        """Segments of memorised epochs: each ends with a forgetting event or at the end of the round."""
        return self.forgotten + self.last.astype(np.uint16)

    @property
    def misclassified_segments(self) -> _Counts:
        """Segments of misclassified epochs: each begins with a forgetting event or at the start of the round."""
        starts = ~self.first & (self.observed > 0)
        return self.forgotten + starts.astype(np.uint16)


def count_dynamics(bits: RoundBits) -> Dynamics:
    """Count observed epochs, memorised epochs and forgetting events of every sample in one round.

    Parameters
    ----------
    bits
        Packed bits, shape (n_epochs, n_bytes), at most `MAX_EPOCHS` epochs; a correct bit implies its observed bit.

    Returns
    -------
    Dynamics
        Counts of shape (n_samples,). The working memory is that of one block for any number of samples.
    """
    counts = _make_counts(bits, 3)
    ends = np.zeros((2, bitmap.n_bytes(bits.n_samples)), dtype=np.uint8)
    for block in _split_into_blocks(bits):
        n_observed, memorised, forgotten = (_BitSlicedCounter(block.n_words) for _ in range(3))
        was_observed, first, last = np.zeros((3, block.n_words), dtype=np.uint64)
        for epoch, (correct, observed) in enumerate(block):
            if observed is None:
                first = correct if epoch == 0 else first
                forgotten.add(last & ~correct)
                last = correct
            else:  # forgetting compares consecutive observed epochs
                first |= correct & ~was_observed
                was_observed |= observed
                forgotten.add(last & observed & ~correct)
                last = (last & ~observed) | correct
                n_observed.add(observed)
            memorised.add(correct)
        block.write((n_observed, memorised, forgotten), counts)
        for end, words in zip(ends, (first, last), strict=True):
            end[block.extent] = words.view(np.uint8)[: block.n_bytes]
    return Dynamics(*counts[:, : bits.n_samples], *bitmap.unpack(ends, bits.n_samples))


def count_epochs_to_learn(bits: RoundBits) -> NDArray[np.uint16]:
    """Count the observed epochs before each sample is memorised for the first time, shape (n_samples,).

    For a sample that is never memorised these are all its observed epochs.
    """
    n_unlearned = np.zeros(bitmap.n_bytes(bits.n_samples) * 8, dtype=np.uint16)
    for block in _split_into_blocks(bits):
        is_learned = np.zeros(block.n_words, dtype=np.uint64)
        counter = _BitSlicedCounter(block.n_words)
        for correct, observed in block:
            is_learned |= correct
            counter.add(~is_learned if observed is None else ~is_learned & observed)
        counter.write(n_unlearned[block.samples])
    return n_unlearned[: bits.n_samples]


@dataclass(frozen=True, slots=True, eq=False)
class LateDynamics:
    """Counts of one round of which the order matters in its second half only, arrays of shape (n_samples,).

    Attributes
    ----------
    observed
        Epochs in which the sample was observed.
    memorised
        Observed epochs with correctness bit 1.
    late_memorised
        Epochs of the second half in which the sample was memorised, and observed in the next epoch too.
    late_forgotten
        Those of them after which the sample was misclassified in the next epoch.
    """

    observed: _Counts
    memorised: _Counts
    late_memorised: _Counts
    late_forgotten: _Counts

    @property
    def misclassified(self) -> _Counts:
        """Observed epochs with correctness bit 0."""
        return self.observed - self.memorised


def count_late_dynamics(bits: RoundBits) -> LateDynamics:
    """Count observed and memorised epochs of every sample, and the forgetting in the second half of one round.

    These are all that a selection by the metric ``mild-simple`` needs: about half the work of `count_dynamics`.
    """
    counts = _make_counts(bits, 4)
    for block in _split_into_blocks(bits):
        n_observed, memorised, late, forgotten = counters = [_BitSlicedCounter(block.n_words) for _ in range(4)]
        previous = None
        for epoch, (correct, observed) in enumerate(block):
            if previous is not None:
                pairs = previous if observed is None else previous & observed
                late.add(pairs)
                forgotten.add(pairs & ~correct)
            is_late = bits.n_epochs // 2 <= epoch < bits.n_epochs - 1
            previous = correct if is_late else None
            if observed is not None:
                n_observed.add(observed)
            if observed is not None or not is_late:  # else it is counted as `late`
                memorised.add(correct)
        block.write(counters, counts)
        if bits.observed is None:
            counts[1, block.samples] += counts[2, block.samples]
    return LateDynamics(*counts[:, : bits.n_samples])


def _make_counts(bits: RoundBits, n_counts: int) -> _Counts:
    """Return counts of all samples and padding bits, shape (n_counts, n_bytes * 8): the epochs, and zeros."""
    counts = np.zeros((n_counts, bitmap.n_bytes(bits.n_samples) * 8), dtype=np.uint16)
    counts[0] = bits.n_epochs
    return counts


class _Block:
    """Samples of a round that fit the cache; iteration yields the correct and the observed bits of every epoch.

    The bits are 64-bit words, shape (n_words,); None in place of the observed bits if every sample was observed.
    """

    def __init__(self, bits: RoundBits, start: int) -> None:
        self._bits = bits
        self.extent = slice(start, min(start + BLOCK_BYTES, bitmap.n_bytes(bits.n_samples)))
        self.samples = slice(8 * start, 8 * self.extent.stop)
        self.n_bytes = self.extent.stop - start
        self.n_words = -(-self.n_bytes // 8)

    def __iter__(self) -> Iterator[tuple[_Words, _Words | None]]:
        observed = self._bits.observed
        observed_words = repeat(None, self._bits.n_epochs) if observed is None else self._iter_words(observed)
        return zip(self._iter_words(self._bits.correct), observed_words, strict=True)

    def _iter_words(self, packed: NDArray[np.uint8]) -> Iterator[_Words]:
        """Yield the bits of every epoch."""
        for row in packed[:, self.extent]:
            words = np.zeros(self.n_words, dtype=np.uint64)
            words.view(np.uint8)[: row.size] = row
            yield words

    def write(self, counters: "Sequence[_BitSlicedCounter]", counts: _Counts) -> None:
        """Write what counters have counted to `counts`, shape (n_counters, n_columns)."""
        for counter, row in zip(counters, counts, strict=True):
            counter.write(row[self.samples])


def _split_into_blocks(bits: RoundBits) -> list[_Block]:
    """Split the samples of a round into blocks."""
    return [_Block(bits, start) for start in range(0, bitmap.n_bytes(bits.n_samples), BLOCK_BYTES)]


class _BitSlicedCounter:
    """Counter of the set bits of every column over many bitmaps (see the module's docstring)."""

    def __init__(self, n_words: int) -> None:
        self._n_words = n_words
        self._planes: list[_Words] = []
        self._pending: list[_Words | None] = []

    def add(self, row: _Words, level: int = 0) -> None:
        """Add one bitmap of weight ``2**level``: keep it pending, or merge it with a pending one and carry upwards.

        The counter keeps the array, so the caller must not modify it afterwards.
        """
        while level < len(self._planes):
            pending = self._pending[level]
            if pending is None:
                self._pending[level] = row
                return
            self._pending[level] = None
            self._planes[level], row = _add_bitmaps(self._planes[level], pending, row)
            level += 1
        self._planes.append(row)
        self._pending.append(None)

    def write(self, out: _Counts) -> None:
        """Write the count of every column to `out`, shape (n_columns,)."""
        level = 0
        while level < len(self._planes):  # to which a carry may add one
            if self._pending[level] is not None:
                self.add(np.zeros(self._n_words, dtype=np.uint64), level)
            level += 1
        for shift in range(0, len(self._planes), 8):
            byte_counts = _transpose_planes(self._planes[shift : shift + 8])[: out.size]
            out[:] = byte_counts if shift == 0 else out | (byte_counts.astype(np.uint16) << shift)


def _add_bitmaps(a: _Words, b: _Words, c: _Words) -> tuple[_Words, _Words]:
    """Add three bitmaps column by column (a full adder), and return the sum bits and the carry bits."""
    total = a ^ b
    carry = a & b
    carry |= total & c
    np.bitwise_xor(total, c, out=total)
    return total, carry


def _transpose_planes(planes: list[_Words]) -> NDArray[np.uint8]:
    """Convert up to eight bit planes to one byte per column, by a transpose of 8 x 8 bits at every byte position."""
    n_bytes = planes[0].size * 8
    grid = np.zeros((n_bytes, 8), dtype=np.uint8)
    for level, plane in enumerate(planes):
        grid[:, level] = plane.view(np.uint8)
    x = grid.view("<u8").ravel()
    # Hacker's Delight, 7-3: swap off-diagonal sub-matrices of growing size; columns run from the high bit down.
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        swap = (x ^ (x >> np.uint64(shift))) & np.uint64(mask)
        x ^= swap
        swap <<= np.uint64(shift)
        x ^= swap
    return x.view(np.uint8).reshape(n_bytes, 8)[:, ::-1].reshape(-1)
