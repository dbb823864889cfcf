"""Logs that are one JSON array of objects, read piece by piece."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from mild_service.errors import MalformedBody
from mild_service.ingest.columns import (
    EXAMPLE,
    Batch,
    LogLimits,
    RowNumbers,
    abbreviate,
    batch_from_records,
    record_error,
)

_BLOCK_CHARS = 256 * 1024
_BLANK = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,")
_DECODER = json.JSONDecoder()


class ArrayReader:
    """Reads a JSON array; a record's number is its position in the array, from 1."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._state = "start"  # then "first", "comma", "value", and "end" behind the bracket
        self._row = 1

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Yield the records that `data` completes."""
        for start in range(0, len(data), _BLOCK_CHARS):
            yield from self._batches(data[start : start + _BLOCK_CHARS], final=False)

    def end(self) -> Iterator[Batch]:
        """Yield the remaining records, and check that the array is complete."""
        yield from self._batches(b"", final=True)
        if self._state != "end":
            raise MalformedBody(
                f"the JSON array is cut off after {self._row - 1} complete records; send all of it, from [ to ]"
            )

    def close(self) -> None:
        """Do nothing: the reader holds no resources."""

    def _batches(self, data: bytes, final: bool) -> Iterator[Batch]:
        try:
            self._text += self._utf8.decode(data, final)
        except UnicodeDecodeError as error:
            self._text += error.object[: error.start].decode()
            yield from self._complete_records(final=False)
            raise record_error("row", self._row, None, f"it is not UTF-8 ({error.reason})") from error
        yield from self._complete_records(final)

    def _complete_records(self, final: bool) -> Iterator[Batch]:
        records = self._parse_block() or self._parse_records(final)
        if records:
            first = self._row
            self._row += len(records)
            numbers = np.arange(first, self._row, dtype=np.int64)
            yield batch_from_records(RowNumbers("row", numbers), records, self._limits)

    def _parse_block(self) -> list[Any]:
        """Parse all complete records in the text at once; return none if the text does not allow it."""
        pattern = _COMMA if self._state == "comma" else _BLANK
        begin, end = pattern.match(self._text), self._text.rfind("}") + 1
        if begin is None or self._state in ("start", "end"):
            return []
        try:
            records: list[Any] = orjson.loads(f"[{self._text[begin.end() : end]}]")
        except orjson.JSONDecodeError:
            return []
        if records:
            self._text, self._state = self._text[end:], "comma"
        return records

    def _parse_records(self, final: bool) -> list[Any]:
        """Parse the complete records one by one, which is slower and finds the faulty one."""
        records: list[Any] = []
        at, text = 0, self._text
        while (at := _BLANK.match(text, at).end()) < len(text):  # type: ignore[union-attr]  # it matches nothing too
            row = self._row + len(records)
            if self._state == "value" or (self._state == "first" and text[at] != "]"):
                try:
                    record, at = _DECODER.raw_decode(text, at)
                except (ValueError, RecursionError) as error:
                    self._check_unfinished(row, text[at:], final, error)
                    break
                records.append(record)
                self._state = "comma"
            else:
                self._read_separator(row, text[at])
                at += 1
        self._text = text[at:]
        return records

    def _read_separator(self, row: int, char: str) -> None:
        """Read a bracket or a comma."""
        following = {("start", "["): "first", ("first", "]"): "end", ("comma", ","): "value", ("comma", "]"): "end"}
        if (self._state, char) not in following:
            expected = {"start": "[", "comma": ", or ]", "end": "nothing"}[self._state]
            raise record_error("row", row, None, f"got {char!r} where {expected} is needed: it is not a JSON array")
        self._state = following[self._state, char]

    def _check_unfinished(self, row: int, text: str, final: bool, error: Exception) -> None:
        """Raise if the record is wrong; do nothing if its end may still follow."""
        if len(text) > self._limits.record_bytes:
            reason = f"it has more than {self._limits.record_bytes} bytes (MILD_MAX_RECORD_BYTES), or is not JSON"
            raise record_error("row", row, None, reason)
        if text[0] != "{":
            raise record_error("row", row, None, f"got {abbreviate(text[:60])}, an object such as {EXAMPLE} is needed")
        if final or isinstance(error, RecursionError):
            raise record_error("row", row, None, f"it is not JSON ({error}), got {abbreviate(text)}")


def open_reader(limits: LogLimits) -> ArrayReader:
    """Return a reader of one body."""
    return ArrayReader(limits)
