"""`RecordLog`, the append-only file with all writes to one run, from which a training resumes and the service is sent.

``records.log`` is a sequence of records, each with lengths and a checksum, a JSON object, and a body::

    offset  bytes
    0       4      magic b"MSR1"; the digit is the format's version
    4       4      bytes of the JSON object, big-endian
    8       8      bytes of the body
    16      4      CRC-32 of lengths, JSON object and body
    20             the JSON object, then the body

A killed process leaves at worst an incomplete record at the end. Readers skip it, and all other bytes that are no
record, so that the next process appends after them. The process that writes locks the file; the system releases the
lock when the process ends, even if it was killed.
"""

import contextlib
import json
import logging
import os
import struct
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

from mild_client.atomic_write import fsync_folder
from mild_client.errors import LocalStateError, SpoolFull, SpoolInUse
from mild_core.errors import MildError, get_reason

try:
    import fcntl
except ImportError:  # Windows: without the lock, it is up to the user that a run has one writer
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["open", "labels", "sample_ids", "planted", "members", "epoch", "metrics", "finish", "status"]

MAGIC = b"MSR1"
_HEAD = struct.Struct(">4sIQI")
_LENGTHS = struct.Struct(">IQ")
_CHUNK_SIZE = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One write to a run.

    Attributes
    ----------
    kind
        What the record writes, such as ``epoch``. ``open`` begins the run, or resumes it and discards what was written
        from the resumed position on. ``finish`` ends a round with the set that the next round trains on.
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
        """Name of the record in messages, such as ``epoch-0-3``."""
        return "-".join([self.kind, *(str(self.meta[key]) for key in ("round", "epoch") if key in self.meta)])

    def encode(self) -> bytes:
        """Return the record in the format of the module docstring."""
        meta = json.dumps({"kind": self.kind, **self.meta}, separators=(",", ":")).encode()
        lengths = _LENGTHS.pack(len(meta), len(self.body))
        checksum = zlib.crc32(self.body, zlib.crc32(meta, zlib.crc32(lengths)))
        return b"".join([MAGIC, lengths, checksum.to_bytes(4, "big"), meta, self.body])


@dataclass(frozen=True, slots=True)
class LogEntry:
    """The bytes of a log from `start` to `end`: a record, or None for damaged bytes."""

    record: Record | None
    start: int
    end: int


class RecordLog:
    """The log of one run, ``records.log`` in a folder, to which this process alone writes until `release`.

    Attributes
    ----------
    folder, path
        The folder, which the first record creates, and the file.
    is_full
        Whether a record could not be appended. No later one is appended then, as those before it would be missing.
    is_closed
        Whether the log was released.
    refusal
        Error of those who append to the log; None if they may.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "records.log"
        self.is_full = self.is_closed = False
        self.refusal: MildError | None = None
        self._unlock: Callable[[], object] | None = None

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def lock(self) -> None:
        """Lock the file, unless this log has it locked.

        Raises
        ------
        SpoolInUse
            If another process, or another log of this one, has locked it.
        OSError
            If the file cannot be written.
        """
        if self._unlock is not None:
            return
        file = self.path.open("ab", buffering=0)
        self._unlock = weakref.finalize(self, file.close)
        _locked_logs.add(self)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise SpoolInUse(
                f"{self.folder} is in use by another process, which writes to it or sends what is in it; wait until "
                "that has ended, or give another folder"
            ) from None
        except OSError as error:  # a file system without locks
            logger.warning("%s cannot be locked (%s); let no other process write to it", self.path, get_reason(error))

    def release(self, reason: str = "") -> None:
        """Release the lock; nothing more is appended, for a `reason` that completes the error message."""
        self.is_closed = True
        self.refusal = LocalStateError(
            f"the run in {self.folder} is not open here{reason}; open it, and write to it in the process that has "
            "opened it"
        )
        if self._unlock is not None:
            self._unlock()

    def check_open(self) -> None:
        """Raise the error of those who may not append to the log."""
        if self.refusal is not None:
            raise self.refusal

    def append(self, record: Record, is_durable: bool = True) -> None:
        """Append a record, and flush it to the disk if `is_durable`."""
        self.check_open()
        self._append_bytes(record.encode(), is_durable)

    def read(self, start: int = 0) -> Iterator[LogEntry]:
        """Iterate over the records from the offset `start` on, and over the damaged bytes between them."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while start < size:
                yield (entry := _read_entry(file, start, size))
                start = entry.end

    def clear(self) -> None:
        """Delete all records; raise SpoolFull if that is not possible."""
        try:
            if self.size:
                self.lock()
                os.truncate(self.path, 0)
        except OSError as error:
            raise self._stop_writing(error) from error

    def _append_bytes(self, content: bytes, is_durable: bool) -> None:
        """Append the bytes of a record; raise SpoolFull if they cannot be written, and truncate what was."""
        if self.is_full:
            raise SpoolFull(f"{self.folder} takes nothing more, as it is full; send what is in it, or make room")
        try:
            size = self.size
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock()
            with self.path.open("ab", buffering=0) as file:
                try:
                    n_written = 0
                    while n_written < len(content):
                        n_written += file.write(content[n_written:])
                    if is_durable:
                        os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):  # otherwise an incomplete record stays, which readers skip
                        file.truncate(size)
                    raise
            if not size:
                fsync_folder(self.folder)
        except OSError as error:
            raise self._stop_writing(error) from error

    def _stop_writing(self, error: OSError) -> SpoolFull:
        """Let nothing more be appended, and return the error that says why."""
        self.is_full = True
        return SpoolFull(
            f"{self.path} cannot be written ({get_reason(error)}); make room on the disk, or allow writing there"
        )


_locked_logs: weakref.WeakSet[RecordLog] = weakref.WeakSet()


def _release_logs() -> None:
    """Leave the logs to the process that this one was forked from, and do not keep a lock that it releases."""
    for log in list(_locked_logs):
        log.release(", as it was opened by the process that this one was forked from")


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_release_logs)


def _read_entry(file: BinaryIO, start: int, size: int) -> LogEntry:
    """Read the record at `start` of a file of `size` bytes, or the damaged bytes there, up to the next record."""
    file.seek(start)
    head = file.read(_HEAD.size)
    if len(head) == _HEAD.size:
        magic, n_meta, n_body, checksum = _HEAD.unpack(head)
        end = start + _HEAD.size + n_meta + n_body
        if magic == MAGIC and end <= size:
            meta, body = file.read(n_meta), file.read(n_body)
            is_intact = zlib.crc32(body, zlib.crc32(meta, zlib.crc32(head[4:16]))) == checksum
            if is_intact and (record := _decode_record(meta, body)) is not None:
                return LogEntry(record, start, end)
    return LogEntry(None, start, _find_magic(file, start + 1, size))


def _find_magic(file: BinaryIO, start: int, size: int) -> int:
    """Return the offset of the first magic number from `start` on, or `size` if there is none."""
    while start < size:
        file.seek(start)
        chunk = file.read(_CHUNK_SIZE + len(MAGIC) - 1)
        if (distance := chunk.find(MAGIC)) >= 0:
            return start + distance
        start += _CHUNK_SIZE
    return size


def _decode_record(meta: bytes, body: bytes) -> Record | None:
    """Return the record of a JSON object and a body; None if the JSON object is not that of a record."""
    try:
        values = json.loads(meta)
        kind = values.pop("kind")
    except (ValueError, KeyError, AttributeError):
        return None
    return Record(kind, values, body) if kind in get_args(Kind) else None
