"""How a bitmap is cut into pieces of 128 KiB, and put together again.

A piece of 1,048,576 samples keeps one reply small, and the epochs of one piece lie side by side in one hash, so that a
round is read piece by piece with few commands and a big run spreads over a cluster.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap

CHUNK_BYTES = 128 * 1024
CHUNK_SAMPLES = CHUNK_BYTES * 8
REPLY_BYTES = 8 * 1024 * 1024
"""Most bytes of values that are asked for, or sent, in one command or pipeline."""


def n_chunks(n_samples: int) -> int:
    """Pieces of a bitmap of `n_samples` samples; at least one."""
    return max(1, -(-n_samples // CHUNK_SAMPLES))


def split(planes: Sequence[Bitmap]) -> list[bytes]:
    """Cut bitmaps of shape (n_bytes,) into one value per chunk: the first plane's piece, then the second's."""
    n_bytes = planes[0].size
    starts = range(0, max(n_bytes, 1), CHUNK_BYTES)
    return [b"".join(plane[start : start + CHUNK_BYTES].tobytes() for plane in planes) for start in starts]


def extent(chunk: int, n_samples: int) -> slice:
    """The bytes of a bitmap that `chunk` covers."""
    return slice(chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, bitmap.n_bytes(n_samples)))


def groups(sizes: Sequence[int]) -> Iterator[range]:
    """Cut positions 0..len(sizes)-1 into runs of at most `REPLY_BYTES` each, at least one position a run."""
    start, total = 0, 0
    for position, size in enumerate(sizes):
        if position > start and total + size > REPLY_BYTES:
            yield range(start, position)
            start, total = position, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def planes_of(value: bytes, planes: int) -> Bitmap:
    """The pieces in one value, shape (planes, n_bytes of the piece)."""
    return np.frombuffer(value, dtype=np.uint8).reshape(planes, -1)
