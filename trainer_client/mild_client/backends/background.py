"""`BackgroundBackend`, with which training continues while the service is unreachable."""

import atexit
import contextlib
import logging
import os
from typing import Literal, TypeAlias, cast, get_args

import httpx
import numpy as np
from numpy.typing import NDArray

from mild_client.arguments import to_integer, to_path, to_spec
from mild_client.backend import Position, RoundResult, RunState
from mild_client.backends.http import HttpBackend
from mild_client.backends.local import RecordedRun
from mild_client.backends.spool import Spool
from mild_client.backends.uploader import TEMPORARY_ERRORS, UploadThread, attach_backend
from mild_client.client import MildClient
from mild_client.commands import format_command
from mild_client.errors import RunExists, ServiceUnreachable, StaleAttempt, Unavailable
from mild_client.transport import Retry
from mild_core.errors import MildError, ParameterError
from mild_core.types import RunSpec

logger = logging.getLogger(__name__)

Mode: TypeAlias = Literal["online", "offline", "disabled"]

_SHORT_DEADLINE = 2.0
"""Deadline in seconds of requests that the training waits for; it can continue without a response."""
DEFAULT_SPOOL_DIR = "mild-spool"
DEFAULT_SPOOL_BYTES = 10 << 30


def resolve_mode(mode: str | None) -> Mode:
    """Return `mode`; if it is None, return the mode in ``MILD_MODE``, or ``online`` if that is not set."""
    name = mode or os.environ.get("MILD_MODE") or "online"
    if name not in get_args(Mode):
        raise ParameterError(f"the mode is {name!r}; choose one of {', '.join(get_args(Mode))}")
    return cast("Mode", name)


class BackgroundBackend(RecordedRun):
    """`SelectionBackend` with which training continues when the service fails or does not answer.

    Every record is written to a spool on disk, and a thread sends it to the service. At the end of a round, the service
    selects the clean set if it has all records. If the service is unreachable or takes longer than `patience`, the set
    is selected in this process from the same bits, and sent to the service later. A context manager, which calls
    `close`.

    Parameters
    ----------
    url
        Address of the service; required only in the mode ``online``.
    folder
        Folder with the spools of all runs, one folder per run. None takes ``MILD_SPOOL_DIR``, or ``mild-spool``.
    mode
        ``online`` sends the records. ``offline`` leaves them in the spool, for ``mild sync`` to send. ``disabled``
        writes and sends nothing, and selects the clean sets in this process. None takes ``MILD_MODE``, or ``online``.
    api_key
        API key to send. None takes the key in ``MILD_API_KEY``, if that is set.
    spool_bytes
        Largest number of unsent bytes of one run. None takes ``MILD_SPOOL_BYTES``, or 10 GiB. Once it is reached, no
        more records of the run are stored, and the training continues.
    patience
        Seconds to wait for the service's clean set at the end of a round.
    drain
        Seconds that `close`, and the end of the process, may take to send the remaining records.
    http
        HTTP client to use, which `close` leaves open. None creates clients.

    Raises
    ------
    ParameterError
        If the mode is invalid, or is ``online`` and `url` is missing or invalid.

    Notes
    -----
    A process that is forked while the run is open, such as a data loader's worker, does not own the run: it sends and
    writes nothing, and its calls that write raise LocalStateError.

    Two failures still end the training: an error response of the service to `open` (such as an existing run, or a
    missing key), and `StaleAttempt`, if another trainer has taken over the run, as two trainers would overwrite each
    other's files.
    """

    def __init__(
        self,
        url: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        mode: Mode | None = None,
        api_key: str | None = None,
        spool_bytes: int | None = None,
        patience: float = 30.0,
        drain: float = 10.0,
        http: httpx.Client | None = None,
    ) -> None:
        super().__init__()
        self.mode = resolve_mode(mode)
        if self.mode == "online" and url is None:
            raise ParameterError("mode is online and there is no url; give the service's address, or mode offline")
        self._url, self._api_key, self._http = url, api_key, http
        self._folder = to_path(folder or os.environ.get("MILD_SPOOL_DIR") or DEFAULT_SPOOL_DIR, "folder")
        limit = spool_bytes if spool_bytes is not None else os.environ.get("MILD_SPOOL_BYTES") or DEFAULT_SPOOL_BYTES
        if not str(limit).isdecimal():
            raise ParameterError(
                f"the spool's limit is {str(limit)!r}; give a number of bytes, such as {DEFAULT_SPOOL_BYTES}"
            )
        self._limit = int(limit)
        self._patience, self._drain = patience, drain
        self._client = self._connect()
        self._spool: Spool | None = None
        self._upload_thread: UploadThread | None = None

    @property
    def n_unsent(self) -> int:
        """Number of records that are not sent yet."""
        return 0 if self._spool is None else self._spool.n_unsent

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open a new run, or resume the run at `resume_from`, the next epoch to write.

        If the service is unreachable, the run is opened in the spool only, and at the service later.

        Raises
        ------
        RunExists
            If the run exists, at the service or in the spool, and `resume_from` is None.
        ResumeError
            If epochs before `resume_from` are missing in the spool folder or at the service.
        ServiceError
            If the service refuses to open the run.
        SpoolError
            If the spool cannot be created, or another process uses it.
        """
        spec = to_spec(spec)
        if self.mode == "disabled":
            return self._restore(None, spec, resume_from)
        self._client = self._client or self._connect()
        folder = self._folder / spec.run_id
        self._spool = spool = Spool.create(folder, spec.run_id, spec.num_samples, self._url, self._limit)
        try:
            if resume_from is None and spool.n_unsent:
                raise RunExists(f"run {spec.run_id!r} has {spool.n_unsent} records in {folder} that are not sent yet")
            state = self._restore(spool, spec, resume_from)
            if resume_from == Position(0, 0):  # the service may have lost what came before
                self._digests.clear()
            is_open = self._try_open_at_service(spool, spec, resume_from)
            if not is_open and resume_from is None and (spool.size or spool.state.attempt is not None):
                raise RunExists(f"run {spec.run_id!r} was written before, into {folder}")
            self._write_open(resume_from)
            if is_open:
                spool.mark_sent()
        except BaseException:
            self.close()
            raise
        if self.mode == "online":
            self._upload_thread = UploadThread(spool, self._create_client)
        atexit.register(self.close)
        return state

    def finish(self, round: int) -> RoundResult:
        """Freeze the round, and return the clean set of the service, or, if there is none, of this process.

        Raises
        ------
        StaleAttempt
            If another trainer has taken over the run.
        """
        round = to_integer(round, "round")
        if (stored := self._get_result(round)) is not None:
            return stored
        if self._spool is None or (result := self._fetch_result(self._spool, round)) is None:
            return super().finish(round)
        with self._spool.changed:  # so that the thread does not send the record before it is marked
            self._end_round(result)
            self._spool.mark_sent()
        return result

    def compute_weights(self, result: RoundResult) -> NDArray[np.float32]:
        """Return the probability that each sample's given label is right, shape (n_samples,).

        The probability is 0 where the sample has no score. `result` is that of a finished round.
        """
        if "basis" in result.summary and self._client is not None and self._spool is not None:  # from the service
            with contextlib.suppress(*TEMPORARY_ERRORS):
                return attach_backend(self._client, self._spool).compute_weights(result)
        return super().compute_weights(result)

    def flush(self, seconds: float) -> bool:
        """Wait until all records are sent, and return whether they are.

        The wait ends after `seconds`, or as soon as the service does not answer.
        """
        return self._upload_thread.flush(seconds) if self._upload_thread is not None else not self.n_unsent

    def close(self) -> None:
        """Send the remaining records for up to `drain` seconds, and log how to send those still in the spool."""
        atexit.unregister(self.close)
        if self._spool is not None and not self._spool.is_closed:
            if self._upload_thread is not None:
                self._upload_thread.close(self._drain)
                self._upload_thread = None
            self._spool.close()
            if self._spool.n_unsent:
                logger.warning("run %s: %s", self._spool.state.run_id, self.describe_unsent())
        if self._client is not None:
            self._client.close()
            self._client = None
        super().close()

    def describe_unsent(self) -> str:
        """Return a sentence with the unsent records and the command that sends them; empty if all are sent."""
        spool = self._spool
        if spool is None or not spool.n_unsent:
            return ""
        url_option = () if self._url else ("--url", "URL")
        return (
            f"{spool.n_unsent} records ({spool.n_unsent_bytes} bytes) are not sent yet and are kept; send them with: "
            f"{format_command('mild', 'sync', spool.folder, *url_option)}"
        )

    def _connect(self) -> MildClient | None:
        """Create the client for requests that the training waits for; None unless the mode is ``online``."""
        return self._create_client(Retry(_SHORT_DEADLINE, _SHORT_DEADLINE)) if self.mode == "online" else None

    def _create_client(self, retry: Retry) -> MildClient:
        """Create a client of the service with its own retries."""
        assert self._url is not None
        return MildClient(self._url, self._http, retry, timeout=self._patience, api_key=self._api_key)

    def _try_open_at_service(self, spool: Spool, spec: RunSpec, resume_from: Position | None) -> bool:
        """Send older records and open the run at the service; return False if the service cannot be reached."""
        if self._client is None or (spool.n_unsent and not self._send_unsent(spool)):
            return False
        try:
            spool.state.attempt = HttpBackend(self._client).open(spec, resume_from).attempt
        except (ServiceUnreachable, Unavailable) as error:
            logger.warning("run %s is recorded without the service, to be sent to it later: %s", spec.run_id, error)
            return False
        return True

    def _send_unsent(self, spool: Spool) -> bool:
        """Send the records of an earlier process within `patience`; return whether all are sent."""
        upload_thread = UploadThread(spool, self._create_client)
        try:
            return upload_thread.flush(self._patience)
        finally:
            upload_thread.close(self._patience)
            spool.refusal = None  # records of an attempt that has ended say nothing of the one that begins

    def _fetch_result(self, spool: Spool, round: int) -> RoundResult | None:
        """Finish a round at the service and return the result; None if the service is slow or lacks records."""
        spool.check_open()
        upload_thread, client = self._upload_thread, self._client
        if upload_thread is None or client is None or spool.is_full or not upload_thread.flush(self._patience):
            return None
        if upload_thread.n_refused or spool.state.attempt is None:
            return None
        try:
            return attach_backend(client, spool).finish(round)
        except StaleAttempt:
            raise
        except MildError as error:
            logger.warning("run %s: round %d is selected in this process: %s", spool.state.run_id, round, error)
            return None
