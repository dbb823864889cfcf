"""The write path of whole epochs: one exchange with the store, where this process knows the run already.

Records of runs as this process has last read them. They may be out of date: the store has the last word.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from mild_core import bitmap
from mild_core.errors import CorrectNotObservedError, MildError
from mild_core.types import EpochBits
from mild_service.concurrency import offload
from mild_service.config import Settings
from mild_service.errors import StaleAttempt, StoreError
from mild_service.limits import check_position
from mild_service.models import NO_PRECONDITION, CommitOutcome, Epoch, Precondition, Run, SetRef
from mild_service.observability import Telemetry
from mild_service.store import PackedEpoch, Store

_KEPT = 4096


class RunCache:
    """The records that were asked for last.

    A record names the run it was read of by its uid, and every script checks that first; so whatever is written by an
    old record is refused if the run was deleted since, and opened again perhaps. Whoever is refused by an old record
    has to forget it, read the present one, and try again: old records never refuse anything.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def get(self, run_id: str) -> Run | None:
        """A record without its tags, perhaps an old one; None where none is kept."""
        run = self._runs.get(run_id)
        if run is not None:
            self._runs.move_to_end(run_id)
        return run

    def keep(self, run: Run) -> None:
        """Keep a record that was just read, in the place of the one that has not been asked for for longest."""
        self._runs[run.run_id] = replace(run, spec=replace(run.spec, tags={}))
        self._runs.move_to_end(run.run_id)
        if len(self._runs) > self._kept:
            self._runs.popitem(last=False)

    def forget(self, run_id: str) -> None:
        """Keep a record no longer."""
        self._runs.pop(run_id, None)


class RequestBody(Protocol):
    """A body that comes as it is asked for."""

    @property
    def sha256(self) -> str | None:
        """Of all of it, in hex, once it was read; None where nobody has needed to know."""

    async def read_up_to(self, n_bytes: int) -> bytes:
        """All of it; of a longer one, its first ``n_bytes + 1`` bytes. It may be asked again, and for more."""


@dataclass(frozen=True, slots=True)
class EpochPut:
    """A place, and what a writer says of what it puts there.

    Attributes
    ----------
    run_id, round, epoch
        The place.
    attempt
        The writer's; None takes the current one.
    replace
        Whether other content may be replaced.
    condition
        On the digest of what is there.
    """

    run_id: str
    round: int
    epoch: int
    attempt: int | None = None
    replace: bool = False
    condition: Precondition = NO_PRECONDITION


class EpochWriter:
    """Epochs put whole."""

    def __init__(self, store: Store, settings: Settings, telemetry: Telemetry) -> None:
        self._store = store
        self._settings = settings
        self._telemetry = telemetry
        self._known = RunCache()

    async def put(self, put: EpochPut, body: RequestBody) -> tuple[CommitOutcome, Epoch]:
        """Commit one epoch's body, all of it or nothing.

        Decided by the run's record as this process has last seen it; if that comes to a refusal, decided anew by the
        present one. What is committed, the store's script has checked against the present one in any case.

        Raises
        ------
        RunNotFound
            If there is no such run.
        LimitExceeded, BitmapLengthError, TrailingBitsError, CorrectNotObservedError
            If the place or the body is impossible.
        Conflict, PreconditionFailed
            If the run's state does not take it.
        """
        while True:
            known = self._known.get(put.run_id)
            # A round that is not known to have begun may have begun, with members that have to be looked at.
            present = known is None or put.round > known.round
            run = await self._store.runs.get(put.run_id) if known is None or present else known
            content = await body.read_up_to(2 * bitmap.n_bytes(run.spec.num_samples))
            check_position(self._settings, put.round, put.epoch)
            try:
                commitment, epoch = await self._commit(run, put, content, body.sha256)
            except StoreError:
                raise
            except MildError as refusal:
                self._known.forget(put.run_id)
                overtaken = put.attempt is None and isinstance(refusal, StaleAttempt)
                if present and not overtaken:
                    raise
                continue
            if present:
                self._known.keep(run)
            self._telemetry.epochs.labels(commitment).inc()
            self._telemetry.epoch_bytes.inc(len(content))
            return commitment, epoch

    async def _commit(self, run: Run, put: EpochPut, content: bytes, sha256: str | None) -> tuple[CommitOutcome, Epoch]:
        bits, packed = await offload(len(content), lambda: _packed(content, run.spec.num_samples, sha256))
        attempt = run.attempt if put.attempt is None else put.attempt
        while True:
            members = await self._checked_members(run, put.round, bits)
            commitment, epoch = await self._store.epochs.commit(
                run, put.round, put.epoch, packed, attempt, put.replace, members, put.condition
            )
            if commitment != "moved":
                return commitment, epoch

    async def _checked_members(self, run: Run, round_: int, bits: EpochBits) -> SetRef | Literal["unchecked"] | None:
        """Check that whoever is correct is a member, where the members are those observed."""
        if run.spec.observe != "members" or bits.observed is not None or round_ > run.round:
            return "unchecked"
        (found,) = await self._store.rounds.get(run, range(round_, round_ + 1))
        if found.members is not None:
            members = await self._store.bitmaps.read_set(run, found.members)
            stray = bits.correct & ~members
            if stray.any():
                first = int(bitmap.to_indices(stray, run.spec.num_samples)[0])
                raise CorrectNotObservedError(
                    f"{bitmap.popcount(stray)} samples are correct but no members of round {round_}, the first is "
                    f"sample {first}; the run observes members only: clear the others' bits, or send two bitmaps "
                    "(observed, then correct)"
                )
        return found.members


def _packed(content: bytes, n_samples: int, sha256: str | None) -> tuple[EpochBits, PackedEpoch]:
    """A body, checked and packed."""
    bits = EpochBits.from_body(content, n_samples)
    return bits, PackedEpoch.of(bits, sha256=sha256)
