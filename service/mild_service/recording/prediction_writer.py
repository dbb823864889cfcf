"""Writing prediction logs: collecting records into bits, and merging the bits into epochs."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import IO, Literal, TypeAlias, TypeVar

import numpy as np
from anyio import from_thread, to_thread

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.fields import describe_field
from mild_core.types import EpochBits, RoundBits
from mild_service.admission import Admission, get_current_key, keep_memory, take_memory_now
from mild_service.annotations.external_ids import ExternalIds, no_sample_ids_error
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.config import Settings
from mild_service.errors import (
    EpochConflict,
    EpochKindConflict,
    InvalidRequest,
    StaleAttempt,
    StoreUnavailable,
)
from mild_service.ingest import read_batches
from mild_service.ingest.accumulator import EpochPart, LogAccumulator, check_classes, check_indices, collect_rounds
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
from mild_service.recording.epoch_status import count_samples, read_epoch
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


@dataclass(frozen=True, slots=True, eq=False)
class MergedEpoch:
    """Result of merging a log into one epoch."""

    round: int = describe_field("The round.")
    epoch: int = describe_field("The epoch.")
    outcome: Literal["merged", "same"] = describe_field("`same`: the store had all of it.")
    state: Literal["partial", "committed"] = describe_field(
        "`partial` until all expected samples are in, or a log completes it."
    )
    num_correct: int = describe_field("Correct samples.")
    num_observed: int = describe_field("Observed samples.")
    num_expected: int = describe_field("Samples that the run observes in every epoch.")
    num_missing: int = describe_field("Expected samples that are not in.")
    missing: list[int] = describe_field("The first 100 of them.")
    num_contradictory: int = describe_field(
        "Samples of the log that were seen both correct and wrong; they count as correct."
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
            names = RunSampleResolver(partial(from_thread.run, self._ids.get_index, run), samples_by)
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
        if (labels := log.labels) is None:
            return "unchecked"
        return (await self._labels.record_logged_labels(run, labels)).labels

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
        if n_samples is not None:
            self._settings.check_limit("num_samples", n_samples, "max_samples")
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

    async def _read_stored_part(self, run: Run, key: EpochKey) -> EpochPart:
        """Read the stored part of an epoch of the log, after a check that its round is open."""
        if key[0] != run.round:
            raise wrong_round_error(run.run_id, key[0], run.round)
        return (await self._read_epoch(run, key))[2]

    async def _read_epoch(self, run: Run, key: EpochKey) -> tuple[Round, Epoch | None, EpochPart]:
        """Read the round, the record and the stored part of an epoch."""
        number, epoch_number = key

        async def read(_: Round, epoch: Epoch | None) -> EpochPart:
            if epoch is None:
                empty = np.zeros(bitmap.n_bytes(run.spec.num_samples), dtype=np.uint8)
                return EpochPart(empty, empty)
            if epoch.kind != "logs":
                raise EpochKindConflict(
                    f"epoch {epoch_number} of round {number} is written {describe_kind(epoch.kind)}, got a log; "
                    "leave it out of the log, or drop the epoch with resume_from"
                )
            correct, observed = await self._store.bitmaps.read_epochs(run, number, [epoch])
            wrong_predictions = None
            if epoch.has_wrong_predictions:
                wrong_predictions = await self._store.wrong_predictions.read(run, number, epoch)
            return EpochPart(observed[0], correct[0], wrong_predictions, is_committed=not epoch.partial)

        return await read_epoch(self._store, run, number, epoch_number, read)

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
        part = await self._run_in_thread(partial(log.get_part, key))
        for _ in range(_ATTEMPTS):
            round_, stored_record, stored = await self._read_epoch(run, key)
            if round_.finished:
                raise wrong_round_error(run.run_id, key[0], (await self._store.runs.get(run.run_id)).round)
            expected = await self._store.bitmaps.read_expected(run, round_)
            merged, packed = await self._run_in_thread(
                partial(_merge_epoch, log, key, part, stored, expected, complete)
            )
            if packed is None:
                self._telemetry.epochs.labels("same").inc()
                return merged
            current = run.attempt if attempt is None else attempt
            record = packed.make_record(key[1], current, "logs", partial=merged.state == "partial")
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
                run = await self._store.runs.refresh(run)
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
    log: LogAccumulator, key: EpochKey, part: EpochPart, stored: EpochPart, expected: Bitmap, complete: bool
) -> tuple[MergedEpoch, PackedEpoch | None]:
    """Merge one epoch of a log with its stored part; return what to store, None if the store has all of it."""
    merged = part.merge(stored)
    is_same = merged.equals(stored)
    if stored.is_committed and not is_same:
        raise EpochConflict(
            f"epoch {key[1]} of round {key[0]} was committed while the log was read, without some of its samples; "
            "drop the epoch with resume_from"
        )
    is_committed = complete or stored.is_committed or not (expected & ~merged.observed).any()
    result = MergedEpoch(
        round=key[0],
        epoch=key[1],
        outcome="same" if is_same else "merged",
        state="committed" if is_committed else "partial",
        **count_samples(merged.observed, merged.correct, expected),
        num_contradictory=log.count_contradictory(key),
    )
    if is_same and is_committed == stored.is_committed:
        return result, None
    bits = EpochBits(log.n_samples, merged.correct, merged.observed)
    return result, PackedEpoch.from_bits(bits, "logs", merged.wrong_predictions)
