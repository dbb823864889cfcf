"""Splits a byte stream into blocks of complete lines, numbers the lines, and reads logs by them."""

import codecs
from collections.abc import Iterator

import numpy as np

from mild_service.ingest.columns import Batch, LogLimits, Numbers, record_error


class LineSplitter:
    """Splits a byte stream into blocks of complete lines, without a byte order mark.

    Parameters
    ----------
    record_bytes
        Most bytes of a line.
    block_bytes
        Approximate size of a block.
    """

    def __init__(self, record_bytes: int, block_bytes: int) -> None:
        self._record_bytes = record_bytes
        self._block_bytes = block_bytes
        self._rest = b""
        self._next_number = 1

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Read the next bytes of the stream, and yield the complete lines in blocks.

        Yields
        ------
        tuple
            The number of the block's first line, and the lines, without a line end after the last one.
        """
        data = self._rest + data
        start = 0
        while (end := data.rfind(b"\n", start, start + self._block_bytes)) >= 0 or (
            end := data.find(b"\n", start + self._block_bytes)
        ) >= 0:
            yield self._number_block(data[start:end])
            start = end + 1
            if len(data) - start < self._block_bytes and data.find(b"\n", start) < 0:
                break
        self._rest = data[start:]
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
        if len(block) > self._record_bytes:
            for number, line in enumerate(block.split(b"\n"), first):
                self._check_length(number, len(line))
        return first, block

    def _check_length(self, number: int, n_bytes: int) -> None:
        if n_bytes > self._record_bytes:
            reason = f"it has {n_bytes} bytes or more, at most {self._record_bytes} are read (MILD_MAX_RECORD_BYTES)"
            raise record_error("line", number, None, reason)


class LineReader:
    """Base class of readers of logs whose records are lines, or begin on lines."""

    block_bytes = 1024 * 1024
    """Approximate size of the blocks that are parsed at once."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._lines = LineSplitter(limits.record_bytes, self.block_bytes)

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Read the next bytes of the log, and yield the records that are complete with them."""
        for first, block in self._lines.feed(data):
            yield from self._parse_batches(first, block)

    def end(self) -> Iterator[Batch]:
        """Yield the record of a last line without a line end."""
        for first, block in self._lines.end():
            yield from self._parse_batches(first, block)

    def close(self) -> None:
        """Do nothing: the reader holds no resources."""

    def _parse_batches(self, first: int, block: bytes) -> Iterator[Batch]:
        """Yield the records of a block of lines, of which the first has this number."""
        raise NotImplementedError


def line_numbers(first: int, n_lines: int) -> Numbers:
    """Return the numbers of `n_lines` consecutive lines from `first` on; shape (n_lines,)."""
    return np.arange(first, first + n_lines, dtype=np.int64)
