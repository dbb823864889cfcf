"""`Spool`, a queue on disk of the records of one run, which the trainer appends and a thread sends.

::

    FOLDER/                 spool of one run, named after the run
      spool.json            version of this layout, run, number of samples, address of the service
      lock                  held by the process that writes or sends
      00000000.log, ...     segments of records (`spool_records`), appended to and never changed
      sent.json             position of the next record to send, and the attempt number to send with it
      refused/              refused or damaged records, each with a text file that gives the reason

A killed process leaves at worst an incomplete record at the end of the last segment, which the next process moves to
``refused/``. Sent segments are deleted. The system releases the lock when the process ends, even if it was killed.
"""

import contextlib
import json
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from mild_client.atomic_write import fsync_folder, write_atomically
from mild_client.backends.spool_records import Record, read_record
from mild_client.errors import SpoolError, SpoolFull, SpoolInUse
from mild_core.errors import get_reason

try:
    import fcntl
except ImportError:  # Windows: without the lock, it is up to the user that a spool has one writer
    fcntl = None  # type: ignore[assignment]


class SpoolLock:
    """Exclusive lock of a folder by this process, until `release`."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "lock").open("a")
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise SpoolInUse(
                f"{folder} is in use by another process, which sends what is in it; wait until that has ended"
            ) from None

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


logger = logging.getLogger(__name__)

VERSION = 1
MARKER_NAME = "spool.json"
"""Name of the file that marks a folder as a spool."""
_SEGMENT_BYTES = 4 << 20


class Spool:
    """Spool of one run, locked by this process until `close`; one thread may append while another one sends.

    Parameters
    ----------
    folder
        Folder of the spool.
    limit
        Largest number of bytes of unsent records.
    segment_bytes
        Size in bytes at which a new segment begins.
    """

    def __init__(self, folder: Path, limit: int = 1 << 40, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.folder, self._limit, self._segment_bytes = folder, limit, segment_bytes
        self.is_full = False
        self.is_closed = False
        self._has_warned = False
        self._mutex = threading.Lock()
        self._metadata = _read_metadata(folder)
        self._lock = SpoolLock(folder)
        self._segment_file: IO[bytes] | None = None
        self._peeked: tuple[Record, int] | None = None
        try:
            self._segment, self._offset, self.attempt = self._read_progress()
            self._last_segment, self._last_segment_size = self._segment, 0
            self.n_unsent = self.n_unsent_bytes = 0
            self._count_unsent()
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def create(cls, folder: Path, run_id: str, n_samples: int, url: str | None, limit: int) -> Self:
        """Create the spool of a run, or open the existing one.

        Parameters
        ----------
        folder, run_id, n_samples
            Folder of the spool, and the id and the number of samples of the run.
        url
            Address of the service, which replaces the stored one; None keeps the stored address.
        limit
            Largest number of bytes of unsent records.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            metadata: dict[str, Any] = {"version": VERSION, "run_id": run_id, "num_samples": n_samples, "url": url}
            if not (folder / MARKER_NAME).exists():
                write_atomically(folder / MARKER_NAME, _encode_json(metadata))
            spool = cls(folder, limit)
            if (spool.run_id, spool.n_samples) != (run_id, n_samples):
                spool.close()
                raise SpoolError(
                    f"{folder} is the spool of run {spool.run_id!r} of {spool.n_samples} samples, got {run_id!r} of "
                    f"{n_samples}; choose another run id or another folder"
                )
            if url not in (None, spool.url):
                spool._metadata = metadata
                write_atomically(folder / MARKER_NAME, _encode_json(metadata))
        except OSError as error:
            raise SpoolError(
                f"{folder} cannot be written ({get_reason(error)}); give another folder for the spool"
            ) from error
        return spool

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return str(self._metadata["run_id"])

    @property
    def n_samples(self) -> int:
        """Number of samples of the run."""
        return int(self._metadata["num_samples"])

    @property
    def url(self) -> str | None:
        """Stored address of the service; None if there is none."""
        url = self._metadata["url"]
        return None if url is None else str(url)

    @property
    def is_fresh(self) -> bool:
        """Whether the spool has never had a record, and the run was never opened at the service."""
        return self.attempt is None and (self._segment, self._offset, self._last_segment, self._last_segment_size) == (
            0,
            0,
            0,
            0,
        )

    def append(self, record: Record, is_durable: bool = True) -> None:
        """Append a record, and flush it to the disk if `is_durable`."""
        content = record.encode()
        with self._mutex:
            if self.is_full:
                raise SpoolFull(f"{self.folder} takes nothing more, as it is full; send what is in it, or make room")
            if self.n_unsent_bytes + len(content) > self._limit:
                self.is_full = True
                raise SpoolFull(
                    f"{self.folder} holds {self.n_unsent_bytes} bytes that are not sent and may hold {self._limit}, "
                    f"{record.name} takes {len(content)} more; raise MILD_SPOOL_BYTES, or bring the service back"
                )
            try:
                self._write_bytes(content, is_durable)
            except OSError as error:
                self.is_full = True
                raise SpoolFull(
                    f"{self.folder} cannot be written ({get_reason(error)}); make room on the disk"
                ) from error
            self._last_segment_size += len(content)
            self.n_unsent += 1
            self.n_unsent_bytes += len(content)

    def peek(self) -> Record | None:
        """Return the oldest unsent record, or None if all are sent; move damaged bytes before it to ``refused/``."""
        while True:
            with self._mutex:
                if self.is_closed:
                    return None
                if self._peeked is not None:
                    return self._peeked[0]
                if (
                    self._segment < self._last_segment
                    and self._offset >= self._segment_path(self._segment).stat().st_size
                ):
                    self._delete_sent_segment()
                    continue
                size = (
                    self._last_segment_size
                    if self._segment == self._last_segment
                    else self._segment_path(self._segment).stat().st_size
                )
                if self._offset >= size:
                    return None
                with self._segment_path(self._segment).open("rb") as file:
                    entry = read_record(file, self._offset, size)
                    if entry.record is None:
                        self._copy_damaged_bytes(
                            file, self._segment, self._offset, entry.end, "damaged: its checksum is wrong"
                        )
                        self._offset = entry.end
                        continue
                self._peeked = (entry.record, entry.end)

    def advance(self) -> None:
        """Mark the record that `peek` returned as sent."""
        with self._mutex:
            if self._peeked is None or self.is_closed:
                return
            _, end = self._peeked
            self._peeked = None
            self.n_unsent -= 1
            self.n_unsent_bytes -= end - self._offset
            self._offset = end
        self._write_progress()  # outside the mutex, so that writers do not wait for the disk

    def set_attempt(self, attempt: int) -> None:
        """Store the attempt number that is sent with the following records."""
        self.attempt = attempt
        self._write_progress()

    def copy_to_refused(self, reason: str) -> Path:
        """Copy the record that `peek` returned, and the `reason`, to ``refused/``, and return the path of the copy."""
        assert self._peeked is not None
        record, _ = self._peeked
        name = f"{self._segment:08d}-{self._offset:010d}-{record.name}"
        try:
            return self._write_refused(name, record.encode(), reason)
        except OSError as error:
            raise SpoolFull(
                f"{record.name} was refused ({reason}) and cannot be set aside in {self.folder} ({get_reason(error)}); "
                "make room on the disk"
            ) from error

    @property
    def n_refused(self) -> int:
        """Number of records in ``refused/``."""
        return len(self.list_refused())

    def list_refused(self) -> list["RefusedRecord"]:
        """Return the records in ``refused/``, in the order in which they were written."""
        return [RefusedRecord(path.with_suffix(".record")) for path in sorted(self.folder.glob("refused/*.txt"))]

    def close(self) -> None:
        """Release the lock, and delete the last segment if all records are sent."""
        with self._mutex:
            if self.is_closed:
                return
            self.is_closed = True
            if self._segment_file is not None:
                self._segment_file.close()
            if not self.n_unsent and self._segment_path(self._last_segment).exists():
                self._segment_path(self._last_segment).unlink()
                self._segment, self._offset = self._last_segment + 1, 0
                self._write_progress()
            self._lock.release()

    def abandon(self) -> None:
        """Close the files in a forked process, which must not write here, nor keep the lock that its parent releases.

        Nothing is waited for: threads that the fork did not copy may have held the mutex.
        """
        self.is_closed = True
        self._mutex = threading.Lock()
        if self._segment_file is not None:
            self._segment_file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _write_bytes(self, content: bytes, is_durable: bool) -> None:
        """Append bytes to the last segment, or to a new one if the last one is large enough."""
        if self._last_segment_size >= self._segment_bytes:
            self._last_segment, self._last_segment_size = self._last_segment + 1, 0
            if self._segment_file is not None:
                self._segment_file.close()
                self._segment_file = None
        if self._segment_file is None:
            self._segment_file = self._segment_path(self._last_segment).open("ab", buffering=0)
            fsync_folder(self.folder)
        n_written = 0
        try:
            while n_written < len(content):
                n_written += self._segment_file.write(content[n_written:])
        except OSError:
            with contextlib.suppress(OSError):  # otherwise an incomplete record stays, which readers detect
                self._segment_file.truncate(self._last_segment_size)
            raise
        if is_durable:
            os.fsync(self._segment_file.fileno())

    def _segment_path(self, segment: int) -> Path:
        return self.folder / f"{segment:08d}.log"

    def _delete_sent_segment(self) -> None:
        """Continue with the next segment, and delete the current one, all of which is sent."""
        self._segment_path(self._segment).unlink(missing_ok=True)  # first, as it makes room for what follows
        self._segment, self._offset = self._segment + 1, 0
        self._write_progress()

    def _count_unsent(self) -> None:
        """Count the unsent records, delete sent segments, and move an incomplete last record to ``refused/``."""
        numbers = sorted(int(path.stem) for path in self.folder.glob("*.log"))
        for number in numbers:
            if number < self._segment:
                self._segment_path(number).unlink()
        numbers = [number for number in numbers if number >= self._segment]
        if numbers and numbers[0] > self._segment:
            self._segment, self._offset = numbers[0], 0
        self._last_segment = max([self._segment, *numbers])
        for number in numbers:
            size, offset = self._segment_path(number).stat().st_size, self._offset if number == self._segment else 0
            with self._segment_path(number).open("rb") as file:
                while offset < size:
                    entry = read_record(file, offset, size)
                    if entry.record is not None:
                        self.n_unsent += 1
                        self.n_unsent_bytes += entry.end - offset
                    elif number == self._last_segment and entry.end == size:
                        self._copy_damaged_bytes(
                            file, number, offset, size, "cut short: its writer ended while it wrote"
                        )
                        os.truncate(self._segment_path(number), offset)
                        size = offset
                        break
                    offset = entry.end
            if number == self._last_segment:
                self._last_segment_size = size
        if self._last_segment_size < self._offset:  # the disk has lost bytes that were sent
            self._offset = self._last_segment_size

    def _copy_damaged_bytes(self, file: IO[bytes], segment: int, offset: int, end: int, reason: str) -> None:
        """Copy the bytes from `offset` to `end` of a segment to ``refused/``, and log a warning."""
        file.seek(offset)
        path = self._write_refused(f"{segment:08d}-{offset:010d}-damaged", file.read(end - offset), reason)
        n_bytes = end - offset
        logger.warning("run %s: %d bytes of its spool are no record (%s): %s", self.run_id, n_bytes, reason, path)

    def _write_refused(self, name: str, content: bytes, reason: str) -> Path:
        """Write bytes and the reason to ``refused/``, and return the path of the bytes."""
        folder = self.folder / "refused"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.record"
        write_atomically(path, content)
        write_atomically(path.with_suffix(".txt"), f"{reason}\n".encode())
        return path

    def _read_progress(self) -> tuple[int, int, int | None]:
        """Return segment and offset of the next record to send, and the attempt number, from ``sent.json``."""
        path = self.folder / "sent.json"
        if not path.exists():
            return 0, 0, None
        try:
            stored = json.loads(path.read_bytes())
            return int(stored["segment"]), int(stored["offset"]), stored["attempt"]
        except (ValueError, KeyError, TypeError) as error:
            raise SpoolError(f"{path} is damaged ({error}); delete it to send all that is there again") from error

    def _write_progress(self) -> None:
        """Write segment and offset of the next record to send, and the attempt number, to ``sent.json``.

        What cannot be noted on a full disk is sent again by the next process, which changes nothing at the service.
        """
        sent = {"segment": self._segment, "offset": self._offset, "attempt": self.attempt}
        try:
            write_atomically(self.folder / "sent.json", _encode_json(sent))
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    "run %s: %s cannot be written (%s), so the next process sends again what this one has sent; make "
                    "room on the disk",
                    self.run_id,
                    self.folder / "sent.json",
                    get_reason(error),
                )


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record that was set aside, by the path of its copy."""

    path: Path

    def read_reason(self) -> str:
        """Return why the record was set aside."""
        return self.path.with_suffix(".txt").read_text().strip()

    def read(self) -> Record | None:
        """Return the record; None if its bytes are damaged."""
        with self.path.open("rb") as file:
            return read_record(file, 0, self.path.stat().st_size).record

    def replace_reason(self, reason: str) -> None:
        """Write why the record was refused again."""
        write_atomically(self.path.with_suffix(".txt"), f"{reason}\n".encode())

    def delete(self) -> None:
        """Delete the record and its reason."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".txt").unlink(missing_ok=True)


def _read_metadata(folder: Path) -> dict[str, Any]:
    """Read ``spool.json``; raise SpoolError if it is absent, damaged, or of another version."""
    path = folder / MARKER_NAME
    try:
        metadata = json.loads(path.read_bytes())
        version, _ = metadata["version"], (metadata["run_id"], metadata["num_samples"], metadata["url"])
    except OSError as error:
        raise SpoolError(f"{folder} is no spool ({get_reason(error)}); give a folder with a {MARKER_NAME}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SpoolError(f"{path} is damaged ({error}); restore it, or move the folder away") from error
    if version != VERSION:
        raise SpoolError(f"{folder} has version {version}, this client reads {VERSION}; use the client that wrote it")
    return dict(metadata)


def _encode_json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode() + b"\n"
