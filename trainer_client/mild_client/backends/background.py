"""Selection by a service that may be away: a background sender, a spool on disk, and the local selector.

What a training job may set in its environment, and what holds without: modes, and where the spool is.
"""

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

from mild_client.backend import Position, RoundResult, RunSpec, RunState
from mild_client.backends.http import HttpBackend
from mild_client.backends.local import LocalSelector
from mild_client.backends.spool import Spool
from mild_client.backends.spool_records import Record
from mild_client.backends.uploader import NOT_NOW, Sender, finishing, labelling, opening
from mild_client.client import MildClient
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
from mild_core.types import EpochBits

Mode: TypeAlias = Literal["online", "offline", "disabled"]

SPOOL_DIR = "mild-spool"
SPOOL_BYTES = 10 << 30


def resolve_mode(given: Mode | None) -> Mode:
    """The mode that was `given`, or else the one in ``MILD_MODE``, or else online.

    Raises
    ------
    ParameterError
        If it is none.
    """
    found = given or os.environ.get("MILD_MODE") or "online"
    for known in get_args(Mode):
        if found == known:
            chosen: Mode = known
            return chosen
    raise ParameterError(f"the mode is {found!r}; choose one of {', '.join(get_args(Mode))}")


def resolve_spool_dir(given: Path | None) -> Path:
    """The folder of all spools: the one `given`, or else that of ``MILD_SPOOL_DIR``, or else ``mild-spool``."""
    return given or Path(os.environ.get("MILD_SPOOL_DIR") or SPOOL_DIR)


def resolve_spool_bytes(given: int | None) -> int:
    """Bytes that one run may keep unsent: as `given`, or else ``MILD_SPOOL_BYTES``, or else 10 GiB.

    Raises
    ------
    ParameterError
        If it is no number of bytes.
    """
    found = str(given) if given is not None else os.environ.get("MILD_SPOOL_BYTES") or str(SPOOL_BYTES)
    if not found.isdecimal():
        raise ParameterError(f"the spool's limit is {found!r}; give a number of bytes, such as {SPOOL_BYTES}")
    return int(found)


logger = logging.getLogger(__name__)

_SHORTLY = 2.0
"""Seconds that a training, which can go on alone, repeats a request for."""


class BackgroundBackend:
    """`SelectionBackend` whose training never waits for, and never dies of, the service.

    Every record goes to a spool on disk, and from there to the service by a thread of its own. A finished round's set
    is asked of the service where it has all that came before; where it is away, or takes longer than `patience`, the
    set is made in this process from the same bits, used, and sent along later. Usable as a context manager.

    Parameters
    ----------
    url
        The service's address; only the mode ``online`` needs one.
    folder
        Where the spools of all runs are, each in a folder of its name; None: ``MILD_SPOOL_DIR``, or ``mild-spool``.
    mode
        ``online``; ``offline``: all goes to the spool, for `sync` to send; ``disabled``: nothing is written or sent,
        and the sets are made in this process. None: ``MILD_MODE``, or ``online``.
    api_key
        Key to send; None takes the one in ``MILD_API_KEY``, if there is one.
    spool_bytes
        Most bytes of one run that may wait to be sent; None: ``MILD_SPOOL_BYTES``, or 10 GiB. Beyond them the run's
        records are no longer kept, and the training goes on.
    patience
        Seconds that the end of a round may wait for the service's set.
    drain
        Seconds that `close`, and the end of the process, may take to send what is left.
    http
        Client to send through instead of own ones; it stays the caller's to close.

    Raises
    ------
    ParameterError
        If the mode is none, or is ``online`` and `url` is missing or no address.

    Notes
    -----
    What ends a training all the same: at `open`, a service that answers and refuses (a run of that name, a missing
    key); and later, another trainer that has taken the run over (`StaleAttempt`): two of them would overwrite each
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
        self._client = self._connect(Retry(_SHORTLY, _SHORTLY)) if self.mode == "online" else None
        self._spool: Spool | None = None
        self._sender: Sender | None = None
        self._remote: HttpBackend | None = None
        self._finished: dict[int, RoundResult] = {}
        self._from_service: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def n_left(self) -> int:
        """Records that are still to be sent."""
        return 0 if self._spool is None else self._spool.n_left

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open the run, or take it over from `resume_from` on, at the service or, where that is away, in the spool.

        Raises
        ------
        RunExists
            If there is such a run, at the service or in the spool, and `resume_from` does not say where to go on.
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
        self._spool = Spool.create(folder, spec.run_id, spec.n_samples, self._url, self._limit)
        try:
            if resume_from is None and self._spool.n_left:
                raise RunExists(
                    f"run {spec.run_id!r} has {self._spool.n_left} records in {folder} that are not sent yet"
                )
            self._local = LocalSelector(folder / "bits")
            state = self._local.open(spec, resume_from) if resume_from is not None else RunState(0, 1)
            if not self._open_at_once(spec, resume_from):
                if resume_from is None and not self._spool.is_fresh:
                    raise RunExists(f"run {spec.run_id!r} was written before, into {folder}")
                self._spool.append(opening(spec, resume_from))
            if resume_from is None:
                state = self._local.open(spec)
        except BaseException:
            self.close()
            raise
        if self.mode == "online":
            self._sender = Sender(self._spool, self._connect)
        atexit.register(self.close)
        return state

    def put_labels(self, labels: NDArray[np.integer]) -> None:
        """Say the given labels."""
        self._local.put_labels(labels)
        self._keep(labelling(labels))

    def put_planted(self, planted: Bitmap) -> None:
        """Say who is mislabelled on purpose in round 0."""
        self._local.put_planted(planted)
        self._keep(Record("planted", {}, planted.tobytes()))

    def put_members(self, round: int, members: Bitmap) -> None:
        """Set whom the model is trained on."""
        self._local.put_members(round, members)
        self._keep(Record("members", {"round": round}, members.tobytes()))

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Keep one epoch's bits, to be sent.

        Raises
        ------
        StaleAttempt
            If another trainer has taken the run over.
        """
        self._check_current()
        self._local.put_epoch(round, epoch, bits)
        self._keep(Record("epoch", {"round": round, "epoch": epoch}, bits.to_body()))

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Attach an epoch's scalars."""
        self._keep(Record("metrics", {"round": round, "epoch": epoch, "metrics": dict(metrics)}), is_durable=False)

    def finish(self, round: int) -> RoundResult:
        """Freeze the round, with the service's set or, where that is not to be had, one made here.

        Raises
        ------
        StaleAttempt
            If another trainer has taken the run over.
        """
        if round in self._finished:
            return self._finished[round]
        result = self._ask(round)
        self._check_current()
        if result is not None:
            self._local.adopt(result)
            self._from_service.add(round)
            self._finished[round] = result
            return result
        self._finished[round] = result = self._local.finish(round)
        self._keep(finishing(result))
        # Named, as the service may have frozen the round with its own set before its answer was lost.
        self._keep(Record("members", {"round": round + 1}, result.selected.tobytes()))
        return result

    def weights(self, result: RoundResult) -> NDArray[np.float32]:
        """How likely each sample's label is right after a finished round, shape (n_samples,); 0: not judged."""
        if result.round in self._from_service and self._remote is not None:
            with contextlib.suppress(*NOT_NOW):
                return self._remote.weights(result)
        return self._local.weights(result)

    def flush(self, seconds: float) -> bool:
        """Wait at most so long until all is sent, but not for a service that is away; return whether all is."""
        return self._sender.flush(seconds) if self._sender is not None else not self.n_left

    def close(self) -> None:
        """Send what is left, for at most `drain` seconds, and log what is still in the spool and how to send it."""
        atexit.unregister(self.close)
        spool, sender, self._sender = self._spool, self._sender, None
        if sender is not None:
            sender.close(self._drain)
        if spool is not None and not spool.is_closed:
            spool.close()
            if spool.n_left:
                logger.warning("run %s: %s", spool.run_id, self.told_left())
        if self._client is not None:
            self._client.close()

    def told_left(self) -> str:
        """What is still to be sent, and the command that sends it; empty where nothing is."""
        spool = self._spool
        if spool is None or not spool.n_left:
            return ""
        where = "" if self._url else " --url URL"
        return (
            f"{spool.n_left} records ({spool.n_bytes_left} bytes) are not sent yet and are kept; send them with: "
            f"mild sync {spool.folder}{where}"
        )

    def _connect(self, retry: Retry) -> MildClient:
        assert self._url is not None
        return MildClient(self._url, self._http, retry, timeout=self._patience, api_key=self._api_key)

    def _open_at_once(self, spec: RunSpec, resume_from: Position | None) -> bool:
        """Open the run at the service, behind what was left from before; return whether that could be done now."""
        if self._client is None or self._spool is None:
            return False
        if self._spool.n_left and not self._send_left(self._spool):
            return False
        remote = HttpBackend(self._client)
        try:
            state = remote.open(spec, resume_from)
        except (ServiceUnreachable, Unavailable) as error:
            logger.warning("run %s is recorded without the service, to be sent to it later: %s", spec.run_id, error)
            return False
        self._spool.note_attempt(state.attempt)
        self._remote = remote
        return True

    def _send_left(self, spool: Spool) -> bool:
        sender = Sender(spool, self._connect)
        try:
            return sender.flush(self._patience)
        finally:
            sender.close(self._patience)

    def _keep(self, record: Record, is_durable: bool = True) -> None:
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
        if self._sender is not None:
            self._sender.wake()

    def _ask(self, round: int) -> RoundResult | None:
        """The service's set of a round; None where it is away, slow, or lacks something."""
        sender, spool, client = self._sender, self._spool, self._client
        if sender is None or spool is None or client is None or spool.is_full:
            return None
        if not sender.flush(self._patience) or sender.n_refused or spool.attempt is None:
            return None
        if self._remote is None:
            self._remote = HttpBackend(client)
        self._remote.go_on(RunSpec(spool.run_id, spool.n_samples), spool.attempt)
        try:
            return self._remote.finish(round)
        except StaleAttempt:
            raise
        except ClientError as error:
            logger.warning("run %s: round %d is selected in this process: %s", spool.run_id, round, error)
            return None

    def _check_current(self) -> None:
        if self._sender is not None and self._sender.stale is not None:
            raise self._sender.stale
