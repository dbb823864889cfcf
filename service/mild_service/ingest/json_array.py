"""Logs that are one JSON array of objects, which are parsed before the array is complete, or JSON lines."""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import orjson

from mild_service.errors import MalformedBody
from mild_service.ingest.columns import (
    EXAMPLE,
    Batch,
    LogLimits,
    RowNumbers,
    abbreviate,
    make_batch_from_records,
    record_error,
)
from mild_service.ingest.ndjson import read_ndjson

_BLANK = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,")
_DECODER = json.JSONDecoder()


def read_json(pieces: Iterable[bytes], limits: LogLimits) -> Iterator[Batch]:
    """Yield the records of a log that is a JSON array, or that holds JSON lines, as pandas writes to .json files."""
    pieces, start, text = iter(pieces), b"", b""
    for piece in pieces:
        start = start[-len(codecs.BOM_UTF8) :] + piece
        text = start.removeprefix(codecs.BOM_UTF8).lstrip()
        if len(start) > len(codecs.BOM_UTF8) and text:
            break
    read = read_ndjson if text.startswith(b"{") else _read_array
    yield from read(chain([start], pieces), limits)


def _read_array(pieces: Iterable[bytes], limits: LogLimits) -> Iterator[Batch]:
    """Yield the records of a JSON array. A record's row is its position in the array, from 1."""
    utf8 = codecs.getincrementaldecoder("utf-8-sig")()
    parser = _ArrayParser(limits.record_bytes)
    for data, is_final in chain(((piece, False) for piece in pieces), [(b"", True)]):
        first, encoding_error = parser.row, None
        try:
            text = utf8.decode(data, is_final)
        except UnicodeDecodeError as error:
            text, encoding_error = error.object[: error.start].decode(), error
        if records := parser.parse(text, is_final and encoding_error is None):
            yield make_batch_from_records(RowNumbers.count_from("row", first, len(records)), records, limits)
        if encoding_error is not None:
            reason = f"it is not UTF-8 ({encoding_error.reason}); save it as UTF-8"
            raise record_error("row", parser.row, None, reason) from encoding_error
    if parser.state != "end":
        raise MalformedBody(
            f"the JSON array is cut off after {parser.row - 1} complete records; send all of it, from [ to ]"
        )


class _ArrayParser:
    """Parses a JSON array piece by piece.

    Parameters
    ----------
    record_bytes
        Most bytes of a record.
    """

    def __init__(self, record_bytes: int) -> None:
        self._record_bytes = record_bytes
        self._text = ""
        self.state = "start"  # then "first", "comma", "value", and "end" behind the bracket
        self.row = 1
        """Row of the next record."""

    def parse(self, text: str, is_final: bool) -> list[Any]:
        """Return the records that are complete with the next part of the text."""
        self._text += text
        records = self._parse_block() or self._parse_records(is_final)
        self.row += len(records)
        return records

    def _parse_block(self) -> list[Any]:
        """Parse all complete records in the text at once; return an empty list if this fails."""
        pattern = _COMMA if self.state == "comma" else _BLANK
        begin, end = pattern.match(self._text), self._text.rfind("}") + 1
        if begin is None or self.state in ("start", "end"):
            return []
        try:
            records: list[Any] = orjson.loads(f"[{self._text[begin.end() : end]}]")
        except orjson.JSONDecodeError:
            return []
        if records:
            self._text, self.state = self._text[end:], "comma"
        return records

    def _parse_records(self, is_final: bool) -> list[Any]:
        """Parse the complete records one by one, which is slower, and locates an invalid record."""
        records: list[Any] = []
        at, text = 0, self._text
        while (at := _BLANK.match(text, at).end()) < len(text):  # type: ignore[union-attr]  # it matches nothing too
            row = self.row + len(records)
            if self.state == "value" or (self.state == "first" and text[at] != "]"):
                try:
                    record, at = _DECODER.raw_decode(text, at)
                except (ValueError, RecursionError) as error:
                    self._check_incomplete_record(row, text[at:], is_final, error)
                    break
                records.append(record)
                self.state = "comma"
            else:
                self._read_separator(row, text[at])
                at += 1
        self._text = text[at:]
        return records

    def _read_separator(self, row: int, char: str) -> None:
        """Change the state at a bracket or a comma; raise `BadRecord` if the character is not allowed here."""
        following = {("start", "["): "first", ("first", "]"): "end", ("comma", ","): "value", ("comma", "]"): "end"}
        if (self.state, char) not in following:
            expected = {"start": "[", "comma": ", or ]", "end": "nothing"}[self.state]
            raise record_error("row", row, None, f"got {char!r} where {expected} is needed: it is not a JSON array")
        self.state = following[self.state, char]

    def _check_incomplete_record(self, row: int, text: str, is_final: bool, error: Exception) -> None:
        """Raise `BadRecord` if the incomplete record in `text` is invalid, whatever follows."""
        if len(text) > self._record_bytes:
            reason = f"it has more than {self._record_bytes} bytes (MILD_MAX_RECORD_BYTES), or is not JSON"
            raise record_error("row", row, None, reason)
        if text[0] != "{":
            raise record_error("row", row, None, f"got {abbreviate(text[:60])}, an object such as {EXAMPLE} is needed")
        if is_final or isinstance(error, RecursionError):
            raise record_error("row", row, None, f"it is not JSON ({error}), got {abbreviate(text)}")
