"""`BackgroundBackend`, with which training continues while the service is unreachable."""

import atexit
import contextlib
import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self, TypeAlias, get_args

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_client.arguments import (
    SampleSet,
    to_bitmap,
    to_bits,
    to_classes,
    to_integer,
    to_metrics,
    to_path,
    to_spec,
)
from mild_client.backend import EndStatus, Position, RoundResult, RunState
from mild_client.backends.http import HttpBackend
from mild_client.backends.local import LocalSelector
from mild_client.backends.spool import Spool
from mild_client.backends.spool_records import Record
from mild_client.backends.uploader import (
    TEMPORARY_ERRORS,
    UploadThread,
    make_finish_record,
    make_labels_record,
    make_open_record,
)
from mild_client.client import MildClient
from mild_client.commands import format_command
from mild_client.errors import (
    LocalStateError,
    RunExists,
    ServiceUnreachable,
    SpoolFull,
    StaleAttempt,
    Unavailable,
)
from mild_client.transport import Retry
from mild_core.errors import MildError, ParameterError
from mild_core.types import EpochBits, RunSpec

logger = logging.getLogger(__name__)

Mode: TypeAlias = Literal["online", "offline", "disabled"]

_SHORT_DEADLINE = 2.0
"""Deadline in seconds of requests that the training waits for; it can continue without a response."""
DEFAULT_SPOOL_DIR = "mild-spool"
DEFAULT_SPOOL_BYTES = 10 << 30


def resolve_mode(mode: str | None) -> Mode:
    """Return `mode`; if it is None, return the mode in ``MILD_MODE``, or ``online`` if that is not set.

    Raises
    ------
    ParameterError
        If the mode is not ``online``, ``offline`` or ``disabled``.
    """
    name = mode or os.environ.get("MILD_MODE") or "online"
    for valid_mode in get_args(Mode):
        if name == valid_mode:
            resolved: Mode = valid_mode
            return resolved
    raise ParameterError(f"the mode is {name!r}; choose one of {', '.join(get_args(Mode))}")


def resolve_spool_dir(folder: str | os.PathLike[str] | None) -> Path:
    """Return the folder of all spools: `folder`, or that in ``MILD_SPOOL_DIR``, or ``mild-spool``."""
    return to_path(folder or os.environ.get("MILD_SPOOL_DIR") or DEFAULT_SPOOL_DIR, "folder")


def resolve_spool_bytes(limit: int | None) -> int:
    """Return the largest number of unsent bytes of a run: `limit`, or that in ``MILD_SPOOL_BYTES``, or 10 GiB.

    Raises
    ------
    ParameterError
        If the limit is not a whole number of bytes.
    """
    text = str(limit) if limit is not None else os.environ.get("MILD_SPOOL_BYTES") or str(DEFAULT_SPOOL_BYTES)
    if not text.isdecimal():
        raise ParameterError(f"the spool's limit is {text!r}; give a number of bytes, such as {DEFAULT_SPOOL_BYTES}")
    return int(text)


class BackgroundBackend:
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
        self.mode = resolve_mode(mode)
        if self.mode == "online" and url is None:
            raise ParameterError("mode is online and there is no url; give the service's address, or mode offline")
        self._url, self._api_key, self._http = url, api_key, http
        self._folder = resolve_spool_dir(folder)
        self._limit = resolve_spool_bytes(spool_bytes)
        self._patience, self._drain = patience, drain
        self._local = LocalSelector()
        self._client = self._create_client(Retry(_SHORT_DEADLINE, _SHORT_DEADLINE)) if self.mode == "online" else None
        self._spool: Spool | None = None
        self._upload_thread: UploadThread | None = None
        self._remote: HttpBackend | None = None
        self._n_samples = 0
        self._results: dict[int, RoundResult] = {}
        self._rounds_from_service: set[int] = set()
        self._is_forked = False
        self._n_dropped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

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
        self._n_samples = spec.num_samples
        self._results.clear()
        self._rounds_from_service.clear()
        if self.mode == "disabled":
            return self._local.open(spec, resume_from)
        folder = self._folder / spec.run_id
        self._spool = Spool.create(folder, spec.run_id, spec.num_samples, self._url, self._limit)
        try:
            if resume_from is None and self._spool.n_unsent:
                raise RunExists(
                    f"run {spec.run_id!r} has {self._spool.n_unsent} records in {folder} that are not sent yet"
                )
            self._local = LocalSelector(folder / "bits")
            state = self._local.open(spec, resume_from) if resume_from is not None else RunState(0, 1)
            if not self._try_open_at_service(spec, resume_from):
                if resume_from is None and not self._spool.is_fresh:
                    raise RunExists(f"run {spec.run_id!r} was written before, into {folder}")
                self._append_record(make_open_record(spec, resume_from))
            if resume_from is None:
                state = self._local.open(spec)
        except BaseException:
            self.close()
            raise
        if self.mode == "online":
            self._upload_thread = UploadThread(self._spool, self._create_client)
        atexit.register(self.close)
        _open_backends.add(self)
        return state

    def put_labels(self, labels: ArrayLike) -> None:
        """Store the given labels, shape (n_samples,), and send them later."""
        self._check_writable()
        labels = to_classes(labels, "labels")
        self._local.put_labels(labels)
        self._append_record(make_labels_record(labels))

    def put_sample_ids(self, ids: Sequence[str]) -> None:
        """Store the external id of each sample, and send them later."""
        self._append_record(Record("sample_ids", {}, "\n".join(ids).encode()))

    def put_planted(self, planted: SampleSet) -> None:
        """Store which samples round 0 trains on with planted (wrong) labels: a bitmap, a mask, or indices."""
        self._check_writable()
        planted = to_bitmap(planted, "planted", self._n_samples)
        self._local.put_planted(planted)
        self._append_record(Record("planted", {}, planted.tobytes()))

    def put_members(self, round: int, members: SampleSet) -> None:
        """Store the samples that a round trains on: a bitmap, a mask, or indices."""
        self._check_writable()
        round, members = to_integer(round, "round"), to_bitmap(members, "members", self._n_samples)
        self._local.put_members(round, members)
        self._append_record(Record("members", {"round": round}, members.tobytes()))

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Store the correctness bits of all samples for one epoch, and send them later.

        Raises
        ------
        StaleAttempt
            If another trainer has taken over the run.
        """
        self._check_writable()
        round, epoch = to_integer(round, "round"), to_integer(epoch, "epoch")
        bits = to_bits(bits, n_samples=self._n_samples)
        self._local.put_epoch(round, epoch, bits)
        self._append_record(Record("epoch", {"round": round, "epoch": epoch}, bits.to_body()))

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store scalars of an epoch, such as ``train_loss``, and send them later."""
        if numbers := to_metrics(metrics):
            position = {"round": to_integer(round, "round"), "epoch": to_integer(epoch, "epoch")}
            self._append_record(Record("metrics", {**position, "metrics": numbers}), is_durable=False)

    def finish(self, round: int) -> RoundResult:
        """Freeze the round, and return the clean set of the service, or, if there is none, of this process.

        Raises
        ------
        StaleAttempt
            If another trainer has taken over the run.
        """
        round = to_integer(round, "round")
        if round in self._results:
            return self._results[round]
        self._check_writable()
        result = self._fetch_result(round)
        self._check_writable()
        if result is not None:
            self._local.adopt_result(result)
            self._rounds_from_service.add(round)
            self._results[round] = result
            return result
        self._results[round] = result = self._local.finish(round)
        self._append_record(make_finish_record(result))
        # Explicit, as the service may have frozen the round with its own set before its response was lost.
        self._append_record(Record("members", {"round": round + 1}, result.selected.tobytes()))
        return result

    def compute_weights(self, result: RoundResult) -> NDArray[np.float32]:
        """Return the probability that each sample's given label is right, shape (n_samples,).

        The probability is 0 where the sample has no score. `result` is that of a finished round.
        """
        if result.round in self._rounds_from_service and self._remote is not None:
            with contextlib.suppress(*TEMPORARY_ERRORS):
                return self._remote.compute_weights(result)
        return self._local.compute_weights(result)

    def set_status(self, status: EndStatus) -> None:
        """Set the status of the run, and send it later."""
        self._append_record(Record("status", {"status": status}))

    def flush(self, seconds: float) -> bool:
        """Wait until all records are sent, and return whether they are.

        The wait ends after `seconds`, or as soon as the service does not answer.
        """
        return self._upload_thread.flush(seconds) if self._upload_thread is not None else not self.n_unsent

    def close(self) -> None:
        """Send the remaining records for up to `drain` seconds, and log how to send those still in the spool."""
        atexit.unregister(self.close)
        spool, upload_thread, self._upload_thread = self._spool, self._upload_thread, None
        if upload_thread is not None:
            upload_thread.close(self._drain)
        if spool is not None and not spool.is_closed:
            spool.close()
            if spool.n_unsent:
                logger.warning("run %s: %s", spool.run_id, self.describe_unsent())
            if self._n_dropped:
                logger.error(
                    "run %s: %d records were not kept, as %s was full, and are not at the service; its sets were made "
                    "in this process",
                    spool.run_id,
                    self._n_dropped,
                    spool.folder,
                )
            if unwritten := self._local.describe_unwritten():
                logger.warning("run %s: %s", spool.run_id, unwritten)
        if self._client is not None:
            self._client.close()

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

    def _create_client(self, retry: Retry) -> MildClient:
        """Create a client of the service with its own retries."""
        assert self._url is not None
        return MildClient(self._url, self._http, retry, timeout=self._patience, api_key=self._api_key)

    def _try_open_at_service(self, spec: RunSpec, resume_from: Position | None) -> bool:
        """Send older records and open the run at the service; return False if the service cannot be reached."""
        if self._client is None or self._spool is None:
            return False
        if self._spool.n_unsent and not self._send_unsent(self._spool):
            return False
        remote = HttpBackend(self._client)
        try:
            state = remote.open(spec, resume_from)
        except (ServiceUnreachable, Unavailable) as error:
            logger.warning("run %s is recorded without the service, to be sent to it later: %s", spec.run_id, error)
            return False
        self._spool.set_attempt(state.attempt)
        self._remote = remote
        return True

    def _send_unsent(self, spool: Spool) -> bool:
        """Send the records of an earlier process within `patience`; return whether all are sent."""
        upload_thread = UploadThread(spool, self._create_client)
        try:
            return upload_thread.flush(self._patience)
        finally:
            upload_thread.close(self._patience)

    def _append_record(self, record: Record, is_durable: bool = True) -> None:
        """Add a record to the spool and wake the upload thread; a full spool only logs an error."""
        if self.mode == "disabled":
            return
        self._check_writable()
        assert self._spool is not None
        if self._spool.is_full:
            self._n_dropped += 1
            return
        try:
            self._spool.append(record, is_durable)
        except SpoolFull as error:
            self._n_dropped += 1
            logger.error(
                "run %s: %s. The training goes on and selects in this process; nothing more of the run is kept to be "
                "sent",
                self._spool.run_id,
                error,
            )
        if self._upload_thread is not None:
            self._upload_thread.notify()

    def _fetch_result(self, round: int) -> RoundResult | None:
        """Finish a round at the service and return the result; None if the service is slow or lacks records."""
        upload_thread, spool, client = self._upload_thread, self._spool, self._client
        if upload_thread is None or spool is None or client is None or spool.is_full:
            return None
        if not upload_thread.flush(self._patience) or upload_thread.n_refused or spool.attempt is None:
            return None
        if self._remote is None:
            self._remote = HttpBackend(client)
        self._remote.use_attempt(RunSpec(spool.run_id, spool.n_samples), spool.attempt)
        try:
            return self._remote.finish(round)
        except StaleAttempt:
            raise
        except MildError as error:
            logger.warning("run %s: round %d is selected in this process: %s", spool.run_id, round, error)
            return None

    def _check_writable(self) -> None:
        """Raise LocalStateError if the run is not open in this process, StaleAttempt if another trainer has it."""
        if self.mode != "disabled" and (self._spool is None or self._spool.is_closed):
            forked = ", as it was opened by the process that this one was forked from" if self._is_forked else ""
            raise LocalStateError(
                f"the run is not open here{forked}; open it, and write to it in the process that has opened it"
            )
        if self._upload_thread is not None and self._upload_thread.stale_error is not None:
            raise self._upload_thread.stale_error

    def _abandon(self) -> None:
        """Give the run up in a forked process: it is the parent's, whose thread this process does not have."""
        atexit.unregister(self.close)
        self._is_forked, self._upload_thread = True, None
        if self._spool is not None and not self._spool.is_closed:
            self._spool.abandon()


_open_backends: weakref.WeakSet[BackgroundBackend] = weakref.WeakSet()
"""Backends with a run that this process has opened."""


def _abandon_backends() -> None:
    """Give the runs of the parent up in a process that was just forked."""
    for backend in list(_open_backends):
        backend._abandon()
    _open_backends.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_abandon_backends)
