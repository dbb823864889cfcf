"""Logs that are one JSON array of objects, which are parsed before the array is complete, or JSON lines."""

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
    Reader,
    RowNumbers,
    abbreviate,
    make_batch_from_records,
    record_error,
)
from mild_service.ingest.ndjson import NdjsonReader

_BLOCK_CHARS = 256 * 1024
_BLANK = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,")
_DECODER = json.JSONDecoder()


class ArrayReader:
    """Reads a log that is a JSON array. A record's row is its position in the array, from 1."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._state = "start"  # then "first", "comma", "value", and "end" behind the bracket
        self._row = 1

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Read the next bytes of the log, and yield the records that are complete with them."""
        for start in range(0, len(data), _BLOCK_CHARS):
            yield from self._parse_batches(data[start : start + _BLOCK_CHARS], is_final=False)

    def end(self) -> Iterator[Batch]:
        """Yield the remaining records, and check that the array is complete."""
        yield from self._parse_batches(b"", is_final=True)
        if self._state != "end":
            raise MalformedBody(
                f"the JSON array is cut off after {self._row - 1} complete records; send all of it, from [ to ]"
            )

    def close(self) -> None:
        """Do nothing: the reader holds no resources."""

    def _parse_batches(self, data: bytes, is_final: bool) -> Iterator[Batch]:
        try:
            self._text += self._utf8.decode(data, is_final)
        except UnicodeDecodeError as error:
            self._text += error.object[: error.start].decode()
            yield from self._parse_complete_records(is_final=False)
            raise record_error("row", self._row, None, f"it is not UTF-8 ({error.reason}); save it as UTF-8") from error
        yield from self._parse_complete_records(is_final)

    def _parse_complete_records(self, is_final: bool) -> Iterator[Batch]:
        records = self._parse_block() or self._parse_records(is_final)
        if records:
            first = self._row
            self._row += len(records)
            numbers = np.arange(first, self._row, dtype=np.int64)
            yield make_batch_from_records(RowNumbers("row", numbers), records, self._limits)

    def _parse_block(self) -> list[Any]:
        """Parse all complete records in the text at once; return an empty list if this fails."""
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

    def _parse_records(self, is_final: bool) -> list[Any]:
        """Parse the complete records one by one, which is slower, and locates an invalid record."""
        records: list[Any] = []
        at, text = 0, self._text
        while (at := _BLANK.match(text, at).end()) < len(text):  # type: ignore[union-attr]  # it matches nothing too
            row = self._row + len(records)
            if self._state == "value" or (self._state == "first" and text[at] != "]"):
                try:
                    record, at = _DECODER.raw_decode(text, at)
                except (ValueError, RecursionError) as error:
                    self._check_incomplete_record(row, text[at:], is_final, error)
                    break
                records.append(record)
                self._state = "comma"
            else:
                self._read_separator(row, text[at])
                at += 1
        self._text = text[at:]
        return records

    def _read_separator(self, row: int, char: str) -> None:
        """Change the state at a bracket or a comma; raise `BadRecord` if the character is not allowed here."""
        following = {("start", "["): "first", ("first", "]"): "end", ("comma", ","): "value", ("comma", "]"): "end"}
        if (self._state, char) not in following:
            expected = {"start": "[", "comma": ", or ]", "end": "nothing"}[self._state]
            raise record_error("row", row, None, f"got {char!r} where {expected} is needed: it is not a JSON array")
        self._state = following[self._state, char]

    def _check_incomplete_record(self, row: int, text: str, is_final: bool, error: Exception) -> None:
        """Raise `BadRecord` if the incomplete record in `text` is invalid, whatever follows."""
        if len(text) > self._limits.record_bytes:
            reason = f"it has more than {self._limits.record_bytes} bytes (MILD_MAX_RECORD_BYTES), or is not JSON"
            raise record_error("row", row, None, reason)
        if text[0] != "{":
            raise record_error("row", row, None, f"got {abbreviate(text[:60])}, an object such as {EXAMPLE} is needed")
        if is_final or isinstance(error, RecursionError):
            raise record_error("row", row, None, f"it is not JSON ({error}), got {abbreviate(text)}")


class JsonReader:
    """Reads a log that is a JSON array, or that holds JSON lines, as pandas and `datasets` write to .json files."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._start = b""
        self._reader: Reader | None = None

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Read the next bytes of the log, and yield the records that are complete with them."""
        if self._reader is None:
            data = self._start + data
            start = data.removeprefix(codecs.BOM_UTF8).lstrip()
            if len(data) <= len(codecs.BOM_UTF8) or not start:
                self._start = data[-len(codecs.BOM_UTF8) :]
                return
            self._reader = NdjsonReader(self._limits) if start[:1] == b"{" else ArrayReader(self._limits)
        yield from self._reader.feed(data)

    def end(self) -> Iterator[Batch]:
        """Yield the remaining records, and check that the log is complete."""
        if self._reader is None:
            self._reader = ArrayReader(self._limits)
            yield from self._reader.feed(self._start)
        yield from self._reader.end()

    def close(self) -> None:
        """Do nothing: the reader holds no resources."""
