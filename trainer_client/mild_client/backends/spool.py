"""`Spool`, a record log whose records are sent to the service in their order, and what was sent.

::

    FOLDER/            spool of one run, named after the run
      records.log      all records of the run, sent or not (`record_log`); locked by the process that writes or sends
      spool.json       version of this layout, run, number of samples, address of the service, attempt number to send,
                       offset of the next record to send, and offset and reason of each refused record; a log
                       without this file has nothing to send
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from mild_client.atomic_write import write_atomically
from mild_client.backends.record_log import LogEntry, Record, RecordLog
from mild_client.errors import SpoolError, SpoolFull, StaleAttempt
from mild_core.errors import describe_os_error, get_reason

logger = logging.getLogger(__name__)

VERSION = 2
STATE_NAME = "spool.json"
"""Name of the file that marks a folder as a spool."""


@dataclass
class SpoolState:
    """Content of ``spool.json``.

    Attributes
    ----------
    run_id, num_samples
        Id and number of samples of the run.
    url
        Address of the service; None if there is none.
    attempt
        Attempt number that is sent with the records; None if the run was not opened at the service.
    sent
        Offset of the next record to send.
    refused
        Offset of each refused record, with the reason.
    version
        Version of this layout.
    """

    run_id: str
    num_samples: int
    url: str | None
    attempt: int | None = None
    sent: int = 0
    refused: dict[int, str] = field(default_factory=dict)
    version: int = VERSION

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the state of a spool; raise SpoolError if it is damaged, or of another version."""
        path = folder / STATE_NAME
        try:
            values = json.loads(path.read_bytes())
            if values["version"] != VERSION:
                raise SpoolError(
                    f"{folder} has version {values['version']}, this client reads {VERSION}; use the client that "
                    "wrote it"
                )
            return cls(**{**values, "refused": dict(values["refused"])})
        except (ValueError, KeyError, TypeError) as error:
            raise SpoolError(f"{path} is damaged ({error}); restore it, or move the folder away") from error

    def write(self, folder: Path) -> None:
        """Replace the state of a spool."""
        values = {**vars(self), "refused": list(self.refused.items())}
        write_atomically(folder / STATE_NAME, json.dumps(values, indent=2).encode() + b"\n")


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
    state
        What is stored in ``spool.json``.
    n_unsent
        Number of unsent records.
    changed
        Condition that is notified of each record that is appended.
    """

    def __init__(self, folder: Path, limit: int = 1 << 40) -> None:
        super().__init__(folder)
        if not (folder / STATE_NAME).exists():
            raise SpoolError(f"{folder} is no spool; give a folder with a {STATE_NAME}")
        self.changed = threading.Condition()
        self._limit = limit
        self._is_stale = False
        self._state_lock = threading.Lock()
        self._peeked: LogEntry | None = None
        try:
            with _explain_errors():
                self.lock()
                self.state = SpoolState.read(folder)
        except SpoolError:
            self.release()
            raise
        if self.state.sent > self.size:  # the disk has lost what was sent
            self.state.sent = self.size
            self.save_state()
        self.n_unsent = sum(entry.record is not None for entry in self.read(self.state.sent))

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
        with _explain_errors():
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / STATE_NAME).exists():
                SpoolState(run_id, n_samples, url, sent=RecordLog(folder).size).write(folder)
        spool = cls(folder, limit)
        state = spool.state
        if (state.run_id, state.num_samples) != (run_id, n_samples):
            spool.close()
            raise SpoolError(
                f"{folder} is the spool of run {state.run_id!r} of {state.num_samples} samples, got {run_id!r} of "
                f"{n_samples}; choose another run id or another folder"
            )
        if url not in (None, state.url):
            state.url = url
            spool.save_state()
        return spool

    @property
    def n_unsent_bytes(self) -> int:
        """Number of bytes of the unsent records."""
        return self.size - self.state.sent

    def append(self, record: Record, is_durable: bool = True) -> None:
        """Append a record, to be sent, and flush it to the disk if `is_durable`."""
        self.check_open()  # before the lock, which another thread may have had when this process was forked
        content = record.encode()
        with self.changed:
            if is_first := not self.size:  # also where somebody has deleted the folder
                self.state.sent = self.n_unsent = 0
                self.state.refused.clear()
            if not self.is_full and self.n_unsent_bytes + len(content) > self._limit:
                self.is_full = True
                raise SpoolFull(
                    f"{self.folder} holds {self.n_unsent_bytes} bytes that are not sent and may hold {self._limit}, "
                    f"{record.name} takes {len(content)} more; raise MILD_SPOOL_BYTES, or bring the service back"
                )
            self._append_bytes(content, is_durable)
            self.n_unsent += 1
            self.changed.notify_all()
        if is_first:
            self.save_state()

    def mark_sent(self) -> None:
        """Note that the service has all records."""
        with self.changed:
            self.state.sent, self.n_unsent, self._peeked = self.size, 0, None
        self.save_state()

    def peek(self) -> Record | None:
        """Return the oldest unsent record, or None if all are sent; count damaged bytes before it as refused."""
        with self.changed:
            if self.is_closed:
                return None
            for entry in self.read(self.state.sent):
                if entry.record is not None:
                    self._peeked = entry
                    return entry.record
                n_bytes, self.state.sent = entry.end - entry.start, entry.end
                self.state.refused[entry.start] = reason = (
                    f"{n_bytes} bytes are damaged: their writer ended while it wrote, or the disk has changed them"
                )
                logger.warning("run %s: %s: %s", self.state.run_id, self.path, reason)
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
                self.state.refused[self._peeked.start] = str(refusal)
            if isinstance(refusal, StaleAttempt):
                self.refusal = refusal
            self.state.sent, self._peeked = self._peeked.end, None
            self.n_unsent -= 1
        self.save_state()  # outside the lock, so that writers do not wait for the disk

    def clear(self) -> None:
        """Delete all records, which are sent; those that were refused stay.

        Nothing is appended if that cannot be noted, as the next process would take new records for sent ones.
        """
        if not self.state.refused:
            super().clear()
        self.state.sent = self.size
        self.save_state()
        self.is_full = self._is_stale

    def read_refused(self) -> list[LogEntry]:
        """Return the records that were refused, in their order."""
        return [next(self.read(start), LogEntry(None, start, start)) for start in sorted(self.state.refused)]

    def drop_refused(self, entry: LogEntry) -> None:
        """Forget that a record was refused."""
        del self.state.refused[entry.start]
        self.save_state()

    def save_state(self) -> None:
        """Write ``spool.json``.

        What cannot be noted on a full disk is sent again by the next process, which changes nothing at the service.
        """
        with self._state_lock:  # the thread that writes, and the one that sends, replace the same file
            try:
                self.state.write(self.folder)
                self._is_stale = False
            except OSError as error:
                if not self._is_stale:
                    self._is_stale = True
                    logger.warning(
                        "run %s: %s cannot be written (%s), so the next process sends again what this one has sent; "
                        "make room on the disk",
                        self.state.run_id,
                        self.folder / STATE_NAME,
                        get_reason(error),
                    )

    def close(self) -> None:
        """Release the lock."""
        with self.changed:
            if self._is_stale and not (self.is_closed or self.n_unsent or self.state.refused):
                (self.folder / STATE_NAME).unlink(missing_ok=True)  # so that nothing is sent again
            self.release()
            self.changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


@contextlib.contextmanager
def _explain_errors() -> Iterator[None]:
    """Raise SpoolError if a file cannot be read or written."""
    try:
        yield
    except OSError as error:
        raise SpoolError(describe_os_error(error)) from error
