"""Conversion of prediction logs (arrays, records and files) into request bodies within the service's limits."""

import codecs
import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_client.errors import TooLarge
from mild_client.requests import JSON, NDJSON, FileSlice
from mild_core.errors import ParameterError

EpochKey: TypeAlias = tuple[int, int]
"""Round and epoch."""

SamplesBy: TypeAlias = Literal["ids", "indices"]
"""How a log names samples."""

CARTOGRAPHY = "application/x-cartography+ndjson"
_CSV = "text/csv"
_ARROW = "application/vnd.apache.arrow.stream"
_PARQUET = "application/vnd.apache.parquet"

MEDIA_TYPES: Mapping[str, str] = {
    ".json": JSON,
    ".ndjson": NDJSON,
    ".jsonl": NDJSON,
    ".csv": _CSV,
    ".tsv": _CSV,
    ".arrows": _ARROW,
    ".arrow": _ARROW,
    ".feather": _ARROW,
    ".parquet": _PARQUET,
}
"""Content type of a log by the extension of its file; ``.arrow`` and ``.feather`` are Arrow files, not streams."""
_ENCODINGS = {".gz": "gzip", ".zst": "zstd"}
_ENCODING_MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files."""
_FORMAT_MARKS = {b"PAR1": _PARQUET, b"ARROW1": _ARROW}
"""First bytes of binary logs."""
_TABLE_BY_COLUMNS = re.compile(rb'\{\s*"[^"]*"\s*:\s*(\{\s*"0"|\[)')
"""The beginning of a JSON object of columns, each with its values by row, as pandas writes it by default."""
_LOGITS = re.compile(rb'"logits_epoch_[0-9]+"\s*:')
_HEAD_BYTES = 64 * 1024
"""Bytes at the beginning of a log that tell its format."""

_PART_BYTES = 8 * 1024 * 1024
"""Largest size of a part built in memory, before compression."""
_MIN_GZIP_BYTES = 1024
"""Shorter parts are sent uncompressed."""
_SEARCH_BYTES = 1024 * 1024
"""Bytes read at once to find the end of a line."""


@dataclass(frozen=True, slots=True)
class LogPart:
    """Part of a prediction log that is sent as one request body.

    Attributes
    ----------
    content, media_type, encoding
        The body, its content type, and its compression: ``gzip``, ``zstd`` or None.
    epochs_body
        A smaller body with one record of each epoch in the part. None if there is no smaller body than `content`.
    """

    content: bytes | FileSlice
    media_type: str
    encoding: str | None = None
    epochs_body: bytes | None = None

    def build_headers(self) -> dict[str, str]:
        """Return the headers of the body, without those that are added when it is sent."""
        return {"Content-Type": self.media_type, **({"Content-Encoding": self.encoding} if self.encoding else {})}

    def make_epochs_part(self) -> "LogPart":
        """Return a part with one record of each epoch in this part, or this part if there is no smaller one."""
        return self if self.epochs_body is None else LogPart(self.epochs_body, self.media_type)


def split_arrays(
    epoch_key: EpochKey,
    samples: NDArray[np.integer] | NDArray[np.str_],
    predicted: NDArray[np.integer],
    labels: NDArray[np.integer],
    limits: Mapping[str, float],
) -> Iterator[LogPart]:
    """Convert the predictions of one epoch into records, and yield them in parts.

    Parameters
    ----------
    epoch_key
        Round and epoch.
    samples
        Shape (n_records,), indices or external ids of the samples.
    predicted, labels
        Shape (n_records,), the predicted classes and the given labels.
    limits
        Limits of the service by name. ``max_log_bytes`` and ``max_log_records`` bound a part; an absent limit does not.

    Raises
    ------
    ParameterError
        If `samples` has another type than integers or strings.
    """
    if samples.ndim != 1 or samples.dtype.kind not in "iuU":
        raise ParameterError(
            f"samples has shape {samples.shape} and type {samples.dtype}; give integers or external ids of shape "
            "(n_records,)"
        )
    is_text = samples.dtype.kind == "U"
    names = [json.dumps(name).encode() for name in samples.tolist()] if is_text else samples.tolist()
    template = b'{"round":%d,"epoch":%d,"sample":%%%b,"predicted":%%d,"label":%%d}\n'
    line = template % (*epoch_key, b"b" if is_text else b"d")
    rows = zip(names, predicted.tolist(), labels.tolist(), strict=True)
    return _group_lines(((epoch_key, line % row) for row in rows), limits)


def split_records(records: Iterable[Mapping[str, Any]], limits: Mapping[str, float]) -> Iterator[LogPart]:
    """Encode records as lines of JSON, and yield them grouped into parts, each the body of one request.

    Parameters
    ----------
    records
        Each has ``epoch``, ``sample``, and either ``correct`` or ``predicted`` and ``label``. ``round`` is 0 by
        default.
    limits
        Limits of the service by name. ``max_log_bytes`` and ``max_log_records`` bound a part; an absent limit does not.

    Raises
    ------
    ParameterError
        If a record cannot be encoded as JSON, or has no ``epoch``.
    """
    return _group_lines(map(_encode_record, records), limits)


def detect_format(path: Path, media_type: str | None = None) -> tuple[str, str | None]:
    """Return the content type of a log file, and its compression: ``gzip``, ``zstd`` or None.

    The first bytes decide where they are unmistakable: of compressed files, Parquet and Arrow, JSON lines in a
    ``.json`` and Cartography's lines. Otherwise the extension decides.

    Parameters
    ----------
    path
        The file.
    media_type
        The content type, where it is known; only the compression is detected then.

    Raises
    ------
    ParameterError
        If there is no such file, the extension is unknown, or the file is JSON that is no log.
    """
    head, encoding = _read_head(path)
    if media_type is not None:
        return media_type, encoding
    name = path.with_suffix("") if path.suffix.lower() in _ENCODINGS else path
    detected = next((kind for mark, kind in _FORMAT_MARKS.items() if head.startswith(mark)), None)
    detected = detected or MEDIA_TYPES.get(name.suffix.lower())
    if detected is None:
        raise ParameterError(
            f"the extension of {path.name!r} is none of {', '.join(MEDIA_TYPES)} (with .gz or .zst behind it, where it "
            "is compressed); rename the file, or say which content type it has"
        )
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if detected == JSON and text.startswith(b"{"):
        detected = NDJSON
    if detected == NDJSON and text.startswith(b"["):
        detected = JSON
    return _detect_json_lines(path, text) if detected == NDJSON else detected, encoding


def _read_head(path: Path) -> tuple[bytes, str | None]:
    """Return the first bytes of a log, decompressed, and its compression; zstd is not decompressed."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise ParameterError(f"there is no log {path}; give the path of a file") from None
    except IsADirectoryError:
        raise ParameterError(f"the log {path} is a folder; give one of the files in it") from None
    except OSError as error:
        raise ParameterError(f"the log {path} cannot be read ({error.strerror}); give a file that can be") from error
    encoding = next((kind for mark, kind in _ENCODING_MARKS.items() if head.startswith(mark)), None)
    return _inflate_head(head) if encoding == "gzip" else head, encoding


def _inflate_head(compressed: bytes) -> bytes:
    """Return the first bytes of a gzip stream of one or several members; none of what is damaged."""
    head = b""
    with contextlib.suppress(zlib.error):  # who reads all of it says what is wrong
        while compressed and len(head) < _HEAD_BYTES:
            inflater = zlib.decompressobj(wbits=31)
            head += inflater.decompress(compressed, _HEAD_BYTES - len(head))
            compressed = inflater.unused_data
    return head


def _detect_json_lines(path: Path, head: bytes) -> str:
    """Return the content type of lines of JSON by the first line; raise ParameterError if it is a table by columns."""
    if _TABLE_BY_COLUMNS.match(head):
        raise ParameterError(
            f"{path.name} holds a table by columns and not by records; write it with to_json(orient='records', "
            "lines=True), as pandas calls it"
        )
    return CARTOGRAPHY if _LOGITS.search(head.partition(b"\n")[0]) else NDJSON


def split_file(path: Path, media_type: str | None, limits: Mapping[str, float]) -> Iterator[LogPart]:
    """Yield a log file as one part, or as several parts of whole lines if it is too long for one request.

    Parameters
    ----------
    path
        The file.
    media_type
        Content type of the file. None detects it (`detect_format`).
    limits
        Limits of the service by name. ``max_log_bytes`` bounds a part; without it, there is one part.

    Raises
    ------
    ParameterError
        If there is no such file, or `media_type` is None and the content type is unknown.
    TooLarge
        If the file is too long for one request, and is compressed or has a format without lines.
    """
    media_type, encoding = detect_format(path, media_type)
    n_bytes = path.stat().st_size
    limit = int(limits.get("max_log_bytes", n_bytes))
    if n_bytes <= limit:
        yield LogPart(FileSlice(path, 0, n_bytes), media_type, encoding)
    elif encoding is None and media_type in (_CSV, NDJSON, CARTOGRAPHY):
        yield from _split_lines(path, n_bytes, media_type, limit)
    else:
        raise TooLarge(
            f"{path.name} has {n_bytes} bytes, this service takes {limit} in one post and the format cannot be cut; "
            "write it in several files, or as lines (.csv, .ndjson) that are not compressed"
        )


def _encode_record(record: Mapping[str, Any]) -> tuple[EpochKey, bytes]:
    """Return the round and epoch of a record, and the record as a line of JSON."""
    try:
        text = json.dumps(dict(record), separators=(",", ":"), allow_nan=False, default=_to_python_scalar)
        return (int(record.get("round") or 0), int(record["epoch"])), f"{text}\n".encode()
    except (TypeError, ValueError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ParameterError(
            f"record {dict(record)!r:.200} cannot be sent ({reason}); give `epoch`, `sample` and `correct`, "
            "or `predicted` and `label`, as integers"
        ) from error


def _to_python_scalar(value: object) -> object:
    """Convert a numpy scalar to a Python scalar, for `json.dumps`."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no number")


def _group_lines(lines: Iterable[tuple[EpochKey, bytes]], limits: Mapping[str, float]) -> Iterator[LogPart]:
    """Group encoded records into parts within the limits."""
    max_bytes = int(min(_PART_BYTES, limits.get("max_log_bytes", _PART_BYTES)))
    max_lines = int(limits.get("max_log_records", max_bytes))
    body, epoch_lines, n_lines = bytearray(), dict[EpochKey, bytes](), 0
    for key, line in lines:
        if n_lines and (len(body) + len(line) > max_bytes or n_lines == max_lines):
            yield _make_part(body, b"".join(epoch_lines.values()))
            body, epoch_lines, n_lines = bytearray(), {}, 0
        body += line
        n_lines += 1
        epoch_lines.setdefault(key, line)
    if n_lines:
        yield _make_part(body, b"".join(epoch_lines.values()))


def _make_part(body: bytes | bytearray, epochs_body: bytes) -> LogPart:
    """Make a part of JSON lines, compressed unless `body` is short."""
    if len(body) < _MIN_GZIP_BYTES:
        return LogPart(bytes(body), NDJSON, epochs_body=epochs_body)
    # mtime 0: the same records give the same bytes at any time
    return LogPart(gzip.compress(body, compresslevel=1, mtime=0), NDJSON, "gzip", epochs_body)


def _split_lines(path: Path, n_bytes: int, media_type: str, limit: int) -> Iterator[LogPart]:
    """Yield parts of whole lines, of at most `limit` bytes each; each part of a CSV begins with its header."""
    with path.open("rb") as file:
        header = file.readline() if media_type == _CSV else b""
        if header.removeprefix(codecs.BOM_UTF8).startswith(b"sep="):  # by which spreadsheets name the separator
            header += file.readline()
        start = file.tell()
        while start < n_bytes:
            stop = min(start + limit - len(header), n_bytes)
            if stop < n_bytes:
                stop = _find_record_end(file, start, stop, quotes=media_type == _CSV)
            yield LogPart(FileSlice(path, start, stop, header), media_type)
            start = stop


def _find_record_end(file: BinaryIO, start: int, stop: int, quotes: bool) -> int:
    """Return the position after the last record that ends between `start` and `stop`; raise TooLarge if none does.

    A record ends with a line; with `quotes`, line ends in quoted values do not count.
    """
    file.seek(start)
    end, is_quoted = start, False
    for first in range(start, stop, _SEARCH_BYTES):
        block = file.read(min(_SEARCH_BYTES, stop - first))
        if not quotes or not (is_quoted or b'"' in block):
            newline = block.rfind(b"\n")
            end = end if newline < 0 else first + newline + 1
            continue
        text = np.frombuffer(block, dtype=np.uint8)
        is_inside = (np.cumsum(text == ord('"')) + is_quoted) % 2 == 1
        ends = np.flatnonzero((text == ord("\n")) & ~is_inside)
        end = first + int(ends[-1]) + 1 if ends.size else end
        is_quoted = bool(is_inside[-1])
    if end == start:
        raise TooLarge(
            f"{file.name} has a line of more than {stop - start} bytes from byte {start} on, this service takes no "
            "more in one post; check that it is a log with a record a line"
        )
    return end
