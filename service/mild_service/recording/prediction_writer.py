"""Writing prediction logs: collecting records into bits, and merging the bits into epochs."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import IO, Literal, TypeAlias, TypeVar

import numpy as np
from anyio import from_thread, to_thread

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.fields import describe
from mild_core.types import EpochBits, RoundBits
from mild_core.wrong_predictions import WrongPredictions
from mild_service.admission import Admission, get_current_key, keep_memory, take_memory_now
from mild_service.annotations.external_ids import ExternalIds, no_sample_ids_error
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.concurrency import read_current
from mild_service.config import Settings
from mild_service.errors import (
    EpochConflict,
    EpochKindConflict,
    InvalidRequest,
    LimitExceeded,
    StaleAttempt,
    StoreUnavailable,
)
from mild_service.ingest import read_batches
from mild_service.ingest.accumulator import LogAccumulator, StoredEpoch, check_classes, check_indices, collect_rounds
from mild_service.ingest.columns import EpochKey, LogLimits, LogOptions
from mild_service.ingest.name_resolvers import (
    ClassNames,
    NewSampleResolver,
    RunSampleResolver,
    SampleResolver,
    SamplesBy,
)
from mild_service.ingest.sandbox import Sandbox, write_block
from mild_service.models import AnnotationRef, Epoch, Round, Run, SampleIdsRef
from mild_service.observability import Telemetry, phase
from mild_service.store import PackedEpoch, Store, describe_kind, stale_attempt_error, wrong_round_error

T = TypeVar("T")

ComparedLabels: TypeAlias = AnnotationRef | Literal["unchecked"] | None
"""Labels of the run with which those in a log were compared; ``unchecked`` if the log states none."""

_BATCHES = 4
"""Batches of records that are read at a time, before a request that was given up is noticed."""
_SPOOL_BYTES = 256 * 1024
"""Size of the blocks in which a body is written to its temporary file, and of a body that stays in memory."""
_MERGE_BYTES = 24
"""Most memory per sample while a log is merged, but for its epochs: its labels, and masks of the epoch being merged."""
_SELECTION_BYTES = 8
"""Most memory per sample while a log becomes rounds, but for its epochs."""
_ATTEMPTS = 50
_MAX_LISTED = 100


@dataclass(frozen=True, slots=True, eq=False)
class MergedEpoch:
    """Result of merging a log into one epoch."""

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
    num_contradictory: int = field(
        metadata=describe("Samples of the log that were seen both correct and wrong; they count as correct.")
    )


class PredictionWriter:
    """Reads prediction logs and merges them into runs."""

    def __init__(
        self,
        store: Store,
        ids: ExternalIds,
        labels: LabelsAndAudits,
        sandbox: Sandbox,
        settings: Settings,
        telemetry: Telemetry,
        admission: Admission,
    ) -> None:
        self._store = store
        self._admission = admission
        self._sandbox = sandbox
        self._ids = ids
        self._labels = labels
        self._settings = settings
        self._telemetry = telemetry

    async def merge_log(
        self,
        run: Run,
        media_type: str,
        body: AsyncIterator[bytes],
        complete: bool,
        attempt: int | None,
        samples_by: SamplesBy | None = None,
        options: LogOptions | None = None,
    ) -> tuple[int, list[MergedEpoch]]:
        """Merge a log into the open round of a run; return the number of records, and a result per epoch of the log.

        Nothing is stored until the whole log was read and checked, also against the stored epochs. Then the epochs of
        the log are merged in ascending order, each atomically. After an interruption, send the same log again.

        Parameters
        ----------
        run
            The current record of the run.
        media_type, body
            Format and content of the log.
        complete
            Whether to commit the epochs of the log even if samples are missing.
        attempt
            The writer's attempt; None accepts the current one.
        samples_by
            Whether the log names samples by ids or by indices; None as in `RunSampleResolver`.
        options
            Columns and classes of the log.
        """
        if attempt not in (None, run.attempt):
            raise stale_attempt_error(run.run_id, run.attempt, attempt)
        if samples_by == "ids" and run.ids is None:
            raise no_sample_ids_error(run)
        options = options or LogOptions()
        named = None if options.class_names is None else options.class_names.names
        if named is not None and run.spec.num_classes not in (None, len(named)):
            raise InvalidRequest(
                f"class_names has {len(named)} names, the run has num_classes {run.spec.num_classes}; name each class, "
                "in the order of the class numbers"
            )
        names = None
        if run.ids is not None and samples_by != "indices":
            names = RunSampleResolver(lambda: from_thread.run(self._ids.get_index, run), samples_by)
        limits = self._build_limits(run.spec.num_samples, names, options, run.spec.num_classes)
        async with self._receive(body, _MERGE_BYTES * run.spec.num_samples) as file:
            log = LogAccumulator(
                limits,
                load_epoch=lambda key: from_thread.run(self._read_stored_part, run, key),
                keep_classes=True,
                reserve_memory=_reserve_from_thread,
            )
            await self._read_body(media_type, file, log)
            check_classes(log, is_whole=False)
            labels = await self._compare_labels(run, log)
            ids = run.ids if names is not None and names.is_used else None
            epochs = [await self._store_epoch(run, key, log, complete, attempt, ids, labels) for key in log.epoch_keys]
        self._telemetry.log_records.inc(log.n_records)
        return log.n_records, epochs

    async def _compare_labels(self, run: Run, log: LogAccumulator) -> ComparedLabels:
        """Compare the labels in a log with those of the run, and return the reference to the latter."""
        if log.labels is None or not (log.labels >= 0).any():
            return "unchecked"
        return (await self._labels.record_logged_labels(run, log.labels)).labels

    async def read_standalone(
        self,
        media_type: str,
        body: AsyncIterator[bytes],
        n_samples: int | None,
        samples_by: SamplesBy | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> tuple[list[RoundBits], list[str] | None]:
        """Read a log that belongs to no run.

        Parameters
        ----------
        media_type, body
            Format and content of the log.
        n_samples
            Number of samples; None takes the samples that the log names.
        samples_by
            Whether the log names samples by ids or by indices; None as in `NewSampleResolver`.
        columns
            Columns of the log that have other names than their fields. Classes may have names.

        Returns
        -------
        rounds
            Bits of each round of the log.
        ids
            External ids by sample index, in the order of their first records; None if the log names samples by index.
        """
        max_samples = self._settings.max_samples
        if n_samples is not None and not 1 <= n_samples <= max_samples:
            raise LimitExceeded(
                f"num_samples is {n_samples}, this service takes 1..{max_samples}; send a number in that range"
            )
        names = NewSampleResolver(
            n_samples or max_samples, max_samples, self._settings.max_log_cells, samples_by, _reserve_from_thread
        )
        # A few bytes may name a sample of any number: a log that does not say how many there are is a large one.
        n_bytes = None if n_samples is None else _SELECTION_BYTES * n_samples
        async with self._receive(body, n_bytes) as file:
            limits = self._build_limits(n_samples or max_samples, names, LogOptions(columns or {}, ClassNames()))
            log = LogAccumulator(limits, infer_samples=n_samples is None, reserve_memory=_reserve_from_thread)
            await self._read_body(media_type, file, log)
            check_classes(log, is_whole=True)
            if n_samples is None:
                take_memory_now(_SELECTION_BYTES * log.n_samples)
            if n_samples is None and samples_by is None and names.ids is None:
                await self._run_in_thread(partial(check_indices, log))
            rounds = await self._run_in_thread(partial(collect_rounds, log))
        n_planes = sum(bits.n_epochs * (1 if bits.observed is None else 2) for bits in rounds)
        keep_memory(n_planes * bitmap.n_bytes(log.n_samples) + names.n_bytes)
        return rounds, names.ids

    def _build_limits(
        self, n_samples: int, names: SampleResolver | None, options: LogOptions, n_classes: int | None = None
    ) -> LogLimits:
        return LogLimits(
            n_samples=n_samples,
            n_rounds=self._settings.max_rounds,
            n_epochs=self._settings.max_epochs,
            n_records=self._settings.max_log_records,
            record_bytes=self._settings.max_record_bytes,
            n_cells=self._settings.max_log_cells,
            resolver=names,
            n_classes=n_classes,
            options=options,
        )

    @asynccontextmanager
    async def _receive(self, body: AsyncIterator[bytes], n_bytes: int | None) -> AsyncIterator[IO[bytes]]:
        """Context manager that receives a body into a temporary file, and then takes a slot and `n_bytes` of memory.

        None is as much as turns out later.

        Nothing but the file waits for the sender. Small bodies stay in memory.
        """
        spool, key = self._admission.spool, get_current_key()
        n_spooled = 0
        with SpooledTemporaryFile(_SPOOL_BYTES, prefix="mild-log-") as file:
            try:
                async for block in _join_pieces(body):
                    spool.take_share(key, len(block))
                    n_spooled += len(block)
                    await to_thread.run_sync(write_block, file, block)
                file.seek(0)
                is_small = n_bytes is not None and n_spooled <= _SPOOL_BYTES and self._admission.is_small(n_bytes)
                async with self._admission.work(self._admission.logs, n_bytes or 0, is_small):
                    yield file
            finally:
                spool.give(key, n_spooled)

    async def _read_body(self, media_type: str, file: IO[bytes], log: LogAccumulator) -> None:
        """Add the records of a body to `log`, some batches at a time in worker threads."""
        with closing(read_batches(media_type, file, log.limits, self._sandbox)) as batches:
            while await self._run_in_thread(lambda: log.add_batches(islice(batches, _BATCHES))) == _BATCHES:
                pass

    async def _read_stored_part(self, run: Run, key: EpochKey) -> StoredEpoch | None:
        """Read the stored part of an epoch of the log, after a check that its round is open."""
        if key[0] != run.round:
            raise wrong_round_error(run.run_id, key[0], run.round)
        return (await self._read_epoch(run, key))[2]

    async def _read_epoch(self, run: Run, key: EpochKey) -> tuple[Round, Epoch | None, StoredEpoch | None]:
        """Read the round, the record and the stored part of an epoch."""
        number, n_samples = key[1], run.spec.num_samples

        async def read_round(_: Round | None = None) -> Round:
            (round_,) = await self._store.rounds.get(run, range(key[0], key[0] + 1))
            return round_

        async def read(_: Round, epoch: Epoch | None) -> StoredEpoch | None:
            if epoch is None:
                return None
            if epoch.kind != "logs":
                raise EpochKindConflict(
                    f"epoch {number} of round {key[0]} is written {describe_kind(epoch.kind)}, got a log; "
                    "leave it out of the log, or drop the epoch with resume_from"
                )
            correct, observed = await self._store.bitmaps.read_epochs(run, key[0], [epoch])
            wrong_predictions = None
            if epoch.has_wrong_predictions:
                wrong_predictions = await self._store.wrong_predictions.read(run, key[0], epoch)
            return StoredEpoch(EpochBits(n_samples, correct[0], observed[0]), not epoch.partial, wrong_predictions)

        def find_record(round_: Round) -> Epoch | None:
            return round_.all_epochs.get(number)

        subject = f"epoch {number} of round {key[0]}"
        round_, part = await read_current(await read_round(), find_record, read, read_round, subject)
        return round_, find_record(round_), part

    async def _store_epoch(
        self,
        run: Run,
        key: EpochKey,
        log: LogAccumulator,
        complete: bool,
        attempt: int | None,
        ids: SampleIdsRef | None,
        labels: ComparedLabels,
    ) -> MergedEpoch:
        """Merge one epoch of a log with its stored part, and commit the result; repeat after concurrent changes."""
        log_part = await self._run_in_thread(
            lambda: StoredEpoch(log.get_bits(key), is_committed=False, wrong_predictions=log.get_wrong_predictions(key))
        )
        for _ in range(_ATTEMPTS):
            round_, stored_record, stored_part = await self._read_epoch(run, key)
            if round_.finished:
                raise wrong_round_error(run.run_id, key[0], (await self._store.runs.get(run.run_id)).round)
            expected = await self._store.bitmaps.read_expected(run, round_)
            merged, bits, wrong_predictions = await self._run_in_thread(
                partial(_merge_epoch, key, log_part, stored_part, expected, log.count_contradictory(key))
            )
            committed = complete or merged.num_missing == 0
            if stored_record is not None and not stored_record.partial:
                if merged.outcome == "merged":
                    raise EpochConflict(
                        f"epoch {key[1]} of round {key[0]} was committed while the log was read, without some of "
                        "its samples; drop the epoch with resume_from"
                    )
                committed = True
            merged = replace(merged, state="committed" if committed else "partial")
            if stored_record is not None and merged.outcome == "same" and stored_record.partial != committed:
                self._telemetry.epochs.labels("same").inc()
                return merged
            packed = await self._run_in_thread(partial(PackedEpoch.from_bits, bits, "logs", wrong_predictions))
            current = run.attempt if attempt is None else attempt
            record = packed.make_record(key[1], current, "logs", partial=not committed)
            try:
                if await self._store.epochs.merge(
                    run,
                    key[0],
                    record,
                    packed.values,
                    stored_record,
                    current,
                    round_.members,
                    wrong_predictions=packed.wrong_predictions,
                    ids=ids,
                    labels=labels,
                ):
                    self._telemetry.epochs.labels(merged.state).inc()
                    return merged
                labels = await self._compare_labels(await self._store.runs.refresh(run), log)
            except StaleAttempt:
                if attempt is not None:
                    raise
                run = replace(run, attempt=(await self._store.runs.get(run.run_id)).attempt)
        raise StoreUnavailable(
            f"epoch {key[1]} of round {key[0]} was changed by others {_ATTEMPTS} times while it was being merged; "
            "send the same log again in a second"
        )

    async def _run_in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in a worker thread, and measure its time."""
        with phase("decode"):
            return await to_thread.run_sync(work)


async def _join_pieces(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a body in blocks of at least `_SPOOL_BYTES`, but for the last."""
    block = bytearray()
    async for piece in body:
        block += piece
        if len(block) >= _SPOOL_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _reserve_from_thread(n_bytes: int) -> None:
    """Take memory for the current request, from a worker thread."""
    from_thread.run_sync(take_memory_now, n_bytes)


def _merge_epoch(
    key: EpochKey, log_part: StoredEpoch, stored_part: StoredEpoch | None, expected: Bitmap, n_contradictory: int
) -> tuple[MergedEpoch, EpochBits, WrongPredictions | None]:
    """Merge one epoch of a log with its stored part: a sample is correct if it is in either."""
    log_bits, stored_bits, wrong_predictions = (
        log_part.bits,
        None if stored_part is None else stored_part.bits,
        log_part.wrong_predictions,
    )
    n_samples = log_bits.n_samples
    assert log_bits.observed is not None, "epochs from logs have an observed bitmap"
    outcome: Literal["merged", "same"] = "merged"
    observed, correct = log_bits.observed, log_bits.correct
    if stored_part is not None and stored_bits is not None:
        assert stored_bits.observed is not None, "epochs from logs have an observed bitmap"
        observed, correct = log_bits.observed | stored_bits.observed, log_bits.correct | stored_bits.correct
        wrong_predictions = _merge_wrong_predictions(wrong_predictions, stored_part.wrong_predictions, correct)
        same = (
            np.array_equal(observed, stored_bits.observed)
            and np.array_equal(correct, stored_bits.correct)
            and _have_same_predictions(wrong_predictions, stored_part.wrong_predictions)
        )
        outcome = "same" if same else "merged"
    missing = bitmap.to_indices(expected & ~observed, n_samples)
    merged = MergedEpoch(
        round=key[0],
        epoch=key[1],
        outcome=outcome,
        state="partial",
        num_correct=bitmap.popcount(correct),
        num_observed=bitmap.popcount(observed),
        num_expected=bitmap.popcount(expected),
        num_missing=missing.size,
        missing=missing[:_MAX_LISTED].tolist(),
        num_contradictory=n_contradictory,
    )
    return merged, EpochBits(n_samples, correct, observed), wrong_predictions


def _have_same_predictions(first: WrongPredictions | None, second: WrongPredictions | None) -> bool:
    planes = [None if entry is None or not entry.n_predictions else entry.predicted for entry in (first, second)]
    if planes[0] is None or planes[1] is None:
        return planes[0] is planes[1]
    return np.array_equal(planes[0], planes[1])


def _merge_wrong_predictions(
    logged: WrongPredictions | None, stored: WrongPredictions | None, correct: Bitmap
) -> WrongPredictions | None:
    """Merge the wrong predictions of a log with the stored ones, without those of samples that are correct."""
    merged = logged or stored if logged is None or stored is None else logged.merge(stored)
    if merged is None:
        return None
    is_wrong = (merged.predicted != 0) & ~bitmap.unpack(correct, merged.predicted.size)
    return WrongPredictions(np.where(is_wrong, merged.predicted, 0), np.where(is_wrong, merged.labels, 0))
