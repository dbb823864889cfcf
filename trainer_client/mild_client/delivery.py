"""From a spool's records to calls of the service: what each kind is, how it is sent, and what a refusal means."""

import dataclasses
import io
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_client.backend import Position, RoundResult, RunSpec
from mild_client.client import MildClient
from mild_client.compatibility import VERSION
from mild_client.errors import LocalStateError, NotAllowed, ServiceUnreachable, Unavailable
from mild_client.remote import HttpBackend
from mild_client.spool import Spool
from mild_client.spool_records import Record
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
