"""NDJSON: one JSON object a line."""

from collections.abc import Iterator
from typing import Any

import orjson

from mild_service.ingest.columns import EXAMPLE, Batch, Limits, Rows, bad_record, batch_of, short
from mild_service.ingest.line_splitter import LineSplitter, numbered

_BLOCK_BYTES = 256 * 1024
"""Some thousand objects at a time: more of them are slower, as they fall out of the processor's caches."""


class NdjsonReader:
    """Reads NDJSON; blank lines are skipped."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lines = LineSplitter(limits.record_bytes, _BLOCK_BYTES)

    def feed(self, data: bytes) -> Iterator[Batch]:
        """The records that `data` completes."""
        for first, block in self._lines.feed(data):
            yield from self._batches(first, block)

    def end(self) -> Iterator[Batch]:
        """The last line, where it has no line end."""
        for first, block in self._lines.end():
            yield from self._batches(first, block)

    def close(self) -> None:
        """Nothing is held."""

    def _batches(self, first: int, block: bytes) -> Iterator[Batch]:
        rows, records = decoded(first, block)
        if records:
            yield batch_of(rows, records, self._limits)


def decoded(first: int, block: bytes) -> tuple[Rows, list[Any]]:
    """The JSON value of each line that is not blank, with the lines' numbers.

    Raises
    ------
    BadRecord
        If a line is not JSON.
    """
    lines = block.split(b"\n")
    numbers = numbered(first, len(lines))
    try:
        return Rows("line", numbers), list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        filled = [position for position, line in enumerate(lines) if line.strip()]
        return Rows("line", numbers[filled]), [_value(first + position, lines[position]) for position in filled]


def _value(number: int, line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        says = f"it is not JSON ({error}), got {short(line)}; an object such as {EXAMPLE} is needed"
        raise bad_record("line", number, None, says) from error


def open_reader(limits: Limits) -> NdjsonReader:
    """A reader of one body."""
    return NdjsonReader(limits)
