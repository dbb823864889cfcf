"""Bitmaps, one bit per sample: the format of all per-sample flags in memory, in the store and on the wire.

A bitmap of ``n_samples`` samples has ``ceil(n_samples / 8)`` bytes. Sample ``i`` is bit ``7 - i % 8`` of byte
``i // 8`` (most significant bit first: the order of `numpy.packbits` and of the bit commands of Redis). The padding
bits after the last sample are zero.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_core.errors import BitmapLengthError, InvalidInput, SampleIndexError, TrailingBitsError

Bitmap: TypeAlias = NDArray[np.uint8]
"""Packed bits, shape (n_bytes,) for one epoch or (n_epochs, n_bytes) for a round."""

_POPCOUNT_WORDS = 1 << 14
"""64-bit words of the bitmaps whose bits are counted by one call, which fit the cache."""


def n_bytes(n_samples: int) -> int:
    """Return the number of bytes of a bitmap of `n_samples` samples."""
    return (n_samples + 7) // 8


def pack(bits: ArrayLike) -> Bitmap:
    """Pack booleans of shape (..., n_samples) into bytes of shape (..., n_bytes)."""
    return np.packbits(np.asarray(bits, dtype=bool), axis=-1)


def unpack(bitmap: Bitmap, n_samples: int) -> NDArray[np.bool_]:
    """Unpack bytes of shape (..., n_bytes) into booleans of shape (..., n_samples)."""
    return np.unpackbits(bitmap, axis=-1, count=n_samples).view(np.bool_)


def popcount(bitmap: Bitmap) -> int:
    """Count the set bits of a bitmap of any shape."""
    flat = np.ascontiguousarray(bitmap).reshape(-1)
    n_word_bytes = flat.size // 8 * 8  # a 64-bit word is counted as fast as a byte
    words, rest = flat[:n_word_bytes].view(np.uint64), flat[n_word_bytes:]
    return int(np.bitwise_count(words).sum(dtype=np.int64) + np.bitwise_count(rest).sum(dtype=np.int64))


def popcount_rows(bitmaps: Bitmap, mask: Bitmap) -> NDArray[np.int64]:
    """Count the set bits of every bitmap among those of a mask, shape (n_rows,).

    Parameters
    ----------
    bitmaps, mask
        Shapes (n_rows, n_bytes) and (n_bytes,).
    """
    counts = np.zeros(len(bitmaps), dtype=np.int64)
    n_words = -(-mask.size // 8)  # a 64-bit word is counted as fast as a byte
    n_rows = max(_POPCOUNT_WORDS // max(n_words, 1), 1)
    words = np.zeros((min(n_rows, len(bitmaps)), n_words), dtype=np.uint64)
    for start in range(0, len(bitmaps), n_rows):
        rows = bitmaps[start : start + n_rows]
        np.bitwise_and(rows, mask, out=words[: len(rows)].view(np.uint8)[:, : mask.size])
        np.bitwise_count(words[: len(rows)]).sum(axis=1, dtype=np.int64, out=counts[start : start + n_rows])
    return counts


def full(n_samples: int) -> Bitmap:
    """Create a bitmap with the bits of all samples set, shape (n_bytes,)."""
    bitmap = np.full(n_bytes(n_samples), 0xFF, dtype=np.uint8)
    if n_samples % 8:
        bitmap[-1] = (0xFF << (8 - n_samples % 8)) & 0xFF
    return bitmap


def from_indices(indices: Iterable[int] | NDArray[np.integer], n_samples: int) -> Bitmap:
    """Create a bitmap with the bits of `indices` set, shape (n_bytes,)."""
    if not isinstance(indices, np.ndarray):
        # Integers beyond 64 bits stay Python objects, so that the range check below refuses them like any other.
        values = list(indices)
        fits_int64 = all(-(2**63) <= value < 2**63 for value in values)
        indices = np.array(values, dtype=np.int64 if fits_int64 else object)
    if indices.size and (indices.min() < 0 or indices.max() >= n_samples):
        invalid_index = int(indices[(indices < 0) | (indices >= n_samples)][0])
        raise SampleIndexError(
            f"sample index {invalid_index} is outside 0..{n_samples - 1}; "
            "send indices into the data set that the run was opened with"
        )
    bits = np.zeros(n_samples, dtype=bool)
    bits[indices.astype(np.int64)] = True
    return pack(bits)


def get_sample_bits(bitmap: Bitmap, index: int | NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the bits of one sample, or of several, from bitmaps of shape (..., n_bytes).

    They are booleans of shape (...), or of shape (..., n) for indices of shape (n,).
    """
    return (bitmap[..., index // 8] >> (7 - index % 8) & 1).astype(bool)


def to_indices(bitmap: Bitmap, n_samples: int) -> NDArray[np.int64]:
    """Return the indices of the set bits of a bitmap of shape (n_bytes,), ascending."""
    return np.flatnonzero(unpack(bitmap, n_samples))


def first_indices(bitmap: Bitmap, limit: int) -> NDArray[np.int64]:
    """Return the indices of the first `limit` set bits, ascending, without unpacking the bitmap, shape (n_bytes,)."""
    byte_indices = np.flatnonzero(bitmap)[:limit]  # each of these bytes has at least one bit set
    bit_positions = np.flatnonzero(np.unpackbits(bitmap[byte_indices]))[:limit]
    return byte_indices[bit_positions // 8] * 8 + bit_positions % 8


def find_ranges(bitmap: Bitmap, limit: int) -> tuple[int, NDArray[np.int64]]:
    """Find the ranges of consecutive set bits in a bitmap of shape (n_bytes,).

    Returns
    -------
    n_ranges
        Number of all ranges.
    ends
        First and last index of each of the first `limit` ranges, shape (min(n_ranges, limit), 2).
    """
    previous, following = np.right_shift(bitmap, 1, dtype=np.uint8), np.left_shift(bitmap, 1, dtype=np.uint8)
    previous[1:] |= bitmap[:-1] << 7
    following[:-1] |= bitmap[1:] >> 7
    starts, stops = bitmap & ~previous, bitmap & ~following
    return popcount(starts), np.stack([first_indices(starts, limit), first_indices(stops, limit)], axis=1)


def validate(data: bytes | Bitmap, n_samples: int, name: str = "bitmap") -> Bitmap:
    """Check the length and the padding of one bitmap, and return the bitmap as an array of shape (n_bytes,).

    Parameters
    ----------
    data
        The bitmap; the array returned shares its memory.
    n_samples
        Number of samples that the bitmap must have a bit for.
    name
        Name of the bitmap in error messages.
    """
    bitmap = np.frombuffer(data, dtype=np.uint8) if isinstance(data, bytes) else data
    if bitmap.shape != (n_bytes(n_samples),):
        raise BitmapLengthError(
            f"{name} of {n_samples} samples takes {n_bytes(n_samples)} bytes (one bit each), got {bitmap.size}; "
            "pack one bit per sample, most significant bit first"
        )
    check_padding(bitmap, n_samples, name)
    return bitmap


def check_padding(bitmap: Bitmap, n_samples: int, name: str) -> None:
    """Check the padding of one bitmap of shape (n_bytes,); error messages call it `name`."""
    if n_samples % 8 and bitmap[-1] & (0xFF >> n_samples % 8):
        raise TrailingBitsError(
            f"the last byte of the {name} is 0x{int(bitmap[-1]):02x}, but its low {8 - n_samples % 8} bits lie after "
            f"sample {n_samples - 1} and must be zero; zero the padding, or check the bit order (numpy.packbits')"
        )


def check_empty(bitmap: Bitmap, fault: str, remedy: str, error: type[InvalidInput] = InvalidInput) -> None:
    """Raise `error` if a bitmap of shape (n_bytes,) has samples; the message names their number and the first.

    `fault` says what is wrong with them, such as ``{n} samples are correct but not observed``.
    """
    if bitmap.any():
        first = first_indices(bitmap, 1)[0]
        raise error(f"{fault.format(n=popcount(bitmap))}, the first is sample {first}; {remedy}")


def compute_jaccard(first: Bitmap, second: Bitmap) -> float:
    """Compute the Jaccard similarity of two sets: samples in both over samples in either; 1 if both are empty."""
    n_union = popcount(first | second)
    return popcount(first & second) / n_union if n_union else 1.0
