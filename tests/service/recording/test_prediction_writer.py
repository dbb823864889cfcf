import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import IO, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from mild_core import bitmap
from mild_core.types import EpochBits, RunSpec
from mild_service.admission import Admission
from mild_service.annotations.external_ids import ExternalIds
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.config import Settings
from mild_service.errors import (
    EpochConflict,
    EpochKindConflict,
    LabelsConflict,
    RoundFinished,
    RunNotFound,
    StaleAttempt,
    StoreDamaged,
    StoreUnavailable,
)
from mild_service.ingest.accumulator import LogAccumulator
from mild_service.ingest.sandbox import Sandbox
from mild_service.models import Round, Run
from mild_service.observability import Telemetry
from mild_service.recording.prediction_writer import MergedEpoch, PredictionWriter
from mild_service.store import PackedEpoch, Store
from mild_service.store.keys import Keys
from tests.service.conftest import Dump
from tests.service.ingest.logs import NDJSON, as_ndjson

pytestmark = pytest.mark.anyio
N = 100

Meanwhile = Callable[[], Awaitable[object]]


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    assert settings.store_url is not None
    store = Store(settings, settings.store_url)
    yield store
    await store.aclose()


@pytest.fixture
async def run(store: Store) -> Run:
    run, _ = await store.runs.open(RunSpec("a", N, ttl_seconds=600))
    return run


@pytest.fixture
def predictions(store: Store, settings: Settings) -> PredictionWriter:
    telemetry = Telemetry()
    admission = Admission(settings, telemetry)
    ids, labels = ExternalIds(store, settings.id_cache_bytes, admission), LabelsAndAudits(store, telemetry)
    return PredictionWriter(store, ids, labels, Sandbox(2**29, 60), settings, telemetry, admission)


async def body(log: bytes) -> AsyncIterator[bytes]:
    yield log


async def post(
    predictions: PredictionWriter,
    run: Run,
    samples: range,
    correct: bool = True,
    epochs: int = 1,
    complete: bool = False,
    attempt: int | None = None,
    meanwhile: Meanwhile | None = None,
) -> tuple[int, list[MergedEpoch]]:
    log = as_ndjson([{"epoch": e, "sample": s, "correct": correct} for e in range(epochs) for s in samples])
    read_body = predictions._read_body

    async def read_body_and_go_on(media_type: str, file: IO[bytes], accumulator: LogAccumulator) -> None:
        """Let something happen once the log is read, and before it is merged."""
        await read_body(media_type, file, accumulator)
        patch.undo()
        if meanwhile is not None:
            await meanwhile()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, "_read_body", read_body_and_go_on)
        return await predictions.merge_log(run, NDJSON, body(log), complete, attempt)


async def round_0(store: Store, run: Run) -> Round:
    (round_,) = await store.rounds.get(run, range(1))
    return round_


async def observed(store: Store, run: Run, epoch: int = 0) -> list[int]:
    found = (await round_0(store, run)).all_epochs[epoch]
    _, bits = await store.bitmaps.read_epochs(run, 0, [found])
    indices: list[int] = bitmap.to_indices(bits[0], N).tolist()
    return indices


async def test_what_others_add_while_a_log_is_read_stays(predictions: PredictionWriter, store: Store, run: Run) -> None:
    async def other() -> None:
        await post(predictions, run, range(50, 60))

    await post(predictions, run, range(10), meanwhile=other)
    assert await observed(store, run) == [*range(10), *range(50, 60)]
    same = await post(predictions, run, range(5), meanwhile=lambda: post(predictions, run, range(60, 70)))
    assert same[1][0].outcome == "same"
    assert same[1][0].num_observed == 30


async def test_other_values_that_come_while_a_log_is_read_are_merged(predictions: PredictionWriter, run: Run) -> None:
    async def other() -> None:
        await post(predictions, run, range(4, 6), correct=False)

    merged = await post(predictions, run, range(10), meanwhile=other)
    assert (merged[1][0].outcome, merged[1][0].num_correct, merged[1][0].num_observed) == ("merged", 10, 10)
    again = await post(predictions, run, range(3), correct=False)
    assert (again[1][0].outcome, again[1][0].num_correct, again[1][0].num_contradictory) == ("same", 10, 3)


async def test_an_epoch_that_is_completed_while_a_log_is_read_takes_no_more(
    predictions: PredictionWriter, store: Store, run: Run
) -> None:
    async def other() -> None:
        await post(predictions, run, range(5), complete=True)

    with pytest.raises(EpochConflict, match="committed while the log was read"):
        await post(predictions, run, range(10), meanwhile=other)
    assert await observed(store, run) == [0, 1, 2, 3, 4]
    repeated = await post(predictions, run, range(5))
    assert (repeated[1][0].outcome, repeated[1][0].state) == ("same", "committed")


async def test_an_epoch_that_is_put_whole_while_a_log_is_read_is_left_alone(
    predictions: PredictionWriter, store: Store, run: Run
) -> None:
    async def other() -> None:
        packed = PackedEpoch.from_bits(EpochBits(N, bitmap.full(N)))
        await store.epochs.commit(run, 0, 0, packed, 1, False)

    with pytest.raises(EpochKindConflict):
        await post(predictions, run, range(10), meanwhile=other)
    assert (await round_0(store, run)).epochs[0].kind == "whole"


async def test_what_is_dropped_while_a_log_is_read_does_not_come_back(
    predictions: PredictionWriter, store: Store, run: Run
) -> None:
    await post(predictions, run, range(50, 60))

    async def resume() -> None:
        await store.rounds.resume(run, 0, 0)

    posted = await post(predictions, run, range(10), meanwhile=resume)
    assert posted[1][0].num_observed == 10
    assert (await round_0(store, run)).partial_epochs[0].attempt == 2
    with pytest.raises(StaleAttempt):
        await post(predictions, run, range(20), attempt=1)
    current = await store.runs.get("a")
    with pytest.raises(StaleAttempt):
        await post(predictions, current, range(20), attempt=2, meanwhile=resume)


async def test_a_run_or_round_that_goes_while_a_log_is_read_takes_nothing(
    predictions: PredictionWriter, store: Store, run: Run, dump: Dump
) -> None:
    async def finish() -> None:
        await post(predictions, run, range(3))
        assert await store.rounds.finish(run, await round_0(store, run), bitmap.full(N), {}, {}, None)

    with pytest.raises(RoundFinished):
        await post(predictions, run, range(10), meanwhile=finish)
    other, _ = await store.runs.open(RunSpec("b", N, ttl_seconds=600))
    before = {key: value for key, value in dump().items() if b"{b" not in key}
    with pytest.raises(RunNotFound):
        await post(predictions, other, range(10), meanwhile=lambda: store.runs.delete("b", other.uid))
    assert {key for key in dump() if b"{b" in key} == set()
    assert {key for key in before if b"{a" in key} == {key for key in dump() if b"{a" in key}


async def test_of_many_logs_at_once_none_is_lost(predictions: PredictionWriter, store: Store, run: Run) -> None:
    rng = np.random.default_rng(0)
    starts = [*rng.integers(0, N - 20, 16).tolist(), *range(0, N, 20)]
    posted = await asyncio.gather(
        *(post(predictions, run, range(start, min(start + 20, N)), epochs=3) for start in starts)
    )
    assert sum(n_records for n_records, _ in posted) == 3 * 20 * len(starts)
    round_ = await round_0(store, run)
    assert (list(round_.epochs), round_.partial_epochs) == ([0, 1, 2], {})
    assert {epoch.n_correct for epoch in round_.epochs.values()} == {N}


async def test_bits_that_the_store_has_lost_are_not_merged_over(
    predictions: PredictionWriter, store: Store, run: Run, redis: Redis, settings: Settings
) -> None:
    await post(predictions, run, range(10))
    redis.delete(Keys(settings.store_namespace).of_run("a", run.uid).chunk(0, 0))
    with pytest.raises(StoreDamaged):
        await post(predictions, run, range(10, 20))


async def test_a_merge_that_never_comes_through_is_given_up(
    predictions: PredictionWriter, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mild_service.recording.prediction_writer._ATTEMPTS", 0)
    with pytest.raises(StoreUnavailable, match="send the same log again"):
        await post(predictions, run, range(10))


LABELS = np.arange(N) % 3


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, meanwhile: Meanwhile) -> None:
    """Let something happen just before the next call of a method of the store."""
    method = getattr(owner, name)

    async def late_method(*arguments: Any, **keywords: Any) -> Any:
        monkeypatch.setattr(owner, name, method)
        await meanwhile()
        return await method(*arguments, **keywords)

    monkeypatch.setattr(owner, name, late_method)


async def post_labels(
    predictions: PredictionWriter, run: Run, labels: NDArray[np.int64]
) -> tuple[int, list[MergedEpoch]]:
    records = [{"epoch": 0, "sample": i, "predicted": label, "label": label} for i, label in enumerate(labels.tolist())]
    return await predictions.merge_log(run, NDJSON, body(as_ndjson(records)), False, None)


@pytest.mark.parametrize(
    ("owner", "name", "earlier"),
    [("annotations", "put_labels", None), ("epochs", "merge", None), ("epochs", "merge", LABELS)],
)
async def test_labels_that_are_put_while_a_log_is_merged_win(
    predictions: PredictionWriter,
    store: Store,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
    name: str,
    earlier: NDArray[np.int64] | None,
) -> None:
    labels_and_audits = LabelsAndAudits(store, Telemetry())
    if earlier is not None:
        await labels_and_audits.put_labels(run, earlier)
        run = await store.runs.get("a")

    async def put() -> None:
        await labels_and_audits.put_labels(await store.runs.get("a"), LABELS + 1)

    interrupt(monkeypatch, getattr(store, owner), name, put)
    with pytest.raises(LabelsConflict, match="all by -1: number the classes alike"):
        await post_labels(predictions, run, LABELS)
    assert (await round_0(store, run)).all_epochs == {}
    _, labels = await labels_and_audits.read_labels(await store.runs.get("a"), np.array([2]))
    assert labels is not None
    assert labels.tolist() == [3]
    assert (await post_labels(predictions, run, LABELS + 1))[1][0].state == "committed"


@pytest.mark.parametrize(("owner", "name"), [("annotations", "put_labels"), ("epochs", "merge")])
async def test_the_same_labels_that_are_put_while_a_log_is_merged_are_no_conflict(
    predictions: PredictionWriter, store: Store, run: Run, monkeypatch: pytest.MonkeyPatch, owner: str, name: str
) -> None:
    labels_and_audits = LabelsAndAudits(store, Telemetry())
    interrupt(monkeypatch, getattr(store, owner), name, lambda: labels_and_audits.put_labels(run, LABELS))
    assert (await post_labels(predictions, run, LABELS))[1][0].state == "committed"


@pytest.mark.parametrize("has_tried", [False, True])
async def test_labels_of_a_log_that_comes_while_others_are_put_win(
    predictions: PredictionWriter, store: Store, run: Run, monkeypatch: pytest.MonkeyPatch, has_tried: bool
) -> None:
    labels_and_audits = LabelsAndAudits(store, Telemetry())
    if has_tried:  # a log whose epochs were not stored states nothing yet
        await labels_and_audits.record_logged_labels(run, LABELS)
        run = await store.runs.get("a")
    interrupt(monkeypatch, store.annotations, "put_labels", lambda: post_labels(predictions, run, LABELS))
    with pytest.raises(LabelsConflict, match="all by -1: number the classes alike"):
        await labels_and_audits.put_labels(run, LABELS + 1)
    assert (await store.runs.get("a")).labels is None
    await labels_and_audits.put_labels(await store.runs.get("a"), LABELS)
