"""Writing whole epochs. If the record of the run is cached, this takes one exchange with the store."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from mild_core import bitmap
from mild_core.errors import CorrectNotObservedError, MildError
from mild_core.types import EpochBits
from mild_service.concurrency import offload
from mild_service.config import Settings
from mild_service.errors import StaleAttempt, StoreError
from mild_service.models import NO_PRECONDITION, CommitOutcome, Epoch, Precondition, Run, SetRef
from mild_service.observability import Telemetry
from mild_service.store import PackedEpoch, Store

MAX_CACHED_RUNS = 4096
"""Number of records of runs that are cached; beyond it, the oldest one is dropped."""


class RequestBody(Protocol):
    """Body of a request, read on demand."""

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the body in hex; None if the body was not read completely or not hashed."""

    async def read_prefix(self, limit: int) -> bytes:
        """Return the whole body if it has at most `limit` bytes, else its first ``limit + 1`` bytes.

        The additional byte shows that the body is too long. A later call with a higher limit returns more.
        """


@dataclass(frozen=True, slots=True)
class EpochWrite:
    """A request to write one epoch, without its body.

    Attributes
    ----------
    run_id, round, epoch
        Run, number of the round, and number of the epoch within the round.
    attempt
        The writer's attempt; None accepts the current one.
    replace
        Whether a stored epoch with different content is replaced.
    precondition
        Precondition on the digest of the stored epoch.
    """

    run_id: str
    round: int
    epoch: int
    attempt: int | None = None
    replace: bool = False
    precondition: Precondition = NO_PRECONDITION


class EpochWriter:
    """Writes whole epochs.

    The records of runs are cached, without their tags, and may be outdated. Every script checks the uid of the record,
    so a write based on an outdated record is refused if the run was deleted in the meantime, even if it was opened
    again. If a cached record leads to a refusal, the write is repeated with the current one: an outdated record must
    never be the reason for a refusal.
    """

    def __init__(self, store: Store, settings: Settings, telemetry: Telemetry) -> None:
        self._store = store
        self._settings = settings
        self._telemetry = telemetry
        self._runs: dict[str, Run] = {}

    async def put(self, write: EpochWrite, body: RequestBody) -> tuple[CommitOutcome, Epoch]:
        """Commit the body of one epoch atomically; return the outcome and the stored record of the epoch."""
        self._settings.check_position(write.round, write.epoch)
        while True:
            cached_run = self._runs.get(write.run_id)
            # A round that the cached record does not have may have started since, with its own members.
            is_current = cached_run is None or write.round > cached_run.round
            run = await self._store.runs.get(write.run_id) if cached_run is None or is_current else cached_run
            content = await body.read_prefix(2 * bitmap.n_bytes(run.spec.num_samples))
            try:
                outcome, epoch = await self._commit(run, write, content, body.sha256)
            except StoreError:
                raise
            except MildError as refusal:
                self._runs.pop(write.run_id, None)
                is_overtaken = write.attempt is None and isinstance(refusal, StaleAttempt)
                if is_current and not is_overtaken:
                    raise
                continue
            if is_current:
                if len(self._runs) >= MAX_CACHED_RUNS:
                    del self._runs[next(iter(self._runs))]
                self._runs[write.run_id] = replace(run, spec=replace(run.spec, tags={}))
            self._telemetry.epochs.labels(outcome).inc()
            self._telemetry.epoch_bytes.inc(len(content))
            return outcome, epoch

    async def _commit(
        self, run: Run, write: EpochWrite, content: bytes, sha256: str | None
    ) -> tuple[CommitOutcome, Epoch]:
        """Pack and commit a body, again if the members of the round have changed in the meantime."""
        bits, packed = await offload(len(content), lambda: _parse_body(content, run.spec.num_samples, sha256))
        attempt = run.attempt if write.attempt is None else write.attempt
        while True:
            members = await self._check_members(run, write.round, bits)
            outcome, epoch = await self._store.epochs.commit(
                run, write.round, write.epoch, packed, attempt, write.replace, members, write.precondition
            )
            if outcome != "moved":
                return outcome, epoch

    async def _check_members(self, run: Run, round_: int, bits: EpochBits) -> SetRef | Literal["unchecked"] | None:
        """Check that all correct samples are members, if the run observes only members; return the checked members."""
        if run.spec.observe != "members" or bits.observed is not None or round_ > run.round:
            return "unchecked"
        (current_round,) = await self._store.rounds.get(run, range(round_, round_ + 1))
        if current_round.members is not None:
            members = await self._store.bitmaps.read_set(run, current_round.members)
            non_members = bits.correct & ~members
            if non_members.any():
                first = int(bitmap.to_indices(non_members, run.spec.num_samples)[0])
                raise CorrectNotObservedError(
                    f"{bitmap.popcount(non_members)} samples are correct but no members of round {round_}, the first "
                    f"is sample {first}; the run observes members only: clear the others' bits, or send two bitmaps "
                    "(observed, then correct)"
                )
        return current_round.members


def _parse_body(content: bytes, n_samples: int, sha256: str | None) -> tuple[EpochBits, PackedEpoch]:
    """Check and pack the body of an epoch."""
    bits = EpochBits.from_body(content, n_samples)
    return bits, PackedEpoch.from_bits(bits, sha256=sha256)
