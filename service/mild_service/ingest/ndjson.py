"""NDJSON logs: one JSON object per line."""

from collections.abc import Iterator
from typing import Any

import orjson

from mild_service.ingest.columns import (
    EXAMPLE,
    Batch,
    LogLimits,
    RowNumbers,
    abbreviate,
    batch_from_records,
    record_error,
)
from mild_service.ingest.line_splitter import LineSplitter, line_numbers

_BLOCK_BYTES = 256 * 1024
"""Some thousand objects: larger blocks are slower, since they do not fit into the processor's caches."""


class NdjsonReader:
    """Reads NDJSON; blank lines are skipped."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._lines = LineSplitter(limits.record_bytes, _BLOCK_BYTES)

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Yield the records that `data` completes."""
        for first, block in self._lines.feed(data):
            yield from self._batches(first, block)

    def end(self) -> Iterator[Batch]:
        """Yield the last line if it has no line end."""
        for first, block in self._lines.end():
            yield from self._batches(first, block)

    def close(self) -> None:
        """Do nothing: the reader holds no resources."""

    def _batches(self, first: int, block: bytes) -> Iterator[Batch]:
        rows, records = decode_lines(first, block)
        if records:
            yield batch_from_records(rows, records, self._limits)


def decode_lines(first: int, block: bytes) -> tuple[RowNumbers, list[Any]]:
    """Parse each line that is not blank, and return the values with the numbers of their lines.

    Raises
    ------
    BadRecord
        If a line is not JSON.
    """
    lines = block.split(b"\n")
    numbers = line_numbers(first, len(lines))
    try:
        return RowNumbers("line", numbers), list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        filled = [position for position, line in enumerate(lines) if line.strip()]
        return RowNumbers("line", numbers[filled]), [
            _parse_line(first + position, lines[position]) for position in filled
        ]


def _parse_line(number: int, line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        reason = f"it is not JSON ({error}), got {abbreviate(line)}; an object such as {EXAMPLE} is needed"
        raise record_error("line", number, None, reason) from error


def open_reader(limits: LogLimits) -> NdjsonReader:
    """Return a reader of one body."""
    return NdjsonReader(limits)
