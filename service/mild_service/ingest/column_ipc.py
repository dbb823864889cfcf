"""Sends columns from a sandboxed process to the service: a header in JSON, then arrays.

A hostile body may control the sandboxed process, so what it sends is not trusted: nothing is unpickled, and every
length is bounded.
"""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from mild_core.errors import MildError
from mild_core.log_columns import FIELDS
from mild_core.sample_ids import MAX_ID_BYTES
from mild_service.errors import BadRecord, LimitExceeded, MalformedBody
from mild_service.ingest.columns import Numbers, Values

BATCH_ROWS = 64 * 1024
"""Most rows of a block."""
_HEADER_BYTES = 64 * 1024
_LENGTH = struct.Struct("<I")
_TEXT_BYTES = 6 * MAX_ID_BYTES + 3
"""Most bytes of an id in JSON: six per control character, with quotes and a comma."""
_KINDS = {name: np.dtype(name) for name in ("bool", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)))}
_ERRORS = {kind.code: kind for kind in (BadRecord, LimitExceeded, MalformedBody)}
Header: TypeAlias = dict[str, Any]


class ChannelError(Exception):
    """The process at the other end closed the channel too early, or sent an invalid message."""


@dataclass(frozen=True, slots=True, eq=False)
class TextColumn:
    """A column of strings as it is sent, some of which may be absent.

    Attributes
    ----------
    texts
        Text of each row, None if absent; with `positions`, the distinct texts.
    positions
        Position of each row's text in `texts`, -1 if absent; shape (n_rows,). None if `texts` has one text per row.
    """

    texts: list[str | None]
    positions: Numbers | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive rows of a table, as they are received: fields by name, of texts or of integers, not checked yet."""

    n_rows: int
    fields: Mapping[str, Values]


def send_header(channel: socket.socket, header: Header) -> None:
    """Send the header of a message, to which columns may follow."""
    message = orjson.dumps(header)
    channel.sendall(_LENGTH.pack(len(message)) + message)


def send_error(channel: socket.socket, error: MildError) -> None:
    """Send the error for a body that cannot be read, in place of a block."""
    send_header(channel, {"refused": error.code, "detail": str(error)[:4000], "line": error.line})


def send_block(channel: socket.socket, n_rows: int, columns: Mapping[str, NDArray[Any] | TextColumn]) -> None:
    """Send a block: a header with its size and columns, then the arrays.

    Integers are sent in their own type; `NO_VALUE` where a row has none.
    """
    heads: list[tuple[str, str | int, bool]] = []
    parts: list[bytes | NDArray[Any] | None] = []
    for name, column in columns.items():
        if isinstance(column, TextColumn):
            texts = orjson.dumps(column.texts)
            heads.append((name, len(texts), column.positions is not None))
            parts += [texts, column.positions]
        else:
            heads.append((name, column.dtype.name, False))
            parts.append(column)
    send_header(channel, {"rows": n_rows, "columns": heads})
    for part in parts:
        if part is not None:
            channel.sendall(np.ascontiguousarray(part).view(np.uint8).data if isinstance(part, np.ndarray) else part)


def receive_header(reader: IO[bytes]) -> Header:
    """Receive the header of a message."""
    (n_bytes,) = _LENGTH.unpack(_receive(reader, _LENGTH.size))
    try:
        if n_bytes <= _HEADER_BYTES and isinstance(header := orjson.loads(_receive(reader, n_bytes)), dict):
            return header
    except orjson.JSONDecodeError:
        pass
    raise ChannelError(f"a header of {n_bytes} bytes")


def receive_block(reader: IO[bytes]) -> Block | None:
    """Receive the next block; return None after the last one."""
    header = receive_header(reader)
    if "refused" in header:
        raise _decode_error(header)
    n_rows, columns = header.get("rows"), header.get("columns")
    if n_rows is None:
        return None
    if type(n_rows) is not int or not 0 <= n_rows <= BATCH_ROWS or type(columns) is not list:
        raise ChannelError("a block of impossible length")
    received: dict[str, Values] = {}
    for entry in columns:
        if type(entry) is not list or len(entry) != 3 or entry[0] not in FIELDS or entry[0] in received:
            raise ChannelError("an unknown column")
        name, kind, has_positions = entry
        if type(kind) is int:
            received[name] = _receive_texts(reader, n_rows, kind, has_positions)
        elif type(kind) is str and kind in _KINDS:
            received[name] = _receive_array(reader, n_rows, _KINDS[kind]).astype(np.int64, copy=False)
        else:
            raise ChannelError("a column of an unknown kind")
    return Block(n_rows, received)


def _decode_error(header: Header) -> MildError:
    """Return the error that `send_error` has sent."""
    kind, line = _ERRORS.get(str(header["refused"])), header.get("line")
    if kind is None or not (line is None or type(line) is int):
        raise ChannelError("an unknown refusal")
    error = kind(str(header.get("detail")))
    error.line = line
    return error


def _receive_texts(reader: IO[bytes], n_rows: int, n_bytes: int, has_positions: object) -> list[str | None]:
    """Receive a column of texts that take `n_bytes` bytes as JSON; raise `ChannelError` if it is invalid."""
    if not 0 <= n_bytes <= n_rows * _TEXT_BYTES + 2:
        raise ChannelError("texts of impossible length")
    try:
        texts = orjson.loads(_receive(reader, n_bytes))
    except orjson.JSONDecodeError as error:
        raise ChannelError("invalid texts") from error
    if type(texts) is not list or not set(map(type, texts)) <= {str, type(None)}:
        raise ChannelError("invalid texts")
    if has_positions:
        positions, texts = _receive_array(reader, n_rows, _KINDS["int64"]), [*texts, None]
        if not ((positions >= -1) & (positions < len(texts) - 1)).all():
            raise ChannelError("texts at impossible positions")
        texts = [texts[position] for position in positions.tolist()]
    if len(texts) != n_rows:
        raise ChannelError("texts of another number")
    return texts


def _receive_array(reader: IO[bytes], n_rows: int, kind: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(_receive(reader, n_rows * kind.itemsize), dtype=kind)


def _receive(reader: IO[bytes], n_bytes: int) -> bytes:
    """Receive that many bytes."""
    try:
        content = reader.read(n_bytes)
    except OSError as error:
        raise ChannelError(str(error)) from error
    if len(content) < n_bytes:
        raise ChannelError("the message is incomplete")
    return content
