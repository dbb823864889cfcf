"""Prediction logs as bodies: arrays, records and files, in parts that the service takes."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_client.errors import TooLarge
from mild_client.requests import JSON, NDJSON, FileSlice, content_digest
from mild_core.errors import ParameterError

Place: TypeAlias = tuple[int, int]
"""Round and epoch."""

CARTOGRAPHY = "application/x-cartography+ndjson"
_CSV = "text/csv"

MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".json": JSON,
        ".ndjson": NDJSON,
        ".jsonl": NDJSON,
        ".csv": _CSV,
        ".arrows": "application/vnd.apache.arrow.stream",
        ".parquet": "application/vnd.apache.parquet",
    }
)
"""A log's content type by its file's extension."""
_CODINGS = {".gz": "gzip", ".zst": "zstd"}

_PART_BYTES = 8 * 1024 * 1024
"""Most bytes of a part that is built in memory, before it is compressed."""
_GZIP_FROM = 1024
"""Shorter parts are not worth compressing."""
_DIGITS = 20
"""Most characters of an integer of 64 bits."""
_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One post.

    Attributes
    ----------
    content, media_type, coding
        The body.
    reminder
        A smaller body that names the same epochs; None: there is none.
    """

    content: bytes | FileSlice
    media_type: str
    coding: str | None = None
    reminder: bytes | None = None

    def headers(self) -> dict[str, str]:
        """Its headers; a slice of a file has its digest made when it is sent."""
        digest = {}
        if isinstance(self.content, bytes):
            digest["Content-Digest"] = content_digest(hashlib.sha256(self.content).digest())
        coding = {"Content-Encoding": self.coding} if self.coding else {}
        return {"Content-Type": self.media_type, **coding, **digest}

    def reminding(self) -> "Part":
        """The least that names the same epochs."""
        return self if self.reminder is None else Part(self.reminder, self.media_type)


def of_arrays(
    place: Place,
    samples: NDArray[np.integer] | NDArray[np.str_],
    predicted: NDArray[np.integer],
    labels: NDArray[np.integer],
    limits: Mapping[str, float],
) -> Iterator[Part]:
    """One epoch's records, each array of shape (n_records,); samples by index or by external id.

    Raises
    ------
    ParameterError
        If the arrays are not of the same length, or hold something else.
    """
    for name, array, kinds in (("samples", samples, "iuU"), ("predicted", predicted, "iu"), ("labels", labels, "iu")):
        if array.shape != samples.shape or array.ndim != 1 or array.dtype.kind not in kinds:
            raise ParameterError(
                f"{name} has shape {array.shape} and type {array.dtype}; give integers (samples: or external ids) of "
                "shape (n_records,), as many as there are samples"
            )
    named = [json.dumps(name) for name in samples.tolist()] if samples.dtype.kind == "U" else samples.tolist()
    line = f'{{"round":{place[0]},"epoch":{place[1]},"sample":%s,"predicted":%d,"label":%d}}\n'
    widest = len(line) + 2 * _DIGITS + (max(map(len, named), default=0) if samples.dtype.kind == "U" else _DIGITS)
    most_bytes, most_lines = _most(limits)
    n_rows = max(1, min(most_bytes // widest, most_lines))
    for first in range(0, samples.size, n_rows):
        rows = slice(first, first + n_rows)
        lines = [line % row for row in zip(named[rows], predicted[rows].tolist(), labels[rows].tolist(), strict=True)]
        yield _part("".join(lines).encode(), lines[0].encode())


def of_records(records: Iterable[Mapping[str, Any]], limits: Mapping[str, float]) -> Iterator[Part]:
    """Records with ``epoch``, ``sample`` and ``correct``, or ``predicted`` and ``label``; ``round`` is 0 unless given.

    Raises
    ------
    ParameterError
        If a record is no JSON, or lacks its epoch.
    """
    return _parts(map(_line, records), limits)


def of_file(path: Path, media_type: str | None, limits: Mapping[str, float]) -> Iterator[Part]:
    """A log's file as it is, or, where it is too long for one post and has lines, cut between them.

    Raises
    ------
    ParameterError
        If the extension says nothing of the format.
    TooLarge
        If it is too long and cannot be cut.
    """
    coding = _CODINGS.get(path.suffix.lower())
    name = path.with_suffix("") if coding else path
    media_type = media_type or MEDIA_TYPES.get(name.suffix.lower())
    if media_type is None:
        raise ParameterError(
            f"the extension of {path.name!r} is none of {', '.join(MEDIA_TYPES)} (with .gz or .zst behind it, where it "
            "is compressed); rename the file, or say which content type it has"
        )
    n_bytes = path.stat().st_size
    limit = int(limits.get("max_log_bytes", n_bytes))
    if n_bytes <= limit:
        yield Part(FileSlice(path, 0, n_bytes), media_type, coding)
    elif coding is None and media_type in (_CSV, NDJSON, CARTOGRAPHY):
        yield from _cut(path, n_bytes, media_type, limit)
    else:
        raise TooLarge(
            f"{path.name} has {n_bytes} bytes, this service takes {limit} in one post and the format cannot be cut; "
            "write it in several files, or as lines (.csv, .ndjson) that are not compressed"
        )


def _line(record: Mapping[str, Any]) -> tuple[Place, bytes]:
    try:
        line = json.dumps(dict(record), separators=(",", ":"), allow_nan=False, default=_number).encode() + b"\n"
        return (int(record.get("round") or 0), int(record["epoch"])), line
    except (TypeError, ValueError, KeyError) as error:
        raise ParameterError(
            f"record {dict(record)!r:.200} cannot be sent ({error!r}); give `epoch`, `sample` and `correct`, "
            "or `predicted` and `label`, as integers"
        ) from error


def _number(value: object) -> object:
    """What a scalar of numpy is in Python."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no number")


def _parts(lines: Iterable[tuple[Place, bytes]], limits: Mapping[str, float]) -> Iterator[Part]:
    """Gather lines into parts that are within the service's limits, and small enough to be held."""
    most_bytes, most_lines = _most(limits)
    body, named, n_lines = bytearray(), dict[Place, bytes](), 0
    for place, line in lines:
        if n_lines and (len(body) + len(line) > most_bytes or n_lines == most_lines):
            yield _part(body, b"".join(named.values()))
            body, named, n_lines = bytearray(), {}, 0
        body += line
        n_lines += 1
        named.setdefault(place, line)
    if n_lines:
        yield _part(body, b"".join(named.values()))


def _most(limits: Mapping[str, float]) -> tuple[int, int]:
    """Bytes and lines of a part."""
    n_bytes = int(min(_PART_BYTES, limits.get("max_log_bytes", _PART_BYTES)))
    return n_bytes, int(limits.get("max_log_records", n_bytes))


def _part(body: bytes | bytearray, reminder: bytes) -> Part:
    if len(body) < _GZIP_FROM:
        return Part(bytes(body), NDJSON, reminder=reminder)
    # mtime 0: the same records are the same bytes, whenever they are sent
    return Part(gzip.compress(body, compresslevel=1, mtime=0), NDJSON, "gzip", reminder)


def _cut(path: Path, n_bytes: int, media_type: str, limit: int) -> Iterator[Part]:
    """Parts of at most `limit` bytes that end with a line; every part of a CSV begins with the header."""
    with path.open("rb") as file:
        head = file.readline() if media_type == _CSV else b""
        start = file.tell()
        while start < n_bytes:
            stop = min(start + limit - len(head), n_bytes)
            if stop < n_bytes:
                stop = _line_end(file, start, stop)
            yield Part(FileSlice(path, start, stop, head), media_type)
            start = stop


def _line_end(file: BinaryIO, start: int, stop: int) -> int:
    """The last end of a line in ``start..stop``.

    Raises
    ------
    TooLarge
        If a line is longer than that.
    """
    behind = stop
    while behind > start:
        first = max(start, behind - _LINE_BYTES)
        file.seek(first)
        found = file.read(behind - first).rfind(b"\n")
        if found >= 0:
            return first + found + 1
        behind = first
    raise TooLarge(
        f"{file.name} has a line of more than {stop - start} bytes from byte {start} on, this service takes no more "
        "in one post; check that it is a log with a record a line"
    )
