"""A thread that sends what a spool holds, in its order, and keeps trying: whoever writes to the spool never waits.

From a spool's records to calls of the service: what each kind is, how it is sent, and what a refusal means.
"""

import dataclasses
import io
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_client.backend import Position, RoundResult, RunSpec
from mild_client.backends.http import HttpBackend
from mild_client.backends.spool import Spool
from mild_client.backends.spool_records import Record
from mild_client.client import MildClient
from mild_client.compatibility import VERSION
from mild_client.errors import LocalStateError, NotAllowed, ServiceUnreachable, StaleAttempt, Unavailable
from mild_client.transport import Retry
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import MildError
from mild_core.types import EpochBits, SelectionOptions

logger = logging.getLogger(__name__)

NOT_NOW = (ServiceUnreachable, Unavailable, NotAllowed)
"""What says nothing against a record: it stays, to be sent later, or with another key."""


def opening(spec: RunSpec, resume_from: Position | None) -> Record:
    """The record of a run that is opened, or resumed."""
    resumed = None if resume_from is None else dataclasses.asdict(resume_from)
    return Record("open", {"spec": dataclasses.asdict(spec) | {"tags": dict(spec.tags)}, "resume_from": resumed})


def labelling(labels: NDArray[np.integer]) -> Record:
    """The record of the given labels, shape (n_samples,)."""
    body = io.BytesIO()
    np.save(body, labels, allow_pickle=False)
    return Record("labels", {}, body.getvalue())


def finishing(result: RoundResult) -> Record:
    """The record of a round that was finished without the service, with the set that is used from then on."""
    return Record("finish", {"round": result.round, "core_version": VERSION}, result.selected.tobytes())


class Delivery:
    """Brings one run's records to its service, as the attempt that the service has given.

    Parameters
    ----------
    client
        Speaks to the service.
    spool
        Where the records are.
    """

    def __init__(self, client: MildClient, spool: Spool) -> None:
        self._client, self._spool = client, spool
        self._backend = HttpBackend(client)
        if spool.attempt is not None:
            self._backend.go_on(RunSpec(spool.run_id, spool.n_samples), spool.attempt)

    def send(self, record: Record) -> None:
        """Send one record; whatever was sent before changes nothing.

        Raises
        ------
        MildError
            If it does not get through (one of `NOT_NOW`), or is refused.
        """
        meta = record.meta
        if record.kind == "open":
            self._open(meta)
            return
        if self._spool.attempt is None:
            raise LocalStateError(
                f"run {self._spool.run_id!r} was not opened, which was refused before; see why in {self._spool.folder}"
            )
        match record.kind:
            case "labels":
                self._backend.put_labels(np.load(io.BytesIO(record.body), allow_pickle=False))
            case "planted":
                self._backend.put_planted(self._bits(record))
            case "members":
                self._backend.put_members(meta["round"], self._bits(record))
            case "epoch":
                bits = EpochBits.from_body(record.body, self._spool.n_samples)
                self._backend.put_epoch(meta["round"], meta["epoch"], bits)
            case "metrics":
                self._backend.put_metrics(meta["round"], meta["epoch"], meta["metrics"])
            case "finish":
                self._finish(meta, self._bits(record))

    def _open(self, meta: Any) -> None:
        spec = RunSpec(**{**meta["spec"], "options": SelectionOptions(**meta["spec"]["options"])})
        resumed = meta["resume_from"]
        self._spool.attempt = None  # what comes after an opening that is refused belongs to no run
        state = self._backend.open(spec, None if resumed is None else Position(**resumed))
        self._spool.note_attempt(state.attempt)

    def _finish(self, meta: Any, used: Bitmap) -> None:
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

    def _bits(self, record: Record) -> Bitmap:
        return bitmap.check(record.body, self._spool.n_samples, record.name)


def send_next(spool: Spool, delivery: Delivery) -> MildError | None:
    """Send a spool's oldest record, or set it aside if it is refused; return the refusal, if it was one.

    Raises
    ------
    ServiceUnreachable, Unavailable, NotAllowed
        If it cannot be sent now; it stays.
    """
    record = spool.peek()
    if record is None:
        return None
    refusal = None
    try:
        delivery.send(record)
    except NOT_NOW:
        raise
    except MildError as error:
        kept = spool.set_aside(str(error))
        logger.warning("run %s: %s was refused and is kept as %s: %s", spool.run_id, record.name, kept, error)
        refusal = error
    spool.advance()
    return refusal


_LONGEST_PAUSE = 10.0


class _Ending(Exception):
    """The sender is to end, and the service does not answer."""


class Sender:
    """Sends a spool's records from a thread of its own, one after the other.

    Memory is bounded by one record, as what waits is on disk. While the service does not answer, the same record is
    tried again, after pauses (`Retry`), without an end.

    Parameters
    ----------
    spool
        What to send; it stays the caller's to close, after the sender.
    connect
        Makes the client that speaks to the service, which retries as it is told.

    Attributes
    ----------
    is_away
        Whether the last try found no service that could answer.
    n_refused
        Records that were set aside.
    stale
        Set once another trainer has taken the run over.
    """

    def __init__(self, spool: Spool, connect: Callable[[Retry], MildClient]) -> None:
        self.is_away = False
        self.n_refused = 0
        self.stale: StaleAttempt | None = None
        self._spool = spool
        self._client = connect(Retry(deadline=math.inf, first_deadline=math.inf, sleep=self._pause))
        self._delivery = Delivery(self._client, spool)
        self._changed = threading.Condition()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name=f"mild-sender-{spool.run_id}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something new in the spool."""
        with self._changed:
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until all is sent, at most `seconds` and not for a service that is away; return whether all is sent."""
        with self._changed:
            self._changed.wait_for(self._is_at_rest, seconds)
        return not self._spool.n_left

    def close(self, seconds: float) -> None:
        """Send what is left within `seconds`, and end; a service that is away is tried once more."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._client.close()

    def _is_at_rest(self) -> bool:
        return not self._spool.n_left or self.is_away or not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._has_work():
                try:
                    refusal = send_next(self._spool, self._delivery)
                except NotAllowed:
                    raise
                except NOT_NOW:  # an answer that no client repeats at once, such as a full store's
                    self._pause(_LONGEST_PAUSE)
                    continue
                self._note(refusal)
        except _Ending:
            pass
        except Exception as error:  # a thread that dies silently would leave whoever trains in the dark
            logger.warning(
                "run %s: nothing more is sent by this process (%s); what is left stays in %s",
                self._spool.run_id,
                error,
                self._spool.folder,
                exc_info=not isinstance(error, NotAllowed),
            )
        self.is_away = True
        self.wake()

    def _has_work(self) -> bool:
        """Wait for a record; false: all is sent, and the sender is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._spool.n_left or self._is_ending)
            return bool(self._spool.n_left)

    def _note(self, refusal: Exception | None) -> None:
        with self._changed:
            self.is_away = False
            if refusal is not None:
                self.n_refused += 1
            if isinstance(refusal, StaleAttempt):
                self.stale = refusal
            self._changed.notify_all()

    def _pause(self, seconds: float) -> None:
        """Wait before the next try, unless the sender is to end: then the next try is the last one."""
        with self._changed:
            if self._is_ending:
                raise _Ending
            self.is_away = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_ending, seconds)
