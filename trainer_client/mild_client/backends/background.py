"""`BackgroundBackend`: selection by a service that may be unreachable, with a spool and a local selector."""

import atexit
import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, TypeAlias, get_args

import httpx
import numpy as np
from numpy.typing import NDArray

from mild_client.backend import Position, RoundResult, RunState
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
from mild_client.commands import command
from mild_client.errors import (
    ClientError,
    LocalStateError,
    RunExists,
    ServiceUnreachable,
    SpoolFull,
    StaleAttempt,
    Unavailable,
)
from mild_client.transport import Retry
from mild_core.bitmap import Bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits, RunSpec

logger = logging.getLogger(__name__)

Mode: TypeAlias = Literal["online", "offline", "disabled"]

_SHORT_DEADLINE = 2.0
"""Deadline in seconds of requests that the training waits for; it can continue without a response."""
DEFAULT_SPOOL_DIR = "mild-spool"
DEFAULT_SPOOL_BYTES = 10 << 30


def resolve_mode(mode: str | None) -> Mode:
    """Return `mode`, or else that of ``MILD_MODE``, or else ``online``.

    Raises
    ------
    ParameterError
        If it is not a mode.
    """
    name = mode or os.environ.get("MILD_MODE") or "online"
    for valid_mode in get_args(Mode):
        if name == valid_mode:
            resolved: Mode = valid_mode
            return resolved
    raise ParameterError(f"the mode is {name!r}; choose one of {', '.join(get_args(Mode))}")


def resolve_spool_dir(folder: Path | None) -> Path:
    """Return the folder of all spools: `folder`, or else that of ``MILD_SPOOL_DIR``, or else ``mild-spool``."""
    return folder or Path(os.environ.get("MILD_SPOOL_DIR") or DEFAULT_SPOOL_DIR)


def resolve_spool_bytes(limit: int | None) -> int:
    """Return the largest number of unsent bytes of a run: `limit`, or else ``MILD_SPOOL_BYTES``, or else 10 GiB.

    Raises
    ------
    ParameterError
        If it is not a number of bytes.
    """
    text = str(limit) if limit is not None else os.environ.get("MILD_SPOOL_BYTES") or str(DEFAULT_SPOOL_BYTES)
    if not text.isdecimal():
        raise ParameterError(f"the spool's limit is {text!r}; give a number of bytes, such as {DEFAULT_SPOOL_BYTES}")
    return int(text)


class BackgroundBackend:
    """`SelectionBackend` with which a failure of the service neither blocks nor ends the training.

    Every record is written to a spool on disk, and a thread sends it to the service. At the end of a round, the service
    selects the clean set if it has all records; if it is unreachable or takes longer than `patience`, the set is
    selected in this process from the same bits, used, and sent to the service later. Usable as a context manager.

    Parameters
    ----------
    url
        The service's address; only the mode ``online`` needs one.
    folder
        Folder of the spools of all runs, one folder per run; None: ``MILD_SPOOL_DIR``, or ``mild-spool``.
    mode
        ``online``; ``offline``: records stay in the spool, for `sync` to send; ``disabled``: nothing is written or
        sent, and the sets are selected in this process. None: ``MILD_MODE``, or ``online``.
    api_key
        Key to send; None takes the one in ``MILD_API_KEY``, if it is set.
    spool_bytes
        Largest number of unsent bytes of one run; None: ``MILD_SPOOL_BYTES``, or 10 GiB. Beyond it, the run's records
        are no longer stored, and the training continues.
    patience
        Seconds to wait for the service's set at the end of a round.
    drain
        Seconds that `close`, and the end of the process, may take to send the remaining records.
    http
        HTTP client to use; it is not closed. None: create own ones.

    Raises
    ------
    ParameterError
        If the mode is invalid, or is ``online`` and `url` is missing or invalid.

    Notes
    -----
    Two failures still end the training: a refusal by the service at `open` (such as an existing run, or a missing
    key), and later another trainer that has taken the run over (`StaleAttempt`), as two trainers would overwrite each
    other's files.
    """

    def __init__(
        self,
        url: str | None = None,
        folder: Path | None = None,
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
        self._client = self._connect(Retry(_SHORT_DEADLINE, _SHORT_DEADLINE)) if self.mode == "online" else None
        self._spool: Spool | None = None
        self._upload_thread: UploadThread | None = None
        self._remote: HttpBackend | None = None
        self._finished: dict[int, RoundResult] = {}
        self._from_service: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def n_unsent(self) -> int:
        """Number of unsent records."""
        return 0 if self._spool is None else self._spool.n_unsent

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open the run, or take it over at `resume_from`; in the spool alone if the service is unreachable.

        Raises
        ------
        RunExists
            If the run exists, at the service or in the spool, and `resume_from` is None.
        ResumeError
            If epochs before `resume_from` are missing.
        ServiceError
            If the service refuses.
        SpoolError
            If the spool cannot be written, or is in use.
        """
        self._finished.clear()
        self._from_service.clear()
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
            if not self._try_open(spec, resume_from):
                if resume_from is None and not self._spool.is_fresh:
                    raise RunExists(f"run {spec.run_id!r} was written before, into {folder}")
                self._spool.append(make_open_record(spec, resume_from))
            if resume_from is None:
                state = self._local.open(spec)
        except BaseException:
            self.close()
            raise
        if self.mode == "online":
            self._upload_thread = UploadThread(self._spool, self._connect)
        atexit.register(self.close)
        return state

    def put_labels(self, labels: NDArray[np.integer]) -> None:
        """Store the given labels."""
        self._local.put_labels(labels)
        self._append(make_labels_record(labels))

    def put_planted(self, planted: Bitmap) -> None:
        """Set the samples whose labels are broken on purpose in round 0."""
        self._local.put_planted(planted)
        self._append(Record("planted", {}, planted.tobytes()))

    def put_members(self, round: int, members: Bitmap) -> None:
        """Set the training samples of a round."""
        self._local.put_members(round, members)
        self._append(Record("members", {"round": round}, members.tobytes()))

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Store one epoch's bits, to be sent.

        Raises
        ------
        StaleAttempt
            If another trainer has taken the run over.
        """
        self._check_current()
        self._local.put_epoch(round, epoch, bits)
        self._append(Record("epoch", {"round": round, "epoch": epoch}, bits.to_body()))

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store an epoch's scalars, to be sent."""
        self._append(Record("metrics", {"round": round, "epoch": epoch, "metrics": dict(metrics)}), is_durable=False)

    def finish(self, round: int) -> RoundResult:
        """Freeze the round with the service's set, or, if there is none, with one selected in this process.

        Raises
        ------
        StaleAttempt
            If another trainer has taken the run over.
        """
        if round in self._finished:
            return self._finished[round]
        result = self._fetch_result(round)
        self._check_current()
        if result is not None:
            self._local.adopt_result(result)
            self._from_service.add(round)
            self._finished[round] = result
            return result
        self._finished[round] = result = self._local.finish(round)
        self._append(make_finish_record(result))
        # Explicit, as the service may have frozen the round with its own set before its response was lost.
        self._append(Record("members", {"round": round + 1}, result.selected.tobytes()))
        return result

    def weights(self, result: RoundResult) -> NDArray[np.float32]:
        """Return the probability that each label is right, after a finished round, shape (n_samples,); 0: no score."""
        if result.round in self._from_service and self._remote is not None:
            with contextlib.suppress(*TEMPORARY_ERRORS):
                return self._remote.weights(result)
        return self._local.weights(result)

    def flush(self, seconds: float) -> bool:
        """Wait up to `seconds` until all is sent, or the service does not answer; return whether all is sent."""
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
        if self._client is not None:
            self._client.close()

    def describe_unsent(self) -> str:
        """Describe the unsent records and the command that sends them; empty if there are none."""
        spool = self._spool
        if spool is None or not spool.n_unsent:
            return ""
        url_option = () if self._url else ("--url", "URL")
        return (
            f"{spool.n_unsent} records ({spool.n_unsent_bytes} bytes) are not sent yet and are kept; send them with: "
            f"{command('mild', 'sync', spool.folder, *url_option)}"
        )

    def _connect(self, retry: Retry) -> MildClient:
        assert self._url is not None
        return MildClient(self._url, self._http, retry, timeout=self._patience, api_key=self._api_key)

    def _try_open(self, spec: RunSpec, resume_from: Position | None) -> bool:
        """Open the run at the service, after sending older records; return whether the service answered."""
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
        upload_thread = UploadThread(spool, self._connect)
        try:
            return upload_thread.flush(self._patience)
        finally:
            upload_thread.close(self._patience)

    def _append(self, record: Record, is_durable: bool = True) -> None:
        if self.mode == "disabled":
            return
        if self._spool is None or self._spool.is_closed:
            raise LocalStateError(f"{record.name} is written to a run that is not open; open it first")
        if self._spool.is_full:
            return
        try:
            self._spool.append(record, is_durable)
        except SpoolFull as error:
            logger.error(
                "run %s: %s. The training goes on and selects in this process; nothing more of the run is kept to be "
                "sent",
                self._spool.run_id,
                error,
            )
        if self._upload_thread is not None:
            self._upload_thread.notify()

    def _fetch_result(self, round: int) -> RoundResult | None:
        """Return the service's result of a round; None if it is unreachable, slow, or lacks records."""
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
        except ClientError as error:
            logger.warning("run %s: round %d is selected in this process: %s", spool.run_id, round, error)
            return None

    def _check_current(self) -> None:
        if self._upload_thread is not None and self._upload_thread.stale_error is not None:
            raise self._upload_thread.stale_error
