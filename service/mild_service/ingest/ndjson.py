"""NDJSON logs: one JSON object per line."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson

from mild_service.ingest.columns import (
    EXAMPLE,
    Batch,
    RowNumbers,
    abbreviate,
    make_batch_from_records,
    record_error,
)
from mild_service.ingest.line_splitter import LineReader, line_numbers


class NdjsonReader(LineReader):
    """Reads an NDJSON log. Blank lines are skipped."""

    block_bytes = 256 * 1024
    """Some thousand objects. Larger blocks are slower: they do not fit into the processor's caches."""

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
