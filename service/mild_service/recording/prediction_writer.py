"""The write path of prediction logs: records gathered into bits, and those merged into epochs that fill up."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np
from anyio import CapacityLimiter, from_thread, to_thread

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.fields import describe
from mild_core.types import EpochBits, RoundBits
from mild_core.wrong_predictions import WrongPredictions
from mild_service.annotations.external_ids import ExternalIds
from mild_service.concurrency import WorkLimiter
from mild_service.config import Settings
from mild_service.errors import (
    EpochConflict,
    EpochKindConflict,
    LimitExceeded,
    StaleAttempt,
    StoreDamaged,
    StoreUnavailable,
)
from mild_service.ingest import (
    Batch,
    EpochKey,
    LogAccumulator,
    LogLimits,
    NewSampleResolver,
    RunSampleResolver,
    SampleResolver,
    StoredEpoch,
    collect_rounds,
    open_reader,
)
from mild_service.ingest.sandbox import Sandbox
from mild_service.models import Epoch, Round, Run, SampleIdsRef
from mild_service.observability import Telemetry, phase
from mild_service.store import PackedEpoch, Store, stale_attempt_error, wrong_round_error

T = TypeVar("T")

_BLOCK_BYTES = 1024 * 1024
"""Bytes of a body that are read in a worker thread at once."""
_ATTEMPTS = 50
_SHOWN = 100


@dataclass(frozen=True, slots=True, eq=False)
class MergedEpoch:
    """What a log did to an epoch."""

    round: int = field(metadata=describe("The round."))
    epoch: int = field(metadata=describe("The epoch."))
    outcome: Literal["merged", "same"] = field(metadata=describe("`same`: the store had all of it."))
    state: Literal["partial", "committed"] = field(
        metadata=describe("`partial` until all expected samples are in, or a log completes it.")
    )
    num_correct: int = field(metadata=describe("Correct samples."))
    num_observed: int = field(metadata=describe("Observed samples."))
    num_expected: int = field(metadata=describe("Samples that the run observes in every epoch."))
    num_missing: int = field(metadata=describe("Expected samples that are not in."))
    missing: list[int] = field(metadata=describe("The first 100 of them."))


@dataclass(frozen=True, slots=True)
class LogResult:
    """What a log has done."""

    n_records: int
    epochs: list[MergedEpoch]


class PredictionWriter:
    """Prediction logs in, as bits."""

    def __init__(
        self, store: Store, ids: ExternalIds, sandbox: Sandbox, settings: Settings, telemetry: Telemetry
    ) -> None:
        self._store = store
        self._sandbox = sandbox
        self._ids = ids
        self._settings = settings
        self._telemetry = telemetry
        self._limiter = CapacityLimiter(settings.compute_threads)
        self._work_limiter = WorkLimiter(
            settings.log_readers, settings.max_waiting, "reading logs", telemetry.waiting.labels("logs")
        )

    async def post(
        self, run: Run, media_type: str, body: AsyncIterator[bytes], complete: bool, attempt: int | None
    ) -> LogResult:
        """Merge a log into the run's open round; `attempt` None takes the current one.

        Nothing is stored before the whole log was read and checked, against the store too. Then its epochs are merged
        in ascending order, each at once; when that is cut short, the same log again completes it.

        Raises
        ------
        BadRecord, MalformedBody, LimitExceeded
            If the log cannot be used.
        EpochConflict, EpochKindConflict, RoundNotOpen, RoundFinished, StaleAttempt
            If the run does not take it.
        """
        if attempt not in (None, run.attempt):
            raise stale_attempt_error(run.run_id, run.attempt, attempt)
        names = None if run.ids is None else RunSampleResolver(lambda: from_thread.run(self._ids.get_index, run))
        limits = self._limits(run.spec.num_samples, names)
        async with self._work_limiter.acquire():
            log = LogAccumulator(limits, load_epoch=lambda place: from_thread.run(self._held, run, place), classes=True)
            await self._read(media_type, body, log)
            ids = run.ids if names is not None and names.used else None
            epochs = [await self._merge(run, place, log, complete, attempt, ids) for place in log.epoch_keys]
        self._telemetry.log_records.inc(log.n_records)
        return LogResult(log.n_records, epochs)

    async def read_standalone(
        self, media_type: str, body: AsyncIterator[bytes], n_samples: int | None
    ) -> tuple[list[RoundBits], list[str] | None]:
        """A log that belongs to no run, as evidence, and its external ids (None where it names samples by numbers).

        Without `n_samples` its samples are those that it names. Ids number samples in the order of their first records.

        Raises
        ------
        BadRecord, MalformedBody, LimitExceeded
            If the log cannot be used.
        InvalidRequest
            If a round has no records.
        """
        most = self._settings.max_samples
        if n_samples is not None and not 1 <= n_samples <= most:
            raise LimitExceeded(
                f"num_samples is {n_samples}, this service takes 1..{most}; send a number in that range"
            )
        names = NewSampleResolver(n_samples or most, self._settings.max_log_cells)
        async with self._work_limiter.acquire():
            log = LogAccumulator(self._limits(n_samples or most, names), infer=n_samples is None)
            await self._read(media_type, body, log)
            return await self._in_thread(partial(collect_rounds, log)), names.ids

    def _limits(self, n_samples: int, names: SampleResolver | None) -> LogLimits:
        return LogLimits(
            n_samples=n_samples,
            n_rounds=self._settings.max_rounds,
            n_epochs=self._settings.max_epochs,
            n_records=self._settings.max_log_records,
            record_bytes=self._settings.max_record_bytes,
            n_cells=self._settings.max_log_cells,
            resolver=names,
        )

    async def _read(self, media_type: str, body: AsyncIterator[bytes], log: LogAccumulator) -> None:
        """Read a body block by block, each in a worker thread; while it waits for bytes it holds none."""

        def take(batches: Iterator[Batch]) -> None:
            for batch in batches:
                log.add(batch)

        with closing(open_reader(media_type, log.limits, self._sandbox)) as reader:
            block = bytearray()
            async for piece in body:
                block += piece
                if len(block) >= _BLOCK_BYTES:
                    await self._in_thread(partial(take, reader.feed(bytes(block))))
                    block.clear()
            await self._in_thread(partial(take, reader.feed(bytes(block))))
            await self._in_thread(partial(take, reader.end()))

    async def _held(self, run: Run, place: EpochKey) -> StoredEpoch | None:
        """What is stored of an epoch, when the first record of it comes."""
        if place[0] != run.round:
            raise wrong_round_error(run.run_id, place[0], run.round)
        return (await self._standing(run, place))[2]

    async def _standing(self, run: Run, place: EpochKey) -> tuple[Round, Epoch | None, StoredEpoch | None]:
        """An epoch as it stands."""
        number, n_samples = place[1], run.spec.num_samples
        for _ in range(_ATTEMPTS):
            (round_,) = await self._store.rounds.get(run, range(place[0], place[0] + 1))
            epoch = round_.all_epochs.get(number)
            if epoch is None:
                return round_, None, None
            if epoch.kind != "logs":
                how = "as a whole body" if epoch.kind == "whole" else "in shards"
                raise EpochKindConflict(
                    f"epoch {number} of round {place[0]} is written {how}, got a log; "
                    "leave it out of the log, or drop the epoch with resume_from"
                )
            try:
                correct, observed = await self._store.bitmaps.read_epochs(run, place[0], [epoch])
                wrong_predictions = (
                    await self._store.wrong_predictions.read(run, place[0], epoch)
                    if epoch.has_wrong_predictions
                    else None
                )
            except StoreDamaged:
                damaged = epoch
                (round_,) = await self._store.rounds.get(run, range(place[0], place[0] + 1))
                if round_.all_epochs.get(number) == damaged:
                    raise
                continue  # merged by somebody else, just now
            return (
                round_,
                epoch,
                StoredEpoch(EpochBits(n_samples, correct[0], observed[0]), not epoch.partial, wrong_predictions),
            )
        raise _too_busy(place)

    async def _merge(
        self,
        run: Run,
        place: EpochKey,
        log: LogAccumulator,
        complete: bool,
        attempt: int | None,
        ids: SampleIdsRef | None,
    ) -> MergedEpoch:
        own = await self._in_thread(
            lambda: StoredEpoch(log.bits(place), closed=False, wrong_predictions=log.wrong_predictions(place))
        )
        for _ in range(_ATTEMPTS):
            round_, old, stored = await self._standing(run, place)
            if round_.finished:
                raise wrong_round_error(run.run_id, place[0], (await self._store.runs.get(run.run_id)).round)
            expected = await self._expected(run, round_)
            filled, bits, votes = await self._in_thread(partial(_filled, place, own, stored, expected))
            committed = complete or filled.num_missing == 0
            if old is not None and not old.partial:
                if filled.outcome == "merged":
                    raise EpochConflict(
                        f"epoch {place[1]} of round {place[0]} was committed while the log was read, without some of "
                        "its samples; drop the epoch with resume_from"
                    )
                committed = True
            filled = replace(filled, state="committed" if committed else "partial")
            if old is not None and filled.outcome == "same" and old.partial != committed:
                self._telemetry.epochs.labels("same").inc()
                return filled
            packed = await self._in_thread(partial(PackedEpoch.of, bits, "logs", votes))
            current = run.attempt if attempt is None else attempt
            new = packed.record(place[1], current, "logs", partial=not committed)
            try:
                if await self._store.epochs.merge(
                    run,
                    place[0],
                    new,
                    packed.values,
                    old,
                    current,
                    round_.members,
                    wrong_predictions=packed.wrong_predictions,
                    ids=ids,
                ):
                    self._telemetry.epochs.labels(filled.state).inc()
                    return filled
            except StaleAttempt:
                if attempt is not None:
                    raise
                run = replace(run, attempt=(await self._store.runs.get(run.run_id)).attempt)
        raise _too_busy(place)

    async def _expected(self, run: Run, round_: Round) -> Bitmap:
        """Whom the run observes."""
        if run.spec.observe == "members" and round_.members is not None:
            return await self._store.bitmaps.read_set(run, round_.members)
        return bitmap.full(run.spec.num_samples)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        with phase("decode"):
            return await to_thread.run_sync(work, limiter=self._limiter)


def _too_busy(place: EpochKey) -> StoreUnavailable:
    return StoreUnavailable(
        f"epoch {place[1]} of round {place[0]} was changed by others {_ATTEMPTS} times while it was being merged; "
        "send the same log again in a second"
    )


def _filled(
    place: EpochKey, said: StoredEpoch, held: StoredEpoch | None, expected: Bitmap
) -> tuple[MergedEpoch, EpochBits, WrongPredictions | None]:
    """What a log makes of an epoch by what it has `said`.

    Raises
    ------
    EpochConflict
        If it contradicts what has been stored since the log was read.
    """
    own, stored, votes = said.bits, None if held is None else held.bits, said.wrong_predictions
    n_samples = own.n_samples
    assert own.observed is not None, "epochs from logs say who was observed"
    outcome: Literal["merged", "same"] = "merged"
    observed, correct = own.observed, own.correct
    if held is not None and stored is not None:
        assert stored.observed is not None, "epochs from logs say who was observed"
        clash = own.observed & stored.observed & (own.correct ^ stored.correct)
        if clash.any():
            raise EpochConflict(
                f"sample {bitmap.to_indices(clash, n_samples)[0]} of epoch {place[1]}, round {place[0]}, was stored "
                "with the other value while the log was read; send the same value, or drop the epoch with resume_from"
            )
        observed, correct = own.observed | stored.observed, own.correct | stored.correct
        votes = _joined(place, votes, held.wrong_predictions)
        same = np.array_equal(observed, stored.observed) and _n_votes(votes) == _n_votes(held.wrong_predictions)
        outcome = "same" if same else "merged"
    missing = bitmap.to_indices(expected & ~observed, n_samples)
    filled = MergedEpoch(
        round=place[0],
        epoch=place[1],
        outcome=outcome,
        state="partial",
        num_correct=bitmap.popcount(correct),
        num_observed=bitmap.popcount(observed),
        num_expected=bitmap.popcount(expected),
        num_missing=missing.size,
        missing=missing[:_SHOWN].tolist(),
    )
    return filled, EpochBits(n_samples, correct, observed), votes


def _n_votes(votes: WrongPredictions | None) -> int:
    return 0 if votes is None else votes.n_predictions


def _joined(place: EpochKey, own: WrongPredictions | None, stored: WrongPredictions | None) -> WrongPredictions | None:
    """What a log and the store know together.

    Raises
    ------
    EpochConflict
        If they contradict each other, by now.
    """
    if own is None or stored is None:
        return own or stored
    clash = own.find_conflicts(stored)
    if clash.any():
        raise EpochConflict(
            f"sample {int(np.argmax(clash))} of epoch {place[1]}, round {place[0]}, was stored with another predicted "
            "class while the log was read; send the same value, or drop the epoch with resume_from"
        )
    return own.merge(stored)
