"""External sample ids: their format, and an index from ids to samples."""

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_ID_BYTES = 512
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def find_id_error(sample_id: str) -> str | None:
    """Return why `sample_id` is not a valid sample id, or None if it is valid.

    A valid id has 1 to `MAX_ID_BYTES` bytes of UTF-8, no control characters and no blanks at its ends, so that a file
    can list one id per line.
    """
    if not sample_id:
        return f"it is empty, 1 to {MAX_ID_BYTES} bytes are needed"
    has_blanks = sample_id[0] == " " or sample_id[-1] == " "
    if sample_id.isascii() and sample_id.isprintable() and len(sample_id) <= MAX_ID_BYTES and not has_blanks:
        return None
    try:
        n_bytes = len(sample_id.encode())
    except UnicodeEncodeError:
        return f"got {sample_id[:60]!r}, which is no valid Unicode"
    if n_bytes > MAX_ID_BYTES:
        return f"it has {n_bytes} bytes in UTF-8, at most {MAX_ID_BYTES} are taken"
    if "\ufeff" in sample_id:
        return f"got {sample_id[:60]!r}, which has a byte order mark; read the file of ids as utf-8-sig"
    if _CONTROL.search(sample_id) or sample_id != sample_id.strip():
        return f"got {sample_id[:60]!r}, an id has no control characters and no blanks around it"
    return None


class IdIndex:
    """Index from external ids to sample indices, in 20 bytes per sample.

    Ids are compared by 128 bits of their BLAKE2b hash.

    Parameters
    ----------
    digests
        Hashes of all ids by `hash_ids`, in the order of the samples, shape (n_samples, 2).
    has_numbers
        Whether an id is a number, so that a number may stand for it.
    """

    def __init__(self, digests: NDArray[np.uint64], has_numbers: bool = False) -> None:
        self.has_numbers = has_numbers
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        self._high, self._low = digests[order, 0], digests[order, 1]
        self._order = order.astype(np.int32 if order.size < 2**31 else np.int64)

    @property
    def n_samples(self) -> int:
        """Number of samples with an id."""
        return len(self._order)

    @property
    def n_bytes(self) -> int:
        """Size of the index in memory, in bytes."""
        return int(self._high.nbytes + self._low.nbytes + self._order.nbytes)

    def find_duplicate(self) -> tuple[int, int] | None:
        """Return the indices of two samples with the same id, ascending, or None if all ids differ.

        Of several duplicates, the one whose second sample comes first is returned.
        """
        is_equal = (self._high[1:] == self._high[:-1]) & (self._low[1:] == self._low[:-1])
        pairs = np.sort(np.stack((self._order[:-1][is_equal], self._order[1:][is_equal])), axis=0)
        if not pairs.size:
            return None
        first, second = pairs[:, np.argmin(pairs[1])]
        return int(first), int(second)

    def find_indices(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the sample index of every id, shape (n_ids,); -1 for an unknown id."""
        digests = hash_ids(ids)
        position = np.searchsorted(self._high, digests[:, 0])
        indices = np.full(len(ids), -1, dtype=np.int64)
        # Several entries may have the same upper half: step through them until the lower half matches as well.
        while (is_open := (position < self._high.size) & (indices < 0)).any():
            is_open[is_open] = self._high[position[is_open]] == digests[is_open, 0]
            is_match = is_open.copy()
            is_match[is_open] = self._low[position[is_open]] == digests[is_open, 1]
            indices[is_match] = self._order[position[is_match]]
            position = np.where(is_open, position + 1, self._high.size)
        return indices


def is_number(sample_id: str) -> bool:
    """Return whether an id may be taken for a number, as 17, 007 and 1.0 may."""
    return not sample_id.strip("0123456789.+-")


def hash_ids(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Hash every id to 128 bits, two 64-bit words per id, shape (n_ids, 2)."""
    blake = hashlib.blake2b
    digests = b"".join([blake(sample_id.encode(errors="surrogatepass"), digest_size=16).digest() for sample_id in ids])
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
