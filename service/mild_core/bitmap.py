"""Bitmaps: the wire format's one home.

A bitmap of ``n_samples`` samples is ``ceil(n_samples / 8)`` bytes. Sample ``i`` is bit ``7 - i % 8`` of byte ``i // 8``
(most significant bit first: the order of `numpy.packbits` and of Redis' own bit commands). Padding bits behind the last
sample are zero.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_core.errors import BitmapLengthError, SampleIndexError, TrailingBitsError

Bitmap: TypeAlias = NDArray[np.uint8]
"""Packed bits, shape (n_bytes,) for one epoch or (n_epochs, n_bytes) for a round."""


def n_bytes(n_samples: int) -> int:
    """Bytes of a bitmap of `n_samples` samples."""
    return (n_samples + 7) // 8


def pack(bits: ArrayLike) -> Bitmap:
    """Pack booleans of shape (..., n_samples) into bytes of shape (..., n_bytes)."""
    return np.packbits(np.asarray(bits, dtype=bool), axis=-1)


def unpack(bitmap: Bitmap, n_samples: int) -> NDArray[np.bool_]:
    """Unpack bytes of shape (..., n_bytes) into booleans of shape (..., n_samples)."""
    return np.unpackbits(bitmap, axis=-1, count=n_samples).view(np.bool_)


def popcount(bitmap: Bitmap) -> int:
    """Number of set bits, over all axes."""
    flat = np.ascontiguousarray(bitmap).reshape(-1)
    whole = flat.size // 8 * 8  # eight bytes are counted as fast as one
    words, rest = np.bitwise_count(flat[:whole].view(np.uint64)), np.bitwise_count(flat[whole:])
    return int(words.sum(dtype=np.int64) + rest.sum(dtype=np.int64))


def full(n_samples: int) -> Bitmap:
    """A bitmap with every sample's bit set and zero padding."""
    bitmap = np.full(n_bytes(n_samples), 0xFF, dtype=np.uint8)
    if n_samples % 8:
        bitmap[-1] = (0xFF << (8 - n_samples % 8)) & 0xFF
    return bitmap


def from_indices(indices: Iterable[int] | NDArray[np.integer], n_samples: int) -> Bitmap:
    """Bitmap with the given samples' bits set.

    Raises
    ------
    SampleIndexError
        If an index lies outside ``0..n_samples-1``.
    """
    if not isinstance(indices, np.ndarray):
        # Kept as Python's integers only where 64 bits do not hold them, so that these are refused like any other.
        given = list(indices)
        huge = any(not -(2**63) <= i < 2**63 for i in given)
        indices = np.array(given, dtype=object if huge else np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= n_samples):
        bad = int(indices[(indices < 0) | (indices >= n_samples)][0])
        raise SampleIndexError(
            f"sample index {bad} is outside 0..{n_samples - 1}; "
            "send indices into the data set that the run was opened with"
        )
    bits = np.zeros(n_samples, dtype=bool)
    bits[indices.astype(np.int64)] = True
    return pack(bits)


def of_sample(bitmap: Bitmap, index: int) -> NDArray[np.bool_]:
    """One sample's bits of a bitmap of shape (..., n_bytes), shape (...)."""
    return (bitmap[..., index // 8] >> (7 - index % 8) & 1).astype(bool)


def to_indices(bitmap: Bitmap, n_samples: int) -> NDArray[np.int64]:
    """Sorted indices of the set bits, shape (popcount,)."""
    return np.flatnonzero(unpack(bitmap, n_samples))


def first(bitmap: Bitmap, limit: int) -> NDArray[np.int64]:
    """Sorted indices of the first `limit` set bits of a bitmap of shape (n_bytes,), in room for its bytes alone."""
    places = np.flatnonzero(bitmap)[:limit]  # every one of these bytes has a bit
    bits = np.flatnonzero(np.unpackbits(bitmap[places]))[:limit]
    return places[bits // 8] * 8 + bits % 8


def ranges(bitmap: Bitmap, limit: int) -> tuple[int, NDArray[np.int64]]:
    """How many stretches of neighbouring set bits there are, and the first `limit` of them.

    Returns
    -------
    count, ends
        `ends` has shape (min(count, limit), 2): first and last index of each.
    """
    before, behind = np.right_shift(bitmap, 1, dtype=np.uint8), np.left_shift(bitmap, 1, dtype=np.uint8)
    before[1:] |= bitmap[:-1] << 7
    behind[:-1] |= bitmap[1:] >> 7
    starts, stops = bitmap & ~before, bitmap & ~behind
    return popcount(starts), np.stack([first(starts, limit), first(stops, limit)], axis=1)


def check(data: bytes | Bitmap, n_samples: int, what: str = "bitmap") -> Bitmap:
    """Validate one bitmap and return it as an array of shape (n_bytes,), without a copy.

    Raises
    ------
    BitmapLengthError
        If it is not ``ceil(n_samples / 8)`` bytes long.
    TrailingBitsError
        If a padding bit is set.
    """
    bitmap = np.frombuffer(data, dtype=np.uint8) if isinstance(data, bytes) else data
    if bitmap.shape != (n_bytes(n_samples),):
        raise BitmapLengthError(
            f"{what} of {n_samples} samples takes {n_bytes(n_samples)} bytes (one bit each), got {bitmap.size}; "
            "pack one bit per sample, most significant bit first"
        )
    if n_samples % 8 and bitmap[-1] & (0xFF >> n_samples % 8):
        raise TrailingBitsError(
            f"the last byte of the {what} is 0x{int(bitmap[-1]):02x}, but its low {8 - n_samples % 8} bits lie behind "
            f"sample {n_samples - 1} and must be zero; zero the padding, or check the bit order (numpy.packbits')"
        )
    return bitmap


def jaccard(first: Bitmap, second: Bitmap) -> float:
    """Samples in both sets over those in either; 1 where nobody is in any."""
    either = popcount(first | second)
    return popcount(first & second) / either if either else 1.0
