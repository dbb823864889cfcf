"""A spool: the records of one run on disk, appended by the trainer and sent to the service in their order.

::

    FOLDER/                 one run's, named after it
      spool.json            version of this layout, run, number of samples, the service's address
      lock                  held by the process that writes or sends
      00000000.log, ...     segments of records (`spool_records`), appended to and never changed
      sent.json             position of the next record to send, and the attempt number sent with it
      refused/              records that were refused or damaged, each with a text file of the reason

A killed process leaves at worst an incomplete record at the end of the last segment; the next process moves it to
``refused/``. Segments are deleted once they are sent. The lock is released by the system, however its process ends.
"""

import contextlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import IO, Any, Self

from mild_client.atomic_write import fsync_folder, write_atomically
from mild_client.backends.spool_records import Record, read_record
from mild_client.errors import SpoolError, SpoolFull, SpoolInUse

try:
    import fcntl
except ImportError:  # Windows: without the lock, it is up to the user that a spool has one writer
    fcntl = None  # type: ignore[assignment]


class SpoolLock:
    """Exclusive lock of a folder, until `release`.

    Raises
    ------
    SpoolInUse
        If another process holds it.
    """

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
    """One run's spool, locked by this process until `close`. One thread may write while another one sends.

    Parameters
    ----------
    folder
        Folder of the spool.
    limit
        Largest number of bytes of unsent records.
    segment_bytes
        Size from which on a new segment is begun.

    Raises
    ------
    SpoolInUse
        If another process, or another object of this process, has locked it.
    SpoolError
        If it does not exist (see `create`), is damaged, or has another version.
    """

    def __init__(self, folder: Path, limit: int = 1 << 40, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.folder, self._limit, self._segment_bytes = folder, limit, segment_bytes
        self.is_full = False
        self.is_closed = False
        self._mutex = threading.Lock()
        self._metadata = _metadata(folder)
        self._lock = SpoolLock(folder)
        self._segment_file: IO[bytes] | None = None
        self._peeked: tuple[Record, int] | None = None
        try:
            self._segment, self._offset, self.attempt = self._read_progress()
            self._last, self._size = self._segment, 0
            self.n_unsent = self.n_unsent_bytes = 0
            self._count_unsent()
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def create(cls, folder: Path, run_id: str, n_samples: int, url: str | None, limit: int) -> Self:
        """Create a run's spool, or open the existing one; `url` replaces its stored address.

        Raises
        ------
        SpoolError
            If the folder cannot be written, or is the spool of another run.
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
            raise SpoolError(f"{folder} cannot be written ({error}); give another folder for the spool") from error
        return spool

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self._metadata["run_id"])

    @property
    def n_samples(self) -> int:
        """Number of samples of the run."""
        return int(self._metadata["num_samples"])

    @property
    def url(self) -> str | None:
        """Address of the service; None if unknown."""
        url = self._metadata["url"]
        return None if url is None else str(url)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was ever written to it."""
        return self.attempt is None and (self._segment, self._offset, self._last, self._size) == (0, 0, 0, 0)

    def append(self, record: Record, is_durable: bool = True) -> None:
        """Append a record, and if `is_durable`, flush it to the disk before returning.

        Raises
        ------
        SpoolFull
            If the limit is reached or the disk is full; the spool takes nothing more then.
        """
        content = record.encode()
        with self._mutex:
            if self.is_full:
                raise SpoolFull(f"{self.folder} takes nothing more")
            if self.n_unsent_bytes + len(content) > self._limit:
                self.is_full = True
                raise SpoolFull(
                    f"{self.folder} holds {self.n_unsent_bytes} bytes that are not sent and may hold {self._limit}, "
                    f"{record.name} takes {len(content)} more; raise MILD_SPOOL_BYTES, or bring the service back"
                )
            try:
                self._write(content, is_durable)
            except OSError as error:
                self.is_full = True
                raise SpoolFull(f"{self.folder} cannot be written ({error}); make room on the disk") from error
            self._size += len(content)
            self.n_unsent += 1
            self.n_unsent_bytes += len(content)

    def peek(self) -> Record | None:
        """Return the oldest unsent record, or None; damaged bytes before it are moved to ``refused/``."""
        while True:
            with self._mutex:
                if self.is_closed:
                    return None
                if self._peeked is not None:
                    return self._peeked[0]
                if self._segment < self._last and self._offset >= self._path(self._segment).stat().st_size:
                    self._next_segment()
                    continue
                size = self._size if self._segment == self._last else self._path(self._segment).stat().st_size
                if self._offset >= size:
                    return None
                with self._path(self._segment).open("rb") as file:
                    entry = read_record(file, self._offset, size)
                    if entry.record is None:
                        self._store_damaged_bytes(file, entry.end)
                        self._offset = entry.end
                        continue
                self._peeked = (entry.record, entry.end)

    def advance(self) -> None:
        """Mark the record of `peek` as sent."""
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
        """Store the attempt number to send with the records from now on."""
        self.attempt = attempt
        self._write_progress()

    def set_aside(self, reason: str) -> Path:
        """Copy the record of `peek` to ``refused/`` with the reason, and return its path; call `advance` next."""
        assert self._peeked is not None
        record, _ = self._peeked
        return self._write_refused(f"{self._segment:08d}-{self._offset:010d}-{record.name}", record.encode(), reason)

    @property
    def n_refused(self) -> int:
        """Number of records in ``refused/``."""
        return sum(1 for _ in (self.folder / "refused").glob("*.txt"))

    def close(self) -> None:
        """Release the lock, and delete the last segment if all of it is sent."""
        with self._mutex:
            if self.is_closed:
                return
            self.is_closed = True
            if self._segment_file is not None:
                self._segment_file.close()
            if not self.n_unsent and self._path(self._last).exists():
                self._segment, self._offset = self._last + 1, 0
                self._write_progress()
                self._path(self._last).unlink()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _write(self, content: bytes, is_durable: bool) -> None:
        if self._size >= self._segment_bytes:
            self._last, self._size = self._last + 1, 0
            if self._segment_file is not None:
                self._segment_file.close()
                self._segment_file = None
        if self._segment_file is None:
            self._segment_file = self._path(self._last).open("ab", buffering=0)
            fsync_folder(self.folder)
        n_written = 0
        try:
            while n_written < len(content):
                n_written += self._segment_file.write(content[n_written:])
        except OSError:
            with contextlib.suppress(OSError):  # otherwise an incomplete record stays, which readers detect
                self._segment_file.truncate(self._size)
            raise
        if is_durable:
            os.fsync(self._segment_file.fileno())

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:08d}.log"

    def _next_segment(self) -> None:
        sent_path = self._path(self._segment)
        self._segment, self._offset = self._segment + 1, 0
        self._write_progress()
        sent_path.unlink(missing_ok=True)

    def _count_unsent(self) -> None:
        """Count the unsent records, and cut an incomplete record off the last segment."""
        numbers = sorted(int(path.stem) for path in self.folder.glob("*.log"))
        for number in numbers:
            if number < self._segment:
                self._path(number).unlink()
        numbers = [number for number in numbers if number >= self._segment]
        if numbers and numbers[0] > self._segment:
            self._segment, self._offset = numbers[0], 0
        self._last = max([self._segment, *numbers])
        for number in numbers:
            size, offset = self._path(number).stat().st_size, self._offset if number == self._segment else 0
            with self._path(number).open("rb") as file:
                while offset < size:
                    entry = read_record(file, offset, size)
                    if entry.record is not None:
                        self.n_unsent += 1
                        self.n_unsent_bytes += entry.end - offset
                    elif number == self._last and entry.end == size:
                        self._store_damaged(file, number, offset, size, "cut short: its writer ended while it wrote")
                        os.truncate(self._path(number), offset)
                        size = offset
                        break
                    offset = entry.end
            if number == self._last:
                self._size = size
        if self._size < self._offset:  # the disk has lost bytes that were sent
            self._offset = self._size

    def _store_damaged_bytes(self, file: IO[bytes], end: int) -> None:
        self._store_damaged(file, self._segment, self._offset, end, "damaged: its checksum is wrong")

    def _store_damaged(self, file: IO[bytes], segment: int, offset: int, end: int, reason: str) -> None:
        file.seek(offset)
        path = self._write_refused(f"{segment:08d}-{offset:010d}-damaged", file.read(end - offset), reason)
        n_bytes = end - offset
        logger.warning("run %s: %d bytes of its spool are no record (%s): %s", self.run_id, n_bytes, reason, path)

    def _write_refused(self, name: str, content: bytes, reason: str) -> Path:
        folder = self.folder / "refused"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.record"
        write_atomically(path, content)
        write_atomically(path.with_suffix(".txt"), f"{reason}\n".encode())
        return path

    def _read_progress(self) -> tuple[int, int, int | None]:
        path = self.folder / "sent.json"
        if not path.exists():
            return 0, 0, None
        try:
            stored = json.loads(path.read_bytes())
            return int(stored["segment"]), int(stored["offset"]), stored["attempt"]
        except (ValueError, KeyError, TypeError) as error:
            raise SpoolError(f"{path} is damaged ({error}); delete it to send all that is there again") from error

    def _write_progress(self) -> None:
        sent = {"segment": self._segment, "offset": self._offset, "attempt": self.attempt}
        write_atomically(self.folder / "sent.json", _encode_json(sent))


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / MARKER_NAME
    try:
        metadata = json.loads(path.read_bytes())
        version, _ = metadata["version"], (metadata["run_id"], metadata["num_samples"], metadata["url"])
    except OSError as error:
        raise SpoolError(f"{folder} is no spool ({error}); give a folder with a {MARKER_NAME}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SpoolError(f"{path} is damaged ({error}); restore it, or move the folder away") from error
    if version != VERSION:
        raise SpoolError(f"{folder} has version {version}, this client reads {VERSION}; use the client that wrote it")
    return dict(metadata)


def _encode_json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode() + b"\n"
