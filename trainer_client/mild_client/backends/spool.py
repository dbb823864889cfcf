"""What one run still has to tell its service, on disk: records are appended, and sent in their order, once each.

::

    FOLDER/                 one run's, named after it
      spool.json            version of this layout, run, number of samples, the service's address
      lock                  held by whoever writes or sends
      00000000.log, ...     segments of records (`spool_records`), appended to and never changed
      sent.json             how far they are sent, and the attempt that they are sent as
      refused/              what the service refused, or what is no record any more, each with the reason beside it

A process that is killed leaves a torn record at the end of the last segment at worst: it is set aside by the next one.
What has been sent is deleted segment by segment.

One holder per spool: a lock on a file, which the system lets go of however its holder ends.
"""

import contextlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import IO, Any, Self

from mild_client.atomic_write import fsync_folder, write_atomically
from mild_client.backends.spool_records import Record, read
from mild_client.errors import SpoolError, SpoolFull, SpoolInUse

try:
    import fcntl
except ImportError:  # Windows: there a run's spool has one writer because its user sees to it
    fcntl = None  # type: ignore[assignment]


class SpoolLock:
    """Holds a folder until it is released.

    Raises
    ------
    SpoolInUse
        If somebody else holds it.
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
        """Let go."""
        self._file.close()


logger = logging.getLogger(__name__)

VERSION = 1
MARK = "spool.json"
"""The file that makes a folder a spool."""
_SEGMENT_BYTES = 4 << 20


class Spool:
    """One run's spool, held by this process until it is closed. One thread may write while another one sends.

    Parameters
    ----------
    folder
        Where it is.
    limit
        Bytes of records that may wait to be sent.
    segment_bytes
        Length at which a segment is followed by a new one.

    Raises
    ------
    SpoolInUse
        If another process, or another object of this one, holds it.
    SpoolError
        If it is absent (see `create`), damaged, or of a later version.
    """

    def __init__(self, folder: Path, limit: int = 1 << 40, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.folder, self._limit, self._segment_bytes = folder, limit, segment_bytes
        self.is_full = False
        self.is_closed = False
        self._guard = threading.Lock()
        self._facts = _facts(folder)
        self._lock = SpoolLock(folder)
        self._writing: IO[bytes] | None = None
        self._ahead: tuple[Record, int] | None = None
        try:
            self._segment, self._offset, self.attempt = self._read_sent()
            self._last, self._size = self._segment, 0
            self.n_left = self.n_bytes_left = 0
            self._survey()
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def create(cls, folder: Path, run_id: str, n_samples: int, url: str | None, limit: int) -> Self:
        """Make a run's spool, or take the one that is there; `url` replaces the address that it names.

        Raises
        ------
        SpoolError
            If the folder cannot be written, or is the spool of something else.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            facts: dict[str, Any] = {"version": VERSION, "run_id": run_id, "num_samples": n_samples, "url": url}
            if not (folder / MARK).exists():
                write_atomically(folder / MARK, _json(facts))
            spool = cls(folder, limit)
            if (spool.run_id, spool.n_samples) != (run_id, n_samples):
                spool.close()
                raise SpoolError(
                    f"{folder} is the spool of run {spool.run_id!r} of {spool.n_samples} samples, got {run_id!r} of "
                    f"{n_samples}; choose another run id or another folder"
                )
            if url not in (None, spool.url):
                spool._facts = facts
                write_atomically(folder / MARK, _json(facts))
        except OSError as error:
            raise SpoolError(f"{folder} cannot be written ({error}); give another folder for the spool") from error
        return spool

    @property
    def run_id(self) -> str:
        """The run that its records are of."""
        return str(self._facts["run_id"])

    @property
    def n_samples(self) -> int:
        """Samples of the run."""
        return int(self._facts["num_samples"])

    @property
    def url(self) -> str | None:
        """Where the service was; None if it was never named."""
        url = self._facts["url"]
        return None if url is None else str(url)

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was ever written to it."""
        return self.attempt is None and (self._segment, self._offset, self._last, self._size) == (0, 0, 0, 0)

    def append(self, record: Record, is_durable: bool = True) -> None:
        """Add a record; `is_durable`: and return once it survives a loss of power.

        Raises
        ------
        SpoolFull
            If its limit is reached or the disk takes no more; from then on nothing is taken.
        """
        content = record.encode()
        with self._guard:
            if self.is_full:
                raise SpoolFull(f"{self.folder} takes nothing more")
            if self.n_bytes_left + len(content) > self._limit:
                self.is_full = True
                raise SpoolFull(
                    f"{self.folder} holds {self.n_bytes_left} bytes that are not sent and may hold {self._limit}, "
                    f"{record.name} takes {len(content)} more; raise MILD_SPOOL_BYTES, or bring the service back"
                )
            try:
                self._write(content, is_durable)
            except OSError as error:
                self.is_full = True
                raise SpoolFull(f"{self.folder} cannot be written ({error}); make room on the disk") from error
            self._size += len(content)
            self.n_left += 1
            self.n_bytes_left += len(content)

    def peek(self) -> Record | None:
        """The oldest record that is not sent; None where all are. Bytes that are no record are set aside on the way."""
        while True:
            with self._guard:
                if self.is_closed:
                    return None
                if self._ahead is not None:
                    return self._ahead[0]
                if self._segment < self._last and self._offset >= self._path(self._segment).stat().st_size:
                    self._leave_segment()
                    continue
                size = self._size if self._segment == self._last else self._path(self._segment).stat().st_size
                if self._offset >= size:
                    return None
                with self._path(self._segment).open("rb") as file:
                    found = read(file, self._offset, size)
                    if found.record is None:
                        self._set_damage_aside(file, found.end)
                        self._offset = found.end
                        continue
                self._ahead = (found.record, found.end)

    def advance(self) -> None:
        """Count the record that `peek` gave as done with."""
        with self._guard:
            if self._ahead is None or self.is_closed:
                return
            _, end = self._ahead
            self._ahead = None
            self.n_left -= 1
            self.n_bytes_left -= end - self._offset
            self._offset = end
        self._write_sent()  # only the sender moves on, and whoever writes records meanwhile does not wait for the disk

    def note_attempt(self, attempt: int) -> None:
        """Remember as which attempt the records are sent from now on."""
        self.attempt = attempt
        self._write_sent()

    def set_aside(self, reason: str) -> Path:
        """Keep the record that `peek` gave in ``refused/`` with the reason, and return where; `advance` comes next."""
        assert self._ahead is not None
        record, _ = self._ahead
        return self._keep(f"{self._segment:08d}-{self._offset:010d}-{record.name}", record.encode(), reason)

    @property
    def n_refused(self) -> int:
        """Records in ``refused/``."""
        return sum(1 for _ in (self.folder / "refused").glob("*.txt"))

    def close(self) -> None:
        """Let go of it. Segments that were sent to their end are deleted."""
        with self._guard:
            if self.is_closed:
                return
            self.is_closed = True
            if self._writing is not None:
                self._writing.close()
            if not self.n_left and self._path(self._last).exists():
                self._segment, self._offset = self._last + 1, 0
                self._write_sent()
                self._path(self._last).unlink()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _write(self, content: bytes, is_durable: bool) -> None:
        if self._size >= self._segment_bytes:
            self._last, self._size = self._last + 1, 0
            if self._writing is not None:
                self._writing.close()
                self._writing = None
        if self._writing is None:
            self._writing = self._path(self._last).open("ab", buffering=0)
            fsync_folder(self.folder)
        n_written = 0
        try:
            while n_written < len(content):
                n_written += self._writing.write(content[n_written:])
        except OSError:
            with contextlib.suppress(OSError):  # what is there stays a torn end, which readers can tell
                self._writing.truncate(self._size)
            raise
        if is_durable:
            os.fsync(self._writing.fileno())

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:08d}.log"

    def _leave_segment(self) -> None:
        done = self._path(self._segment)
        self._segment, self._offset = self._segment + 1, 0
        self._write_sent()
        done.unlink(missing_ok=True)

    def _survey(self) -> None:
        """Count what is left, and cut a torn end off the last segment."""
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
                    found = read(file, offset, size)
                    if found.record is not None:
                        self.n_left += 1
                        self.n_bytes_left += found.end - offset
                    elif number == self._last and found.end == size:
                        self._keep_damage(file, number, offset, size, "cut short: its writer ended while it wrote")
                        os.truncate(self._path(number), offset)
                        size = offset
                        break
                    offset = found.end
            if number == self._last:
                self._size = size
        if self._size < self._offset:  # a disk that lost what was sent already
            self._offset = self._size

    def _set_damage_aside(self, file: IO[bytes], end: int) -> None:
        self._keep_damage(file, self._segment, self._offset, end, "damaged: its checksum is wrong")

    def _keep_damage(self, file: IO[bytes], segment: int, offset: int, end: int, reason: str) -> None:
        file.seek(offset)
        kept = self._keep(f"{segment:08d}-{offset:010d}-damaged", file.read(end - offset), reason)
        n_bytes = end - offset
        logger.warning("run %s: %d bytes of its spool are no record (%s): %s", self.run_id, n_bytes, reason, kept)

    def _keep(self, name: str, content: bytes, reason: str) -> Path:
        folder = self.folder / "refused"
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.record"
        write_atomically(path, content)
        write_atomically(path.with_suffix(".txt"), f"{reason}\n".encode())
        return path

    def _read_sent(self) -> tuple[int, int, int | None]:
        path = self.folder / "sent.json"
        if not path.exists():
            return 0, 0, None
        try:
            stored = json.loads(path.read_bytes())
            return int(stored["segment"]), int(stored["offset"]), stored["attempt"]
        except (ValueError, KeyError, TypeError) as error:
            raise SpoolError(f"{path} is damaged ({error}); delete it to send all that is there again") from error

    def _write_sent(self) -> None:
        sent = {"segment": self._segment, "offset": self._offset, "attempt": self.attempt}
        write_atomically(self.folder / "sent.json", _json(sent))


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / MARK
    try:
        facts = json.loads(path.read_bytes())
        version, _ = facts["version"], (facts["run_id"], facts["num_samples"], facts["url"])
    except OSError as error:
        raise SpoolError(f"{folder} is no spool ({error}); give a folder with a {MARK}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SpoolError(f"{path} is damaged ({error}); restore it, or move the folder away") from error
    if version != VERSION:
        raise SpoolError(f"{folder} has version {version}, this client reads {VERSION}; use the client that wrote it")
    return dict(facts)


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2).encode() + b"\n"
