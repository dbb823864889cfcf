"""Status of rounds and epochs: which samples, shards and epochs are stored."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import anyio.to_thread
import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.fields import describe_field
from mild_service.admission import hold_memory
from mild_service.concurrency import read_current
from mild_service.config import Settings
from mild_service.errors import StoreDamaged
from mild_service.models import Epoch, EpochKind, Round, Run, ShardRef
from mild_service.store import Store, wrong_round_error

T = TypeVar("T")
EpochState: TypeAlias = Literal["absent", "partial", "committed"]

_MAX_LISTED = 100
"""Maximum number of missing samples, and of missing ranges, in a status."""
_STATUS_COPIES = 17
"""Bitmaps that are in memory while the status of an epoch is read and computed."""


@dataclass(frozen=True, slots=True, eq=False)
class EpochStatus:
    """Status of one epoch."""

    digest: str | None
    """Digest of the epoch's content, for the ETag; None while the epoch is absent."""
    state: EpochState = describe_field("State of the epoch.")
    kind: EpochKind | None = describe_field("How its first writer writes it; null while it is absent.")
    attempt: int | None = describe_field("Attempt that wrote it; null while it is absent.")
    num_correct: int = describe_field("Correct samples.")
    num_observed: int = describe_field("Observed samples.")
    num_expected: int = describe_field("Samples that the run observes in every epoch.")
    num_missing: int = describe_field("Expected samples that are not stored: unobserved, once the epoch is committed.")
    missing: list[int] = describe_field("The first 100 of them.")
    num_missing_ranges: int = describe_field("Ranges of consecutive indices among the missing.")
    missing_ranges: list[list[int]] = describe_field("The first 100 of them: first and last index.")
    num_shards: int | None = describe_field("Null where the epoch is not written in shards.")
    missing_shards: list[int] = describe_field("Shards that are not stored, ascending.")


class StatusReader:
    """Reads the status of rounds and epochs."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    async def read_round(self, run: Run, number: int) -> Round:
        """Read the record of a round."""
        self._check_position(run, number)
        (round_,) = await self._store.rounds.get(run, range(number, number + 1))
        return round_

    def _check_position(self, run: Run, number: int, epoch: int = 0) -> None:
        """Check that a round may have this epoch, and has begun."""
        self._settings.check_position(number, epoch)
        if number > run.round:
            raise wrong_round_error(run.run_id, number, run.round)

    async def read_members(self, run: Run, round_: Round) -> Bitmap:
        """Read the samples on which the model is trained in a round, as a bitmap of shape (n_bytes,)."""
        return await self._store.bitmaps.read_members(run, round_)

    async def read_planted(self, run: Run) -> Bitmap:
        """Read the samples that were mislabelled on purpose in round 0, as a bitmap of shape (n_bytes,)."""
        round_ = await self.read_round(run, 0)
        if round_.planted is None:
            return np.zeros(bitmap.n_bytes(run.spec.num_samples), dtype=np.uint8)
        return await self._store.bitmaps.read_set(run, round_.planted)

    async def read_epoch(self, run: Run, number: int, epoch: int) -> EpochStatus:
        """Compute the status of an epoch from its bits, or from the bits of its shards.

        Parameters
        ----------
        run
            The run.
        number, epoch
            Number of the round, and of the epoch within the round.
        """
        self._check_position(run, number, epoch)
        async with hold_memory(_STATUS_COPIES * bitmap.n_bytes(run.spec.num_samples)):
            return await self._read_status(run, number, epoch)

    async def _read_status(self, run: Run, number: int, epoch: int) -> EpochStatus:
        """Read the bits of an epoch and compute its status, again if it was changed in the meantime."""

        async def read(round_: Round, record: Epoch | None) -> EpochStatus:
            refs: list[ShardRef] | None = []
            if record is not None and record.n_shards is not None:
                refs = await self._store.shards.read_refs(run, number, record)
            if refs is None:
                raise StoreDamaged(f"the shards of epoch {epoch} of round {number} are merged by now; ask again")
            expected = await self._store.bitmaps.read_expected(run, round_)
            observed, correct = await self._read_bits(run, number, record, refs, expected)
            return await anyio.to_thread.run_sync(_compute_status, record, refs, observed, correct, expected)

        return (await read_epoch(self._store, run, number, epoch, read))[2]

    async def _read_bits(
        self, run: Run, number: int, epoch: Epoch | None, refs: list[ShardRef], expected: Bitmap
    ) -> tuple[Bitmap, Bitmap]:
        """Read the observed and the correct samples of an epoch, shape (n_bytes,) each."""
        if epoch is None:
            return np.zeros_like(expected), np.zeros_like(expected)
        if epoch.partial and epoch.kind == "shards":
            return await self._store.shards.read_bits(run, number, epoch.number, refs)
        correct, observed = await self._store.bitmaps.read_epochs(run, number, [epoch])
        return observed[0] if epoch.planes == 2 else expected, correct[0]


async def read_epoch(
    store: Store, run: Run, round_: int, epoch: int, read: Callable[[Round, Epoch | None], Awaitable[T]]
) -> tuple[Round, Epoch | None, T]:
    """Read a round, the record of one of its epochs, and what `read` reads by them, by the current ones if they change.

    The record is None if the epoch is not stored.
    """

    async def read_round(_: Round | None = None) -> Round:
        (current,) = await store.rounds.get(run, range(round_, round_ + 1))
        return current

    def find_record(current: Round) -> Epoch | None:
        return current.all_epochs.get(epoch)

    subject = f"epoch {epoch} of round {round_}"
    current, result = await read_current(await read_round(), find_record, read, read_round, subject)
    return current, find_record(current), result


def epoch_state(epoch: Epoch | None) -> EpochState:
    """Return the state of an epoch; None is an epoch that is not stored."""
    if epoch is None:
        return "absent"
    return "partial" if epoch.partial else "committed"


def count_samples(observed: Bitmap, correct: Bitmap, expected: Bitmap) -> dict[str, Any]:
    """Return the numbers of samples that an `EpochStatus` and a `MergedEpoch` state, and the first that are missing."""
    missing = expected & ~observed
    return {
        "num_correct": bitmap.popcount(correct),
        "num_observed": bitmap.popcount(observed),
        "num_expected": bitmap.popcount(expected),
        "num_missing": bitmap.popcount(missing),
        "missing": bitmap.first_indices(missing, _MAX_LISTED).tolist(),
    }


def _compute_status(
    epoch: Epoch | None, refs: list[ShardRef], observed: Bitmap, correct: Bitmap, expected: Bitmap
) -> EpochStatus:
    """Compute the status of an epoch from its record, its shards and its bits."""
    missing = expected & ~observed
    n_ranges, ranges = bitmap.find_ranges(missing, _MAX_LISTED)
    n_shards = 0 if epoch is None else epoch.n_shards or 0
    return EpochStatus(
        state=epoch_state(epoch),
        kind=None if epoch is None else epoch.kind,
        attempt=None if epoch is None else epoch.attempt,
        **count_samples(observed, correct, expected),
        num_missing_ranges=n_ranges,
        missing_ranges=ranges.tolist(),
        num_shards=None if epoch is None else epoch.n_shards,
        digest=None if epoch is None else epoch.digest,
        missing_shards=sorted(set(range(n_shards)) - {ref.shard for ref in refs}),
    )
