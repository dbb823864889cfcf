"""`Spool`, a record log whose records are sent to the service in their order, and what was sent.

::

    FOLDER/            spool of one run, named after the run
      records.log      all records of the run, sent or not (`record_log`); locked by the process that writes or sends
      spool.json       version of this layout, run, number of samples, address of the service, attempt number to send,
                       offset of the next record to send, and offset and reason of each refused record; a log
                       without this file has nothing to send

The system releases the lock when the process ends, even if it was killed.
"""

import json
import logging
import threading
from pathlib import Path
from typing import IO, Any, Self

from mild_client.atomic_write import write_atomically
from mild_client.backends.record_log import LogEntry, Record, RecordLog
from mild_client.errors import SpoolError, SpoolFull, SpoolInUse
from mild_core.errors import get_reason

try:
    import fcntl
except ImportError:  # Windows: without the lock, it is up to the user that a spool has one writer
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

VERSION = 2
STATE_NAME = "spool.json"
"""Name of the file that marks a folder as a spool."""


class Spool(RecordLog):
    """Spool of one run, locked by this process until `close`; one thread may append while another one sends.

    Parameters
    ----------
    folder
        Folder of the spool.
    limit
        Largest number of bytes of unsent records.

    Attributes
    ----------
    run_id, n_samples
        Id and number of samples of the run.
    url
        Address of the service; None if there is none.
    attempt
        Attempt number that is sent with the records; None if the run was not opened at the service.
    refused
        Offset of each refused record, with the reason.
    n_unsent
        Number of unsent records.
    changed
        Condition that is notified of each record that is appended.
    """

    def __init__(self, folder: Path, limit: int = 1 << 40) -> None:
        super().__init__(folder)
        self._limit = limit
        self.changed = threading.Condition()
        self.is_closed = False
        self._is_stale = False
        self._state_lock = threading.Lock()
        self._peeked: LogEntry | None = None
        self._sent = 0
        self._lock_file = self._lock()
        try:
            self._load_state()
        except SpoolError:
            self._lock_file.close()
            raise
        if self._sent > self.size:  # the disk has lost what was sent
            self._sent = self.size
            self.save_state()
        self.n_unsent = sum(entry.record is not None for entry in self.read(self._sent))

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
            if not (folder / STATE_NAME).exists():
                state = {"run_id": run_id, "num_samples": n_samples, "url": url, "attempt": None, "refused": []}
                _write_state(folder, {**state, "sent": RecordLog(folder).size})
            spool = cls(folder, limit)
        except OSError as error:
            raise SpoolError(
                f"{folder} cannot be written ({get_reason(error)}); give another folder for the spool"
            ) from error
        if (spool.run_id, spool.n_samples) != (run_id, n_samples):
            spool.close()
            raise SpoolError(
                f"{folder} is the spool of run {spool.run_id!r} of {spool.n_samples} samples, got {run_id!r} of "
                f"{n_samples}; choose another run id or another folder"
            )
        if url not in (None, spool.url):
            spool.url = url
            spool.save_state()
        return spool

    @property
    def n_unsent_bytes(self) -> int:
        """Number of bytes of the unsent records."""
        return self.size - self._sent

    @property
    def is_fresh(self) -> bool:
        """Whether the spool has never had a record, and the run was never opened at the service."""
        return self.attempt is None and not self.size

    def append(self, record: Record, is_durable: bool = True, is_sent: bool = False) -> None:
        """Append a record, to be sent unless `is_sent`, and flush it to the disk if `is_durable`.

        `is_sent` says that the service has the record already, as all records before it.
        """
        content = record.encode()
        with self.changed:
            if is_first := not self.size:  # also where somebody has deleted the folder
                self._sent = self.n_unsent = 0
                self.refused.clear()
            if not self.is_full and self.n_unsent_bytes + len(content) > self._limit:
                self.is_full = True
                raise SpoolFull(
                    f"{self.folder} holds {self.n_unsent_bytes} bytes that are not sent and may hold {self._limit}, "
                    f"{record.name} takes {len(content)} more; raise MILD_SPOOL_BYTES, or bring the service back"
                )
            self._append_bytes(content, is_durable)
            if is_sent:
                self._sent = self.size
            else:
                self.n_unsent += 1
                self.changed.notify_all()
        if is_sent or is_first:
            self.save_state()

    def peek(self) -> Record | None:
        """Return the oldest unsent record, or None if all are sent; count damaged bytes before it as refused."""
        with self.changed:
            if self.is_closed:
                return None
            for entry in self.read(self._sent):
                if entry.record is not None:
                    self._peeked = entry
                    return entry.record
                n_bytes, self._sent = entry.end - entry.start, entry.end
                self.refused[entry.start] = reason = (
                    f"{n_bytes} bytes are damaged: their writer ended while it wrote, or the disk has changed them"
                )
                logger.warning("run %s: %s: %s", self.run_id, self.path, reason)
                self.save_state()
            self.n_unsent = 0  # more if the disk has lost records that were counted
            self.changed.notify_all()
            return None

    def advance(self, record: Record, refusal: Exception | None = None) -> None:
        """Mark a record as sent, or as refused, if no thread has called `peek` since the call that returned it."""
        with self.changed:
            if self._peeked is None or self._peeked.record is not record or self.is_closed:
                return
            if refusal is not None:
                self.refused[self._peeked.start] = str(refusal)
            self._sent, self._peeked = self._peeked.end, None
            self.n_unsent -= 1
        self.save_state()  # outside the lock, so that writers do not wait for the disk

    def clear(self) -> None:
        """Delete all records, which are sent; those that were refused stay.

        Nothing is appended if that cannot be noted, as the next process would take new records for sent ones.
        """
        if not self.refused:
            super().clear()
        self._sent = self.size
        self.save_state()
        self.is_full = self._is_stale

    def read_refused(self) -> list[LogEntry]:
        """Return the records that were refused, in their order."""
        return [next(self.read(start), LogEntry(None, start, start)) for start in sorted(self.refused)]

    def drop_refused(self, entry: LogEntry) -> None:
        """Forget that a record was refused."""
        del self.refused[entry.start]
        self.save_state()

    def save_state(self) -> None:
        """Write ``spool.json``.

        What cannot be noted on a full disk is sent again by the next process, which changes nothing at the service.
        """
        with self._state_lock:  # the thread that writes, and the one that sends, replace the same file
            state = {
                "run_id": self.run_id,
                "num_samples": self.n_samples,
                "url": self.url,
                "attempt": self.attempt,
                "sent": self._sent,
                "refused": list(self.refused.items()),
            }
            try:
                _write_state(self.folder, state)
                self._is_stale = False
            except OSError as error:
                if not self._is_stale:
                    self._is_stale = True
                    logger.warning(
                        "run %s: %s cannot be written (%s), so the next process sends again what this one has sent; "
                        "make room on the disk",
                        self.run_id,
                        self.folder / STATE_NAME,
                        get_reason(error),
                    )

    def close(self) -> None:
        """Release the lock."""
        with self.changed:
            if self._is_stale and not (self.is_closed or self.n_unsent or self.refused):
                (self.folder / STATE_NAME).unlink(missing_ok=True)  # so that nothing is sent again
            self.is_closed = True
            self._lock_file.close()
            self.changed.notify_all()

    def abandon(self) -> None:
        """Close the spool in a forked process, which must not write here, nor keep the lock that its parent releases.

        Nothing is waited for: threads that the fork did not copy may have held the condition.
        """
        self.changed, self.is_closed = threading.Condition(), True
        self._lock_file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _load_state(self) -> None:
        """Read ``spool.json``; raise SpoolError if it is damaged, or of another version."""
        path = self.folder / STATE_NAME
        try:
            state = json.loads(path.read_bytes())
            if state["version"] != VERSION:
                raise SpoolError(
                    f"{self.folder} has version {state['version']}, this client reads {VERSION}; use the client that "
                    "wrote it"
                )
            self.run_id: str = state["run_id"]
            self.n_samples: int = state["num_samples"]
            self.url: str | None = state["url"]
            self.attempt: int | None = state["attempt"]
            self._sent = state["sent"]
            self.refused: dict[int, str] = dict(state["refused"])
        except OSError as error:
            raise SpoolError(
                f"{path} cannot be read ({get_reason(error)}); allow it, or give another folder"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise SpoolError(f"{path} is damaged ({error}); restore it, or move the folder away") from error

    def _lock(self) -> IO[bytes]:
        """Lock ``records.log`` for this process, until the returned file is closed."""
        if not (self.folder / STATE_NAME).exists():
            raise SpoolError(f"{self.folder} is no spool; give a folder with a {STATE_NAME}")
        try:
            file = self.path.open("ab")
        except OSError as error:
            raise SpoolError(
                f"{self.path} cannot be written ({get_reason(error)}); allow it, or give another folder"
            ) from error
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise SpoolInUse(
                f"{self.folder} is in use by another process, which sends what is in it; wait until that has ended"
            ) from None
        return file


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    content = json.dumps({"version": VERSION, **state}, indent=2).encode() + b"\n"
    write_atomically(folder / STATE_NAME, content)
