"""External sample ids: what one may be, and which sample it names."""

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_ID_BYTES = 512
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def fault(name: str) -> str | None:
    """Why a text cannot be an id; None where it can.

    An id has 1 to `MAX_ID_BYTES` bytes of UTF-8, no control characters and no blanks around it: so a line is an id, and
    an id is a line.
    """
    if not name:
        return f"it is empty, 1 to {MAX_ID_BYTES} bytes are needed"
    if name.isascii() and name.isprintable() and len(name) <= MAX_ID_BYTES and name[0] != " " != name[-1]:
        return None
    try:
        n_bytes = len(name.encode())
    except UnicodeEncodeError:
        return f"got {name[:60]!r}, which is no valid Unicode"
    if n_bytes > MAX_ID_BYTES:
        return f"it has {n_bytes} bytes in UTF-8, at most {MAX_ID_BYTES} are taken"
    if _CONTROL.search(name) or name != name.strip():
        return f"got {name[:60]!r}, an id has no control characters and no blanks around it"
    return None


class IdIndex:
    """Which sample an id names, in 20 bytes a sample: ids are told apart by 128 bits of BLAKE2b.

    Parameters
    ----------
    digests
        `digests_of` all ids, in the order of the samples; shape (n_samples, 2).
    """

    def __init__(self, digests: NDArray[np.uint64]) -> None:
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        self._high, self._low = digests[order, 0], digests[order, 1]
        self._order = order.astype(np.int32 if order.size < 2**31 else np.int64)

    @property
    def n_samples(self) -> int:
        """Samples that have an id."""
        return len(self._order)

    @property
    def n_bytes(self) -> int:
        """Bytes of memory."""
        return int(self._high.nbytes + self._low.nbytes + self._order.nbytes)

    def twice(self) -> tuple[int, int] | None:
        """The first two samples that have the same id, ascending; None where there are none."""
        same = (self._high[1:] == self._high[:-1]) & (self._low[1:] == self._low[:-1])
        pairs = np.sort(np.stack((self._order[:-1][same], self._order[1:][same])), axis=0)
        if not pairs.size:
            return None
        first, second = pairs[:, np.argmin(pairs[1])]
        return int(first), int(second)

    def indices(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The sample that each id names, shape (n_ids,); -1 where it names none."""
        wanted = digests_of(ids)
        at = np.searchsorted(self._high, wanted[:, 0])
        found = np.full(len(ids), -1, dtype=np.int64)
        while (open_ := (at < self._high.size) & (found < 0)).any():
            open_[open_] = self._high[at[open_]] == wanted[open_, 0]
            hit = open_.copy()
            hit[open_] = self._low[at[open_]] == wanted[open_, 1]
            found[hit] = self._order[at[hit]]
            at = np.where(open_, at + 1, self._high.size)
        return found


def digests_of(ids: Iterable[str]) -> NDArray[np.uint64]:
    """128 bits of each id, shape (n_ids, 2)."""
    blake = hashlib.blake2b
    joined = b"".join([blake(name.encode(errors="surrogatepass"), digest_size=16).digest() for name in ids])
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)
