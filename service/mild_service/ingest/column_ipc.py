"""Columns on their way from the process that reads a body to the one that asked for it: a head in JSON, then numbers.

A body may have taken over the process that reads it, so nothing that comes is trusted: no pickles, and every length
is bounded.
"""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from mild_core.errors import MildError
from mild_core.sample_ids import MAX_ID_BYTES
from mild_service.errors import BadRecord, LimitExceeded, MalformedBody
from mild_service.ingest.columns import FIELDS, Column, Numbers

BATCH_ROWS = 64 * 1024
"""Most rows of a block."""
_HEAD_BYTES = 64 * 1024
_LENGTH = struct.Struct("<I")
_TEXT_BYTES = 6 * MAX_ID_BYTES + 3
"""Of an id in JSON, where a control character takes six bytes, with quotes and a comma."""
_KINDS = {name: np.dtype(name) for name in ("bool", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)))}
_REFUSALS = {kind.code: kind for kind in (BadRecord, LimitExceeded, MalformedBody)}
Head: TypeAlias = dict[str, Any]


class Broken(Exception):
    """The other side went away before its last word, or said what makes no sense."""


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """A column of texts: each row's text, or None; with `places`, each row's place among the texts, -1 for none."""

    texts: list[str | None]
    places: Numbers | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some rows: columns by their names, of integers (of any width, not checked) or texts."""

    n_rows: int
    columns: Mapping[str, Column | Texts]


def send_head(channel: socket.socket, head: Head) -> None:
    """Send a message without columns."""
    message = orjson.dumps(head)
    channel.sendall(_LENGTH.pack(len(message)) + message)


def send_refusal(channel: socket.socket, error: MildError) -> None:
    """Send why the body cannot be read."""
    send_head(channel, {"refused": error.code, "detail": str(error)[:4000], "line": error.line})


def send_block(channel: socket.socket, block: Block) -> None:
    """Send some rows."""
    columns: list[tuple[str, str | int, bool]] = []
    parts: list[bytes | NDArray[Any] | None] = []
    for name, column in block.columns.items():
        if isinstance(column, Texts):
            texts = orjson.dumps(column.texts)
            columns.append((name, len(texts), column.places is not None))
            parts += [texts, column.places]
        else:
            columns.append((name, column.values.dtype.name, column.absent is not None))
            parts += [column.values, column.absent]
    send_head(channel, {"rows": block.n_rows, "columns": columns})
    for part in parts:
        if part is not None:
            channel.sendall(np.ascontiguousarray(part).view(np.uint8).data if isinstance(part, np.ndarray) else part)


def receive_head(channel: socket.socket) -> Head:
    """A message's head; may raise `Broken`."""
    (n_bytes,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    try:
        if n_bytes <= _HEAD_BYTES and isinstance(head := orjson.loads(_exactly(channel, n_bytes)), dict):
            return head
    except orjson.JSONDecodeError:
        pass
    raise Broken(f"a head of {n_bytes} bytes")


def receive_block(channel: socket.socket) -> Block | None:
    """Some rows, None behind the last.

    Raises
    ------
    BadRecord, LimitExceeded, MalformedBody
        If the other side has refused the body.
    Broken
        If it went away, or makes no sense.
    """
    head = receive_head(channel)
    if "refused" in head:
        raise _refusal(head)
    n_rows, columns = head.get("rows"), head.get("columns")
    if n_rows is None:
        return None
    if type(n_rows) is not int or not 0 <= n_rows <= BATCH_ROWS or type(columns) is not list:
        raise Broken("a block of impossible length")
    found: dict[str, Column | Texts] = {}
    for entry in columns:
        if type(entry) is not list or len(entry) != 3 or entry[0] not in FIELDS or entry[0] in found:
            raise Broken("an unknown column")
        name, kind, more = entry
        found[name] = _texts(channel, n_rows, kind, more) if type(kind) is int else _column(channel, n_rows, kind, more)
    return Block(n_rows, found)


def _refusal(head: Head) -> MildError:
    kind, line = _REFUSALS.get(str(head["refused"])), head.get("line")
    if kind is None or not (line is None or type(line) is int):
        raise Broken("an unknown refusal")
    error = kind(str(head.get("detail")))
    error.line = line
    return error


def _column(channel: socket.socket, n_rows: int, kind: object, absent: object) -> Column:
    if not isinstance(kind, str) or kind not in _KINDS:
        raise Broken("a column of an unknown kind")
    values = _array(channel, n_rows, _KINDS[kind]).astype(np.int64, copy=False)
    return Column(values, _array(channel, n_rows, _KINDS["uint8"]) != 0 if absent else None)


def _texts(channel: socket.socket, n_rows: int, n_bytes: int, placed: object) -> Texts:
    if not 0 <= n_bytes <= n_rows * _TEXT_BYTES + 2:
        raise Broken("texts of impossible length")
    try:
        texts = orjson.loads(_exactly(channel, n_bytes))
    except orjson.JSONDecodeError as error:
        raise Broken("texts that are none") from error
    if type(texts) is not list or not set(map(type, texts)) <= {str, type(None)}:
        raise Broken("texts that are none")
    if not placed:
        places, fits = None, len(texts) == n_rows
    else:
        places = _array(channel, n_rows, _KINDS["int64"])
        fits = bool(((places >= -1) & (places < len(texts))).all())
    if not fits:
        raise Broken("texts at impossible places")
    return Texts(texts, places)


def _array(channel: socket.socket, n_rows: int, kind: np.dtype[Any]) -> NDArray[Any]:
    array = np.empty(n_rows, dtype=kind)
    _fill(channel, array.view(np.uint8).data)
    return array


def _exactly(channel: socket.socket, n_bytes: int) -> bytes:
    content = bytearray(n_bytes)
    _fill(channel, memoryview(content))
    return bytes(content)


def _fill(channel: socket.socket, place: memoryview) -> None:
    while place:
        try:
            n_bytes = channel.recv_into(place)
        except OSError as error:
            raise Broken(str(error)) from error
        if n_bytes == 0:
            raise Broken("it ended in the middle")
        place = place[n_bytes:]
