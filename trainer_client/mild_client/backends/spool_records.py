"""A record of a spool as bytes: a head with lengths and a checksum, what it is as JSON, and its body.

::

    offset  bytes
    0       4      magic b"MSR1"; the digit is the format's version
    4       4      bytes of the JSON object, big-endian
    8       8      bytes of the body
    16      4      CRC-32 of lengths, JSON object and body
    20             the JSON object, then the body
"""

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["open", "labels", "planted", "members", "epoch", "metrics", "finish"]

MAGIC = b"MSR1"
_HEAD = struct.Struct(">4sIQI")
_LENGTHS = struct.Struct(">IQ")


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One thing to be told to the service.

    Attributes
    ----------
    kind
        What it is.
    meta
        Its small parts, as JSON values: ``round``, ``epoch``, ``metrics`` and the like.
    body
        Its bits, in the wire format.
    """

    kind: Kind
    meta: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""

    @property
    def name(self) -> str:
        """What to call it in a message or a file: ``epoch-0-3``."""
        return "-".join([self.kind, *(str(self.meta[key]) for key in ("round", "epoch") if key in self.meta)])

    def encode(self) -> bytes:
        """The record as it is kept on disk."""
        meta = json.dumps({"kind": self.kind, **self.meta}, separators=(",", ":")).encode()
        lengths = _LENGTHS.pack(len(meta), len(self.body))
        checksum = zlib.crc32(self.body, zlib.crc32(meta, zlib.crc32(lengths)))
        return b"".join([MAGIC, lengths, checksum.to_bytes(4, "big"), meta, self.body])


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at a place of a file: a record, or bytes that are none, up to `end`."""

    record: Record | None
    end: int


def read(file: BinaryIO, offset: int, size: int) -> Found:
    """Read what stands at `offset` of a file of `size` bytes.

    Bytes that are no whole record, because a writer was killed or a disk has changed them, reach up to the next record
    or to the end.
    """
    file.seek(offset)
    head = file.read(_HEAD.size)
    if len(head) == _HEAD.size:
        magic, n_meta, n_body, checksum = _HEAD.unpack(head)
        end = offset + _HEAD.size + n_meta + n_body
        if magic == MAGIC and end <= size:
            meta, body = file.read(n_meta), file.read(n_body)
            whole = zlib.crc32(body, zlib.crc32(meta, zlib.crc32(head[4:16]))) == checksum
            if whole and (record := _decoded(meta, body)) is not None:
                return Found(record, end)
    file.seek(offset + 1)
    place = file.read(size - offset - 1).find(MAGIC)
    return Found(None, size if place < 0 else offset + 1 + place)


def _decoded(meta: bytes, body: bytes) -> Record | None:
    try:
        values = json.loads(meta)
        kind = values.pop("kind")
    except (ValueError, KeyError, AttributeError):
        return None
    return Record(kind, values, body) if kind in get_args(Kind) else None
