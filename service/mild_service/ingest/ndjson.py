"""NDJSON logs: one JSON object per line."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson

from mild_service.ingest.columns import (
    EXAMPLE,
    Batch,
    LogLimits,
    RowNumbers,
    abbreviate,
    make_batch_from_records,
    record_error,
)
from mild_service.ingest.line_splitter import LineSplitter, line_numbers

_BLOCK_BYTES = 256 * 1024
"""Size of a block of some thousand objects. Larger blocks are slower: they do not fit into the processor's caches."""


class NdjsonReader:
    """Reads an NDJSON log. Blank lines are skipped."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._lines = LineSplitter(limits.record_bytes, _BLOCK_BYTES)

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
        rows, records = decode_lines(first, block)
        if records:
            yield make_batch_from_records(rows, records, self._limits)


def decode_lines(first: int, block: bytes) -> tuple[RowNumbers, list[Any]]:
    """Parse the lines of a block as JSON, and return their values with the numbers of the lines; skip blank lines.

    Parameters
    ----------
    first
        Number of the first line.
    block
        The lines.
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
        if b"NaN" in line:
            with suppress(ValueError):
                return json.loads(line)  # which Python's json writes, and JSON does not know
        hint = "; send a JSON array as application/json" if line.lstrip().startswith(b"[") else ""
        reason = f"it is not JSON ({error}), got {abbreviate(line)}; an object such as {EXAMPLE} is needed{hint}"
        raise record_error("line", number, None, reason) from error


def open_reader(limits: LogLimits) -> NdjsonReader:
    """Return a reader of one log in this format."""
    return NdjsonReader(limits)
