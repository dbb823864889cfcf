"""Learning dynamics: per-sample counts of one round, computed on packed bits.

The counters are *bit-sliced*: plane ``j`` of a counter is a bitmap that holds bit ``j`` of every sample's count, so one
64-bit operation updates 64 samples. Rows are added with carry-save adders (five bitwise operations merge three bitmaps
of weight ``2**j`` into one of weight ``2**j`` and one of weight ``2**(j + 1)``), about five operations per row for any
number of epochs. Samples are processed in blocks that fit the cache.
"""

from collections.abc import Iterator
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
    n_samples, n_epochs = bits.n_samples, bits.n_epochs
    padded = bitmap.n_bytes(n_samples) * 8
    observed = np.full(padded, n_epochs, dtype=np.uint16)
    memorised, forgotten = (np.zeros(padded, dtype=np.uint16) for _ in range(2))
    first = np.zeros(bitmap.n_bytes(n_samples), dtype=np.uint8)
    last = np.zeros_like(first)
    for block, samples in _iter_blocks(n_samples):
        rows = _BlockRows(bits.correct, block)
        if bits.observed is None:
            counters = _count_complete_block(rows)
        else:
            counters = _count_block_with_gaps(rows, _BlockRows(bits.observed, block))
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


def count_epochs_to_learn(bits: RoundBits) -> NDArray[np.uint16]:
    """Count the observed epochs before each sample is memorised for the first time, shape (n_samples,).

    For a sample that is never memorised these are all its observed epochs.
    """
    n_unlearned = np.zeros(bitmap.n_bytes(bits.n_samples) * 8, dtype=np.uint16)
    for block, samples in _iter_blocks(bits.n_samples):
        rows = _BlockRows(bits.correct, block)
        is_learned = np.zeros(rows.n_words, dtype=np.uint64)
        counter = _BitSlicedCounter(rows.n_words)
        observed_rows = repeat(None) if bits.observed is None else _BlockRows(bits.observed, block)
        for correct, observed in zip(rows, observed_rows, strict=False):
            is_learned |= correct
            counter.add(~is_learned if observed is None else ~is_learned & observed)
        counter.write(n_unlearned[samples])
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
    n_samples, n_epochs = bits.n_samples, bits.n_epochs
    padded = bitmap.n_bytes(n_samples) * 8
    observed = np.full(padded, n_epochs, dtype=np.uint16)
    memorised, late_memorised, late_forgotten = (np.zeros(padded, dtype=np.uint16) for _ in range(3))
    for block, samples in _iter_blocks(n_samples):
        rows = _BlockRows(bits.correct, block)
        if bits.observed is None:
            early, late, forgotten = _count_late_complete_block(rows, n_epochs)
            early.write(memorised[samples])
            late.write(late_memorised[samples])
            memorised[samples] += late_memorised[samples]
        else:
            counters = _count_late_block_with_gaps(rows, _BlockRows(bits.observed, block), n_epochs)
            *others, forgotten = counters
            for counter, counts in zip(others, (observed, memorised, late_memorised), strict=True):
                counter.write(counts[samples])
        forgotten.write(late_forgotten[samples])
    return LateDynamics(*(counts[:n_samples] for counts in (observed, memorised, late_memorised, late_forgotten)))


def _count_late_complete_block(rows: "_BlockRows", n_epochs: int) -> "list[_BitSlicedCounter]":
    """Count memorised epochs that are followed by none of the second half, those that are, and forgetting."""
    early, late, forgotten = counters = [_BitSlicedCounter(rows.n_words) for _ in range(3)]
    previous = None
    for epoch, correct in enumerate(rows):
        if previous is not None:
            late.add(previous)
            forgotten.add(previous & ~correct)
        is_late = n_epochs // 2 <= epoch < n_epochs - 1
        previous = correct if is_late else None
        if not is_late:
            early.add(correct)
    return counters


def _count_late_block_with_gaps(
    rows: "_BlockRows", observed_rows: "_BlockRows", n_epochs: int
) -> "list[_BitSlicedCounter]":
    """Count observed and memorised epochs, and those of the second half that are observed or forgotten afterwards."""
    counters = [_BitSlicedCounter(rows.n_words) for _ in range(4)]
    n_observed, memorised, late, forgotten = counters
    previous = None
    for epoch, (correct, observed) in enumerate(zip(rows, observed_rows, strict=True)):
        if previous is not None:
            pairs = previous & observed
            late.add(pairs)
            forgotten.add(pairs & ~correct)
        previous = correct if n_epochs // 2 <= epoch < n_epochs - 1 else None
        n_observed.add(observed)
        memorised.add(correct)
    return counters


def _iter_blocks(n_samples: int) -> Iterator[tuple[slice, slice]]:
    """Yield the slice of bytes and the slice of samples of every block."""
    n_bytes = bitmap.n_bytes(n_samples)
    for start in range(0, n_bytes, BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, n_bytes)
        yield slice(start, stop), slice(start * 8, stop * 8)


class _BlockRows:
    """The epochs of one block; iteration yields one bitmap of 64-bit words per epoch, shape (n_words,)."""

    def __init__(self, packed: NDArray[np.uint8], block: slice) -> None:
        self._packed = packed[:, block]
        self.n_bytes = int(self._packed.shape[1])
        self.n_words = -(-self.n_bytes // 8)

    def __iter__(self) -> Iterator[_Words]:
        for row in self._packed:
            words = np.zeros(self.n_words, dtype=np.uint64)
            words.view(np.uint8)[: row.size] = row
            yield words


class _BitSlicedCounter:
    """Counter of the set bits of every column over many bitmaps (see the module's docstring)."""

    def __init__(self, n_words: int) -> None:
        self._n_words = n_words
        self._planes: list[_Words] = []
        self._pending: list[_Words | None] = []

    def add(self, row: _Words) -> None:
        """Add one bitmap; the counter keeps the array, so the caller must not modify it afterwards."""
        self._add_at_level(0, row)

    def _add_at_level(self, level: int, row: _Words) -> None:
        """Add a bitmap of weight ``2**level``: keep it pending, or merge it with a pending one and carry upwards."""
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

    def _merge_pending(self) -> None:
        """Add all pending bitmaps to the planes."""
        zero = np.zeros(self._n_words, dtype=np.uint64)
        level = 0
        while level < len(self._planes):
            pending = self._pending[level]
            if pending is not None:
                self._pending[level] = None
                self._planes[level], carry = _add_bitmaps(self._planes[level], pending, zero)
                self._add_at_level(level + 1, carry)
            level += 1

    def write(self, out: _Counts) -> None:
        """Write the count of every column to `out`, shape (n_columns,)."""
        self._merge_pending()
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


class _BlockCounters:
    """Counters of one block, with the first and the last observed bit of every sample."""

    def __init__(self, n_words: int) -> None:
        self.observed = _BitSlicedCounter(n_words)
        self.memorised = _BitSlicedCounter(n_words)
        self.forgotten = _BitSlicedCounter(n_words)
        self.first: _Words = np.zeros(n_words, dtype=np.uint64)
        self.last: _Words = np.zeros(n_words, dtype=np.uint64)


def _count_complete_block(rows: _BlockRows) -> _BlockCounters:
    """Count a block in which every sample was observed in every epoch."""
    counters = _BlockCounters(rows.n_words)
    for epoch, correct in enumerate(rows):
        if epoch == 0:
            counters.first = correct
        else:
            counters.forgotten.add(counters.last & ~correct)
        counters.memorised.add(correct)
        counters.last = correct
    return counters


def _count_block_with_gaps(rows: _BlockRows, observed_rows: _BlockRows) -> _BlockCounters:
    """Count a block in which samples have unobserved epochs; forgetting compares consecutive observed epochs."""
    counters = _BlockCounters(rows.n_words)
    was_observed = np.zeros(rows.n_words, dtype=np.uint64)
    for correct, observed in zip(rows, observed_rows, strict=True):
        counters.first |= correct & ~was_observed
        was_observed |= observed
        counters.forgotten.add(counters.last & observed & ~correct)
        counters.last = (counters.last & ~observed) | correct
        counters.memorised.add(correct)
        counters.observed.add(observed)
    return counters
