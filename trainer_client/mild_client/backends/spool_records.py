"""The binary format of a spool's records: a header with lengths and a checksum, a JSON object, and a body.

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

Kind: TypeAlias = Literal["open", "labels", "sample_ids", "planted", "members", "epoch", "metrics", "finish", "status"]

MAGIC = b"MSR1"
_HEAD = struct.Struct(">4sIQI")
_LENGTHS = struct.Struct(">IQ")


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One write to the service, as stored in a spool.

    Attributes
    ----------
    kind
        What the record writes, such as ``epoch``.
    meta
        Parameters of the write as JSON values, such as ``round``, ``epoch`` and ``metrics``.
    body
        Arrays of the write, in the format of the HTTP API.
    """

    kind: Kind
    meta: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""

    @property
    def name(self) -> str:
        """Name of the record in messages and file names, such as ``epoch-0-3``."""
        return "-".join([self.kind, *(str(self.meta[key]) for key in ("round", "epoch") if key in self.meta)])

    def encode(self) -> bytes:
        """Return the record in the format of the module docstring."""
        meta = json.dumps({"kind": self.kind, **self.meta}, separators=(",", ":")).encode()
        lengths = _LENGTHS.pack(len(meta), len(self.body))
        checksum = zlib.crc32(self.body, zlib.crc32(meta, zlib.crc32(lengths)))
        return b"".join([MAGIC, lengths, checksum.to_bytes(4, "big"), meta, self.body])


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Result of `read_record`: a record, or None for damaged bytes, and the offset at which either ends."""

    record: Record | None
    end: int


def read_record(file: BinaryIO, offset: int, size: int) -> ReadResult:
    """Read the record at `offset` of a file of `size` bytes.

    If the bytes there are damaged, by a killed writer or a bad disk, the result has no record, and `end` is the offset
    of the next record or of the end of the file.
    """
    file.seek(offset)
    head = file.read(_HEAD.size)
    if len(head) == _HEAD.size:
        magic, n_meta, n_body, checksum = _HEAD.unpack(head)
        end = offset + _HEAD.size + n_meta + n_body
        if magic == MAGIC and end <= size:
            meta, body = file.read(n_meta), file.read(n_body)
            is_intact = zlib.crc32(body, zlib.crc32(meta, zlib.crc32(head[4:16]))) == checksum
            if is_intact and (record := _decode_record(meta, body)) is not None:
                return ReadResult(record, end)
    file.seek(offset + 1)
    distance = file.read(size - offset - 1).find(MAGIC)
    return ReadResult(None, size if distance < 0 else offset + 1 + distance)


def _decode_record(meta: bytes, body: bytes) -> Record | None:
    """Return the record of a JSON object and a body; None if the JSON object is not that of a record."""
    try:
        values = json.loads(meta)
        kind = values.pop("kind")
    except (ValueError, KeyError, AttributeError):
        return None
    return Record(kind, values, body) if kind in get_args(Kind) else None
