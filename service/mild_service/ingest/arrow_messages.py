"""What Arrow's messages claim, looked at before they are inflated: its reader takes whatever they say.

A message's head is a FlatBuffer; pyarrow does not show what is in it.
"""

import struct
from typing import Any

import pyarrow

from mild_service.errors import MalformedBody
from mild_service.ingest.records import Limits, too_large

_HEADER = 2
"""The field of a message that holds its batch."""
_DATA = 1
"""The field of a dictionary batch that holds its values' batch."""
_BUFFERS, _COMPRESSION = 2, 3
"""Fields of a batch."""


def check_messages(source: Any, limits: Limits) -> None:
    """Refuse a stream with a compressed batch that takes too much memory; `source` is left at its end.

    Raises
    ------
    LimitExceeded
        If there is one.
    MalformedBody
        If a message cannot be read.
    """
    for message in pyarrow.ipc.MessageReader.open_stream(source):
        if message.type not in ("record batch", "dictionary"):
            continue
        try:
            n_bytes = _inflated(message)
        except (struct.error, OverflowError) as error:
            raise MalformedBody(
                f"the body is no Arrow IPC stream (a message's head: {error}); write it again"
            ) from error
        if n_bytes > limits.block_bytes:
            raise too_large(f"a batch has {n_bytes} bytes when inflated", "shorter batches", limits)


def _inflated(message: Any) -> int:
    """Bytes of a batch's compressed buffers when they are inflated; may raise `struct.error`."""
    head, body = memoryview(message.metadata), message.body
    batch = _follow(head, _field(head, _follow(head, 0), _HEADER))
    if message.type == "dictionary":
        batch = _follow(head, _field(head, batch, _DATA))
    if not _field(head, batch, _COMPRESSION) or not (place := _field(head, batch, _BUFFERS)) or body is None:
        return 0
    buffers, content = _follow(head, place), memoryview(body)
    total = 0
    for number in range(_unpack("<I", head, buffers)[0]):
        offset, n_bytes = _unpack("<qq", head, buffers + 4 + 16 * number)
        if n_bytes >= 8:
            total += max(0, _unpack("<q", content, offset)[0])  # -1: this one is not compressed
    return total


def _field(head: memoryview, table: int, number: int) -> int:
    """The place of a table's field; 0 where it has none."""
    fields = table - _unpack("<i", head, table)[0]
    entry = 4 + 2 * number
    if entry >= _unpack("<H", head, fields)[0]:
        return 0
    offset = _unpack("<H", head, fields + entry)[0]
    return table + offset if offset else 0


def _follow(head: memoryview, place: int) -> int:
    return place + _unpack("<I", head, place)[0]


def _unpack(form: str, data: memoryview, place: int) -> tuple[int, ...]:
    if place < 0:  # which Python would count from the end
        raise struct.error(f"it points to byte {place}")
    return struct.unpack_from(form, data, place)
