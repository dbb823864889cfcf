"""A byte stream cut at line ends: whole lines with the true number of the first, and nothing else in memory."""

from collections.abc import Iterator

import numpy as np

from mild_service.ingest.columns import Numbers, bad_record


class LineSplitter:
    """Cuts a stream into blocks of whole lines.

    Parameters
    ----------
    record_bytes
        Most bytes of a line.
    block_bytes
        Bytes of a block, give or take a line.
    """

    def __init__(self, record_bytes: int, block_bytes: int) -> None:
        self._record_bytes = record_bytes
        self._block_bytes = block_bytes
        self._rest = b""
        self._next = 1

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The number of the first line, and whole lines without the last line end."""
        data = self._rest + data
        start = 0
        while (end := data.rfind(b"\n", start, start + self._block_bytes)) >= 0 or (
            end := data.find(b"\n", start + self._block_bytes)
        ) >= 0:
            yield self._block(data[start:end])
            start = end + 1
            if len(data) - start < self._block_bytes and data.find(b"\n", start) < 0:
                break
        self._rest = data[start:]
        self._check(self._next, len(self._rest))

    def end(self) -> Iterator[tuple[int, bytes]]:
        """The last line, where it has no line end."""
        if self._rest:
            yield self._block(self._rest)

    def _block(self, block: bytes) -> tuple[int, bytes]:
        first = self._next
        self._next += block.count(b"\n") + 1
        if len(block) > self._record_bytes:
            for number, line in enumerate(block.split(b"\n"), first):
                self._check(number, len(line))
        return first, block

    def _check(self, number: int, n_bytes: int) -> None:
        if n_bytes > self._record_bytes:
            says = f"it has {n_bytes} bytes or more, at most {self._record_bytes} are read (MILD_MAX_RECORD_BYTES)"
            raise bad_record("line", number, None, says)


def numbered(first: int, n_lines: int) -> Numbers:
    """Numbers of consecutive lines, shape (n_lines,)."""
    return np.arange(first, first + n_lines, dtype=np.int64)
