"""NDJSON logs: one JSON object per line."""

import json
from collections.abc import Iterable, Iterator
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
from mild_service.ingest.line_splitter import split_lines


def read_ndjson(pieces: Iterable[bytes], limits: LogLimits) -> Iterator[Batch]:
    """Yield the records of an NDJSON log. Blank lines are skipped."""
    for first, block in split_lines(pieces, limits.record_bytes):
        rows, records = decode_lines(first, block)
        if records:
            yield make_batch_from_records(rows, records, limits)


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
    rows = RowNumbers.count_from("line", first, len(lines))
    try:
        return rows, list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:
        filled = [position for position, line in enumerate(lines) if line.strip()]
        records = [_parse_line(first + position, lines[position]) for position in filled]
        return rows.take(filled), records


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
