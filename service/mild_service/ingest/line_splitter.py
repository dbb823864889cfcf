"""Splits a byte stream into blocks of complete lines, and numbers the lines."""

import codecs
from collections.abc import Iterable, Iterator

from mild_service.ingest.columns import record_error


class LineSplitter:
    """Splits a byte stream into blocks of complete lines, without a byte order mark.

    Parameters
    ----------
    record_bytes
        Most bytes of a line.
    """

    def __init__(self, record_bytes: int) -> None:
        self._record_bytes = record_bytes
        self._rest = b""
        self._next_number = 1

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Read the next bytes of the stream, and yield the lines that are complete with them as one block, if any is.

        Yields
        ------
        tuple
            The number of the block's first line, and the lines, without a line end after the last one.
        """
        block, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if newline:
            yield self._number_block(block)
        self._check_length(self._next_number, len(self._rest))

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Yield a last line without a line end, as `feed` does."""
        if self._rest:
            yield self._number_block(self._rest)

    def _number_block(self, block: bytes) -> tuple[int, bytes]:
        """Return the number of the block's first line, and the block, after checking the lengths of its lines."""
        first = self._next_number
        self._next_number += block.count(b"\n") + 1
        if first == 1:
            block = block.removeprefix(codecs.BOM_UTF8)
            if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise record_error("line", 1, None, "it is UTF-16, UTF-8 is needed; save the file as UTF-8")
        start = 0
        while len(block) - start > self._record_bytes:
            end = block.rfind(b"\n", start, start + self._record_bytes + 1)
            if end < 0:
                line, _, _ = block[start:].partition(b"\n")
                self._check_length(first + block.count(b"\n", 0, start), len(line))
            start = end + 1
        return first, block

    def _check_length(self, number: int, n_bytes: int) -> None:
        if n_bytes > self._record_bytes:
            reason = f"it has {n_bytes} bytes or more, at most {self._record_bytes} are read (MILD_MAX_RECORD_BYTES)"
            raise record_error("line", number, None, reason)


def split_lines(pieces: Iterable[bytes], record_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield all lines of a stream in blocks, as `LineSplitter.feed` does."""
    lines = LineSplitter(record_bytes)
    for piece in pieces:
        yield from lines.feed(piece)
    yield from lines.end()
