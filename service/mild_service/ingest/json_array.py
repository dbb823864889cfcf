"""A JSON array of objects, read without holding more than a part of it."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from mild_service.errors import MalformedBody
from mild_service.ingest.columns import EXAMPLE, Batch, Limits, Rows, bad_record, batch_of, short

_BLOCK_CHARS = 256 * 1024
_BLANK = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,")
_DECODER = json.JSONDecoder()


class ArrayReader:
    """Reads a JSON array; a record's number is its place in the array, from 1."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._state = "start"  # then "first", "comma", "value", and "end" behind the bracket
        self._row = 1

    def feed(self, data: bytes) -> Iterator[Batch]:
        """The records that `data` completes."""
        for start in range(0, len(data), _BLOCK_CHARS):
            yield from self._batches(data[start : start + _BLOCK_CHARS], final=False)

    def end(self) -> Iterator[Batch]:
        """Check that the array was closed."""
        yield from self._batches(b"", final=True)
        if self._state != "end":
            raise MalformedBody(
                f"the JSON array ends in the middle, behind {self._row - 1} whole records; send it whole, from [ to ]"
            )

    def close(self) -> None:
        """Nothing is held."""

    def _batches(self, data: bytes, final: bool) -> Iterator[Batch]:
        try:
            self._text += self._utf8.decode(data, final)
        except UnicodeDecodeError as error:
            self._text += error.object[: error.start].decode()
            yield from self._whole(final=False)
            raise bad_record("row", self._row, None, f"it is not UTF-8 ({error.reason})") from error
        yield from self._whole(final)

    def _whole(self, final: bool) -> Iterator[Batch]:
        """The whole records in the text."""
        records = self._at_once() or self._one_by_one(final)
        if records:
            first = self._row
            self._row += len(records)
            numbers = np.arange(first, self._row, dtype=np.int64)
            yield batch_of(Rows("row", numbers), records, self._limits)

    def _at_once(self) -> list[Any]:
        """All whole records in the text, where its last brace closes one of them."""
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

    def _one_by_one(self, final: bool) -> list[Any]:
        """The same with a decoder that stops behind each record; it knows which one is wrong."""
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
                self._step(row, text[at])
                at += 1
        self._text = text[at:]
        return records

    def _step(self, row: int, char: str) -> None:
        """Take the character between two records."""
        following = {("start", "["): "first", ("first", "]"): "end", ("comma", ","): "value", ("comma", "]"): "end"}
        if (self._state, char) not in following:
            wanted = {"start": "[", "comma": ", or ]", "end": "nothing"}[self._state]
            raise bad_record("row", row, None, f"got {char!r} where {wanted} is needed: it is not a JSON array")
        self._state = following[self._state, char]

    def _check_unfinished(self, row: int, text: str, final: bool, error: Exception) -> None:
        """Tell a record that is wrong from one whose end is still to come."""
        if len(text) > self._limits.record_bytes:
            says = f"it has more than {self._limits.record_bytes} bytes (MILD_MAX_RECORD_BYTES), or is not JSON"
            raise bad_record("row", row, None, says)
        if text[0] != "{":
            raise bad_record("row", row, None, f"got {short(text[:60])}, an object such as {EXAMPLE} is needed")
        if final or isinstance(error, RecursionError):
            raise bad_record("row", row, None, f"it is not JSON ({error}), got {short(text)}")


def open_reader(limits: Limits) -> ArrayReader:
    """A reader of one body."""
    return ArrayReader(limits)
