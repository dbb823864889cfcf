"""Upload of the records of a spool to the service, in their order, by the caller or by a thread."""

import dataclasses
import io
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_client.backend import Position, RoundResult
from mild_client.backends.http import HttpBackend
from mild_client.backends.spool import Spool
from mild_client.backends.spool_records import Record
from mild_client.client import MildClient
from mild_client.compatibility import VERSION
from mild_client.errors import LocalStateError, NotAllowed, ServiceUnreachable, SpoolFull, StaleAttempt, Unavailable
from mild_client.transport import Retry
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import MildError
from mild_core.types import EpochBits, RunSpec

logger = logging.getLogger(__name__)

TEMPORARY_ERRORS = (ServiceUnreachable, Unavailable, NotAllowed, SpoolFull)
"""Errors after which a record stays in the spool: sending it, or setting it aside, may succeed later or with another
key."""
_RETRY_SECONDS = 10.0


def make_open_record(spec: RunSpec, resume_from: Position | None) -> Record:
    """Make the record that opens a run, or resumes it at `resume_from`."""
    position = None if resume_from is None else dataclasses.asdict(resume_from)
    return Record("open", {"spec": spec.as_json(), "resume_from": position})


def make_labels_record(labels: NDArray[np.integer]) -> Record:
    """Make the record of the given labels, shape (n_samples,)."""
    body = io.BytesIO()
    np.save(body, labels, allow_pickle=False)
    return Record("labels", {}, body.getvalue())


def make_finish_record(result: RoundResult) -> Record:
    """Make the record of a round that was finished without the service, with the clean set that it returned."""
    return Record("finish", {"round": result.round, "core_version": VERSION}, result.selected.tobytes())


class Uploader:
    """Sends single records of one run to the service.

    Parameters
    ----------
    client
        Client of the service.
    spool
        Spool of the run, which stores the attempt number from the service.
    """

    def __init__(self, client: MildClient, spool: Spool) -> None:
        self._client, self._spool = client, spool
        self._backend = HttpBackend(client)
        if spool.attempt is not None:
            self._backend.use_attempt(RunSpec(spool.run_id, spool.n_samples), spool.attempt)

    def send(self, record: Record) -> None:
        """Send one record; sending it twice changes nothing."""
        meta = record.meta
        if record.kind == "open":
            self._send_open(meta)
            return
        if self._spool.attempt is None:
            raise LocalStateError(
                f"run {self._spool.run_id!r} was not opened, which was refused before; see why in {self._spool.folder}"
            )
        match record.kind:
            case "labels" | "sample_ids" | "planted":
                self._send_annotations(record)
            case "members":
                self._backend.put_members(meta["round"], self._read_bitmap(record))
            case "epoch":
                bits = EpochBits.from_body(record.body, self._spool.n_samples)
                self._backend.put_epoch(meta["round"], meta["epoch"], bits)
            case "metrics":
                run_id, attempt = self._spool.run_id, self._spool.attempt  # an outage must not drop them
                self._client.put_metrics(run_id, meta["round"], meta["epoch"], meta["metrics"], attempt)
            case "finish":
                self._send_finish(meta, self._read_bitmap(record))
            case "status":
                self._backend.set_status(meta["status"])

    def _send_annotations(self, record: Record) -> None:
        """Send what is known of the samples before the first epoch."""
        if record.kind == "labels":
            self._backend.put_labels(np.load(io.BytesIO(record.body), allow_pickle=False))
        elif record.kind == "sample_ids":
            self._backend.put_sample_ids(record.body.decode().split("\n"))
        else:
            self._backend.put_planted(self._read_bitmap(record))

    def _send_open(self, meta: Any) -> None:
        """Open or resume the run, and store its attempt number in the spool."""
        spec = RunSpec.from_json(meta["spec"])
        position = meta["resume_from"]
        self._spool.attempt = None  # records after a refused opening belong to no run
        state = self._backend.open(spec, None if position is None else Position(**position))
        self._spool.set_attempt(state.attempt)

    def _send_finish(self, meta: Any, used: Bitmap) -> None:
        """Finish a round with the clean set that was `used`; log a warning if the service selects another one."""
        run_id, number, version = self._spool.run_id, meta["round"], meta["core_version"]
        answer = self._client.finish(run_id, number, self._spool.attempt, used=used, core_version=version)
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

    def _read_bitmap(self, record: Record) -> Bitmap:
        """Return the body of a record as a bitmap of all samples, shape (n_bytes,)."""
        return bitmap.validate(record.body, self._spool.n_samples, record.name)


def upload_next(spool: Spool, uploader: Uploader) -> MildError | None:
    """Send the oldest record of a spool, and return None, or the error if the service refuses the record.

    A refused record is moved to ``refused/``.
    """
    record = spool.peek()
    if record is None:
        return None
    refusal = None
    try:
        uploader.send(record)
    except TEMPORARY_ERRORS:
        raise
    except MildError as error:
        try:
            path = spool.copy_to_refused(str(error))
        except SpoolFull as full:
            raise full from error
        logger.warning("run %s: %s was refused and is kept as %s: %s", spool.run_id, record.name, path, error)
        refusal = error
    spool.advance()
    return refusal


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
    stale_error
        Error that says that another trainer has taken over the run; None if there is none.
    """

    def __init__(self, spool: Spool, connect: Callable[[Retry], MildClient]) -> None:
        self.is_unreachable = False
        self.n_refused = 0
        self.stale_error: StaleAttempt | None = None
        self._spool = spool
        self._client = connect(Retry(deadline=math.inf, first_deadline=math.inf, sleep=self._wait_before_retry))
        self._uploader = Uploader(self._client, spool)
        self._changed = threading.Condition()
        self._is_stopping = False
        self._waited_for = ""
        self._thread = threading.Thread(target=self._run, name=f"mild-upload-{spool.run_id}", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """Tell the thread that a record was appended to the spool."""
        with self._changed:
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all records are sent, and return whether they are.

        The wait ends after `seconds`, or as soon as the service does not answer.
        """
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
                    refusal = upload_next(self._spool, self._uploader)
                except NotAllowed:
                    raise
                except TEMPORARY_ERRORS as error:  # which the client does not repeat, such as those of a full store
                    self._log_once(error)
                    if isinstance(error.__cause__, StaleAttempt):
                        self._record_outcome(error.__cause__)
                    self._wait_before_retry(_RETRY_SECONDS)
                    continue
                self._record_outcome(refusal)
        except _StopRequested:
            pass
        except Exception as error:  # a thread that dies silently would not be noticed
            logger.warning(
                "run %s: nothing more is sent by this process (%s); what is left stays in %s",
                self._spool.run_id,
                error,
                self._spool.folder,
                exc_info=not isinstance(error, NotAllowed),
            )
        self.is_unreachable = True
        self.notify()

    def _log_once(self, error: MildError) -> None:
        """Log why the next record waits, unless the last one waited for the same reason."""
        if error.code != self._waited_for:
            self._waited_for = error.code
            logger.warning("run %s: what is in %s waits to be sent: %s", self._spool.run_id, self._spool.folder, error)

    def _wait_for_record(self) -> bool:
        """Wait for an unsent record; return False if all are sent and the thread should stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._spool.n_unsent or self._is_stopping)
            return bool(self._spool.n_unsent)

    def _record_outcome(self, refusal: Exception | None) -> None:
        """Note that the service has answered, with or without refusing the record."""
        with self._changed:
            self.is_unreachable, self._waited_for = False, ""
            if refusal is not None:
                self.n_refused += 1
            if isinstance(refusal, StaleAttempt):
                self.stale_error = refusal
            self._changed.notify_all()

    def _wait_before_retry(self, seconds: float) -> None:
        """Wait up to `seconds` before the next attempt; raise _StopRequested if the thread should stop."""
        with self._changed:
            if self._is_stopping:
                raise _StopRequested
            self.is_unreachable = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_stopping, seconds)
