"""Upload of the records of a spool to the service, in their order, by the caller or by a thread."""

import logging
import math
import threading
from collections.abc import Callable

from mild_client.backend import Position
from mild_client.backends.http import HttpBackend
from mild_client.backends.record_log import Record
from mild_client.backends.spool import Spool
from mild_client.client import MildClient
from mild_client.errors import LocalStateError, NotAllowed, ServiceUnreachable, Unavailable
from mild_client.transport import Retry
from mild_core import bitmap
from mild_core.errors import MildError
from mild_core.types import RunSpec

logger = logging.getLogger(__name__)

TEMPORARY_ERRORS = (ServiceUnreachable, Unavailable, NotAllowed)
"""Errors after which a record stays unsent: sending it may succeed later or with another key."""
_RETRY_SECONDS = 10.0


class Uploader:
    """Sends the records of one run to the service.

    Parameters
    ----------
    client
        Client of the service.
    spool
        Spool of the run, which stores the attempt number from the service.
    """

    def __init__(self, client: MildClient, spool: Spool) -> None:
        self._client, self._spool, self._state = client, spool, spool.state

    def send_next(self) -> MildError | None:
        """Send the oldest unsent record, and return None, or the error if the service refuses the record."""
        spool, refusal = self._spool, None
        if (record := spool.peek()) is None:
            return None
        try:
            self.send(record)
        except TEMPORARY_ERRORS:
            raise
        except MildError as error:
            name, path = record.name, spool.path
            logger.warning("run %s: %s was refused and is kept in %s: %s", self._state.run_id, name, path, error)
            refusal = error
        spool.advance(record, refusal)
        return refusal

    def send(self, record: Record) -> None:
        """Send one record; sending it twice changes nothing."""
        if record.kind == "open":
            self._send_open(record)
            return
        client, run_id, attempt = self._client, self._state.run_id, self._require_attempt()
        meta, body = record.meta, record.body
        match record.kind:
            case "labels":
                client.put_labels(run_id, body)
            case "sample_ids":
                client.put_sample_ids(run_id, body.decode().split("\n"))
            case "planted":
                client.put_planted(run_id, body, attempt)
            case "members":
                client.put_members(run_id, meta["round"], body, attempt)
            case "epoch":
                client.put_epoch(run_id, meta["round"], meta["epoch"], body, attempt)
            case "metrics":
                client.put_metrics(run_id, meta["round"], meta["epoch"], meta["metrics"], attempt)
            case "finish":
                self._send_finish(record)
            case "status":
                attach_backend(client, self._spool).set_status(meta["status"])

    def _require_attempt(self) -> int:
        """Return the attempt number; raise LocalStateError if the run was not opened at the service."""
        if self._state.attempt is None:
            raise LocalStateError(
                f"run {self._state.run_id!r} was not opened, which was refused before; send that again first"
            )
        return self._state.attempt

    def _send_open(self, record: Record) -> None:
        """Open or resume the run, and set its attempt number in the spool."""
        position = record.meta["resume_from"]
        self._state.attempt = None  # records after a refused opening belong to no run
        spec = RunSpec.from_json(record.meta["spec"])
        resume_from = None if position is None else Position(**position)
        self._state.attempt = HttpBackend(self._client).open(spec, resume_from).attempt

    def _send_finish(self, record: Record) -> None:
        """Finish a round with the clean set that was used; log a warning if the service selects another one."""
        run_id, number, version = self._state.run_id, record.meta["round"], record.meta["core_version"]
        used = bitmap.validate(record.body, self._state.num_samples, record.name)
        answer = self._client.finish(run_id, number, self._state.attempt, used=used, core_version=version)
        # The service may have frozen the round with its own set before its response was lost.
        self._client.put_members(run_id, number + 1, record.body, self._state.attempt)
        if answer.get("differs"):
            logger.warning(
                "run %s: the set that round %d ended with differs from the service's own in %d samples (here "
                "mild-selection %s, there %s)",
                run_id,
                number,
                answer["differs"],
                version,
                answer.get("core_version"),
            )


def attach_backend(client: MildClient, spool: Spool) -> HttpBackend:
    """Create a backend that writes to the run of a spool, which was opened at the service before."""
    return HttpBackend(client, RunSpec(spool.state.run_id, spool.state.num_samples), spool.state.attempt)


class _StopRequested(Exception):
    """The thread should stop, and the service does not answer."""


class UploadThread:
    """Thread that sends the records of a spool in their order.

    Only the record that is being sent is in memory. While the service does not answer, it is sent again after pauses
    (`Retry`), without a deadline.

    Parameters
    ----------
    spool
        Spool of the run. Close it after this thread.
    connect
        Function that creates a client of the service with the given retries.

    Attributes
    ----------
    is_unreachable
        Whether the service did not answer the last attempt.
    n_refused
        Number of refused records.
    """

    def __init__(self, spool: Spool, connect: Callable[[Retry], MildClient]) -> None:
        self.is_unreachable = False
        self.n_refused = 0
        self._spool, self._run_id = spool, spool.state.run_id
        self._client = connect(Retry(deadline=math.inf, first_deadline=math.inf, sleep=self._wait_before_retry))
        self._uploader = Uploader(self._client, spool)
        self._changed = spool.changed
        self._is_stopping = False
        self._waited_for = ""
        self._thread = threading.Thread(target=self._run, name=f"mild-upload-{self._run_id}", daemon=True)
        self._thread.start()

    def flush(self, seconds: float) -> bool:
        """Wait until all records are sent, and return whether they are.

        The wait ends after `seconds`, or as soon as the service does not answer.
        """
        if not self._spool.is_closed:  # as in a process that was forked while another thread had the lock
            with self._changed:
                self._changed.wait_for(self._is_idle, seconds)
        return not self._spool.n_unsent

    def close(self, seconds: float) -> None:
        """Stop the thread after the remaining records are sent, and wait up to `seconds` for it.

        If the service does not answer, one more attempt is made.
        """
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._client.close()

    def _is_idle(self) -> bool:
        """Return whether all records are sent, or none can be sent now."""
        return not self._spool.n_unsent or self.is_unreachable or not self._thread.is_alive()

    def _run(self) -> None:
        """Send records until the thread should stop, or an error other than a temporary one occurs."""
        try:
            while self._wait_for_record():
                try:
                    refusal = self._uploader.send_next()
                except NotAllowed:
                    raise
                except TEMPORARY_ERRORS as error:  # which the client does not repeat, such as those of a full store
                    if error.code != self._waited_for:
                        self._waited_for = error.code
                        folder = self._spool.folder
                        logger.warning("run %s: what is in %s waits to be sent: %s", self._run_id, folder, error)
                    self._wait_before_retry(_RETRY_SECONDS)
                    continue
                with self._changed:
                    self.is_unreachable, self._waited_for = False, ""
                    self.n_refused += refusal is not None
                    self._changed.notify_all()
        except _StopRequested:
            pass
        except Exception as error:  # a thread that dies silently would not be noticed
            logger.warning(
                "run %s: nothing more is sent by this process (%s); what is left stays in %s",
                self._run_id,
                error,
                self._spool.folder,
                exc_info=not isinstance(error, NotAllowed),
            )
        with self._changed:
            self.is_unreachable = True
            self._changed.notify_all()

    def _wait_for_record(self) -> bool:
        """Wait for an unsent record; return False if all are sent and the thread should stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._spool.n_unsent or self._is_stopping)
            return bool(self._spool.n_unsent) and not self._spool.is_closed

    def _wait_before_retry(self, seconds: float) -> None:
        """Wait up to `seconds` before the next attempt; raise _StopRequested if the thread should stop."""
        with self._changed:
            if self._is_stopping:
                raise _StopRequested
            self.is_unreachable = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_stopping, seconds)
