"""Per-sample counts of one round, computed from packed bits without ever unpacking an epoch.

The counts are kept *bit-sliced*: plane ``j`` of a counter is a bitmap that holds bit ``j`` of every sample's count, so
one machine word advances 64 samples at once. Rows are added with carry-save adders (five bitwise operations merge three
bitmaps of weight ``2**j`` into one of weight ``2**j`` and one of ``2**(j + 1)``), which costs about five operations a
row however long the round is. Samples are processed in blocks that stay in the cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.types import RoundBits

BLOCK_BYTES = 1 << 15
"""Bytes of a bitmap handled at once: 262,144 samples; about a dozen live planes then fit a 1 MiB cache."""

MAX_EPOCHS = np.iinfo(np.uint16).max
"""Most epochs of a round: what the counts can hold."""

_Words: TypeAlias = NDArray[np.uint64]
_Counts: TypeAlias = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class Dynamics:
    """Counts of one round, arrays of shape (n_samples,).

    Only observed epochs count; a segment is a maximal run of equal bits in the sequence of observed bits.

    Attributes
    ----------
    n_epochs
        Epochs of the round.
    observed
        Epochs in which the sample was observed.
    memorised
        Observed epochs with correctness bit 1.
    forgotten
        Transitions from memorised to misclassified (forgetting events).
    first, last
        Correctness bit of the first and of the last observed epoch; False if never observed.
    """

    n_epochs: int
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
        """Segments of memorised epochs: each ends in a forgetting event or with the sequence."""
        return self.forgotten + self.last.astype(np.uint16)

    @property
    def misclassified_segments(self) -> _Counts:
        """Segments of misclassified epochs: each begins with a forgetting event or with the sequence."""
        starts = ~self.first & (self.observed > 0)
        return self.forgotten + starts.astype(np.uint16)


def dynamics(bits: RoundBits) -> Dynamics:
    """Count a round's bits, block by block.

    Parameters
    ----------
    bits
        Packed bits, shape (n_epochs, n_bytes), at most `MAX_EPOCHS` epochs; a correct bit implies its observed bit.

    Returns
    -------
    Dynamics
        Counts of shape (n_samples,). Memory beyond input and output does not grow with the number of samples.
    """
    n_samples, n_epochs = bits.n_samples, bits.n_epochs
    padded = bitmap.n_bytes(n_samples) * 8
    observed = np.full(padded, n_epochs, dtype=np.uint16)
    memorised, forgotten = (np.zeros(padded, dtype=np.uint16) for _ in range(2))
    first = np.zeros(bitmap.n_bytes(n_samples), dtype=np.uint8)
    last = np.zeros_like(first)
    for block, samples in _blocks(n_samples):
        rows = _Rows(bits.correct, block)
        if bits.observed is None:
            counters = _count_complete(rows)
        else:
            counters = _count_gappy(rows, _Rows(bits.observed, block))
            counters.observed.write(observed[samples])
        counters.memorised.write(memorised[samples])
        counters.forgotten.write(forgotten[samples])
        first[block] = counters.first.view(np.uint8)[: rows.n_bytes]
        last[block] = counters.last.view(np.uint8)[: rows.n_bytes]
    return Dynamics(
        n_epochs=n_epochs,
        observed=observed[:n_samples],
        memorised=memorised[:n_samples],
        forgotten=forgotten[:n_samples],
        first=bitmap.unpack(first, n_samples),
        last=bitmap.unpack(last, n_samples),
    )


def first_learned(bits: RoundBits) -> NDArray[np.uint16]:
    """Epochs before each sample was memorised for the first time, shape (n_samples,); `n_epochs` if it never was.

    Unobserved epochs pass like misclassified ones.
    """
    out = np.zeros(bitmap.n_bytes(bits.n_samples) * 8, dtype=np.uint16)
    for block, samples in _blocks(bits.n_samples):
        rows = _Rows(bits.correct, block)
        ever = np.zeros(rows.n_words, dtype=np.uint64)
        unlearned = _Counter(rows.n_words)
        for correct in rows:
            ever |= correct
            unlearned.add(~ever)
        unlearned.write(out[samples])
    return out[: bits.n_samples]


def _blocks(n_samples: int) -> Iterator[tuple[slice, slice]]:
    """Yield the blocks, each as a range of bytes and as the range of samples in them."""
    n_bytes = bitmap.n_bytes(n_samples)
    for start in range(0, n_bytes, BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, n_bytes)
        yield slice(start, stop), slice(start * 8, stop * 8)


class _Rows:
    """One block of the epochs' bitmaps as 64-bit words, a row at a time."""

    def __init__(self, packed: NDArray[np.uint8], block: slice) -> None:
        self._packed = packed[:, block]
        self.n_bytes = int(self._packed.shape[1])
        self.n_words = -(-self.n_bytes // 8)

    def __iter__(self) -> Iterator[_Words]:
        for row in self._packed:
            words = np.zeros(self.n_words, dtype=np.uint64)
            words.view(np.uint8)[: row.size] = row
            yield words


class _Counter:
    """A bit-sliced counter: adds bitmaps, yields every column's sum."""

    def __init__(self, n_words: int) -> None:
        self._n_words = n_words
        self._planes: list[_Words] = []
        self._pending: list[_Words | None] = []

    def add(self, row: _Words) -> None:
        """Add one bitmap; the array is kept and must not be written to afterwards."""
        self._add(0, row)

    def _add(self, level: int, row: _Words) -> None:
        """Add a bitmap of weight ``2**level``: every second one at a level is merged and carried on."""
        while level < len(self._planes):
            waiting = self._pending[level]
            if waiting is None:
                self._pending[level] = row
                return
            self._pending[level] = None
            self._planes[level], row = _full_adder(self._planes[level], waiting, row)
            level += 1
        self._planes.append(row)
        self._pending.append(None)

    def _settle(self) -> None:
        """Carry whatever still waits into the planes."""
        zero = np.zeros(self._n_words, dtype=np.uint64)
        level = 0
        while level < len(self._planes):
            waiting = self._pending[level]
            if waiting is not None:
                self._pending[level] = None
                self._planes[level], carry = _full_adder(self._planes[level], waiting, zero)
                self._add(level + 1, carry)
            level += 1

    def write(self, out: _Counts) -> None:
        """Write the sums to `out`, shape (n_columns,)."""
        self._settle()
        for low in range(0, len(self._planes), 8):
            part = _interleave(self._planes[low : low + 8])[: out.size]
            out[:] = part if low == 0 else out | (part.astype(np.uint16) << low)


def _full_adder(a: _Words, b: _Words, c: _Words) -> tuple[_Words, _Words]:
    """Sum and carry of three bitmaps, column by column."""
    half = a ^ b
    carry = a & b
    carry |= half & c
    np.bitwise_xor(half, c, out=half)
    return half, carry


def _interleave(planes: list[_Words]) -> NDArray[np.uint8]:
    """Turn up to eight bit planes into one byte per column: an 8 x 8 bit transpose of every byte position."""
    n_bytes = planes[0].size * 8
    grid = np.zeros((n_bytes, 8), dtype=np.uint8)
    for level, plane in enumerate(planes):
        grid[:, level] = plane.view(np.uint8)
    x = grid.view("<u8").ravel()
    # Hacker's Delight, 7-3: swap ever larger off-diagonal sub-matrices; columns run from the high bit down.
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        swap = (x ^ (x >> np.uint64(shift))) & np.uint64(mask)
        x ^= swap
        swap <<= np.uint64(shift)
        x ^= swap
    return x.view(np.uint8).reshape(n_bytes, 8)[:, ::-1].reshape(-1)


class _Counters:
    """What one block accumulates."""

    def __init__(self, n_words: int) -> None:
        self.observed = _Counter(n_words)
        self.memorised = _Counter(n_words)
        self.forgotten = _Counter(n_words)
        self.first: _Words = np.zeros(n_words, dtype=np.uint64)
        self.last: _Words = np.zeros(n_words, dtype=np.uint64)


def _count_complete(rows: _Rows) -> _Counters:
    """Count a block in which everyone was observed in every epoch."""
    counters = _Counters(rows.n_words)
    for epoch, correct in enumerate(rows):
        if epoch == 0:
            counters.first = correct
        else:
            counters.forgotten.add(counters.last & ~correct)
        counters.memorised.add(correct)
        counters.last = correct
    return counters


def _count_gappy(rows: _Rows, observed_rows: _Rows) -> _Counters:
    """Count a block with gaps: transitions are those between consecutive observed epochs."""
    counters = _Counters(rows.n_words)
    seen = np.zeros(rows.n_words, dtype=np.uint64)
    for correct, observed in zip(rows, observed_rows, strict=True):
        counters.first |= correct & ~seen
        seen |= observed
        counters.forgotten.add(counters.last & observed & ~correct)
        counters.last = (counters.last & ~observed) | correct
        counters.memorised.add(correct)
        counters.observed.add(observed)
    return counters
