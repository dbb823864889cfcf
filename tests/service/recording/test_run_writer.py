"""What several callers at once, or an unlucky moment, may do to the write path."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from redis import Redis

from mild_core import bitmap
from mild_core.types import EpochBits, RunSpec, SelectionOptions
from mild_service.admission import Admission
from mild_service.config import Settings
from mild_service.errors import RunNotFound, StaleAttempt
from mild_service.models import CommitOutcome, Epoch, Round, Run
from mild_service.observability import Telemetry
from mild_service.recording.epoch_writer import EpochWrite, EpochWriter
from mild_service.recording.run_writer import RunWriter
from mild_service.selecting.compute import SelectionComputer
from mild_service.store import PackedEpoch, Store
from mild_service.store.keys import Keys
from tests.service.recordings import recording
from tests.service.wholes import Whole

pytestmark = pytest.mark.anyio
N = 200
BODIES = recording(N, 10)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    assert settings.store_url is not None
    store = Store(settings, settings.store_url)
    yield store
    await store.aclose()


@pytest.fixture
async def runs(store: Store, settings: Settings) -> AsyncIterator[RunWriter]:
    telemetry = Telemetry()
    computer = SelectionComputer(store, telemetry, settings, Admission(settings, telemetry))
    yield RunWriter(store, computer, settings, telemetry)
    await computer.aclose()


@pytest.fixture
def epochs(store: Store, settings: Settings) -> EpochWriter:
    return EpochWriter(store, settings, Telemetry())


async def put(epochs: EpochWriter, number: int, body: bytes, attempt: int | None = None) -> tuple[CommitOutcome, Epoch]:
    return await epochs.put(EpochWrite("a", 0, number, attempt), Whole(body))


async def opened(runs: RunWriter, epochs: EpochWriter, n_epochs: int = 10, **fields: Any) -> Run:
    run, _ = await runs.open(RunSpec("a", N, **fields))
    for number, body in enumerate(BODIES[:n_epochs]):
        await put(epochs, number, body)
    return run


async def only_round(store: Store, run: Run, number: int = 0) -> Round:
    (round_,) = await store.rounds.get(run, range(number, number + 1))
    return round_


async def test_a_writer_without_an_attempt_follows_the_current_one(runs: RunWriter, epochs: EpochWriter) -> None:
    await opened(runs, epochs, 3)
    await runs.open(RunSpec("a", N), resume_from=(0, 2))
    outcome, epoch = await put(epochs, 2, BODIES[5])
    assert (outcome, epoch.attempt) == ("committed", 2)
    with pytest.raises(StaleAttempt):
        await put(epochs, 3, BODIES[3], 1)
    await runs.delete("a")
    with pytest.raises(RunNotFound):
        await put(epochs, 3, BODIES[3])


async def test_a_run_that_goes_while_it_is_opened_again_is_created(
    runs: RunWriter, epochs: EpochWriter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await opened(runs, epochs, 3)
    resume = store.rounds.resume

    async def late_resume(run: Run, *place: int) -> int:
        await runs.delete("a")
        return await resume(run, *place)

    monkeypatch.setattr(store.rounds, "resume", late_resume)
    new, created = await runs.open(RunSpec("a", N), resume_from=(0, 2))
    assert created
    assert new.uid != old.uid


async def test_members_that_change_under_a_commit_are_checked_again(
    runs: RunWriter, epochs: EpochWriter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await opened(runs, epochs, 0, observe="members")
    members = bitmap.pack(np.arange(N) < 150)
    commit, calls = store.epochs.commit, 0

    async def late_commit(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            await runs.put_members(run, 0, members, None)
        return await commit(*arguments)

    monkeypatch.setattr(store.epochs, "commit", late_commit)
    body = (np.frombuffer(BODIES[0], dtype=np.uint8) & members).tobytes()
    assert (await put(epochs, 0, body))[0] == "committed"
    assert calls == 2


async def test_of_many_who_finish_at_once_all_get_the_same_set(
    runs: RunWriter, epochs: EpochWriter, store: Store
) -> None:
    run = await opened(runs, epochs)
    await asyncio.gather(*(runs.finish(run, 0, False, None, None) for _ in range(10)))
    assert (await runs.find("a")).round == 1
    assert (await only_round(store, run)).finished


async def test_an_epoch_that_comes_while_finishing_is_in_the_set_or_refused(
    runs: RunWriter, epochs: EpochWriter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await opened(runs, epochs, 9)
    finish, calls = store.rounds.finish, 0

    async def late_finish(*arguments: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            await put(epochs, 9, BODIES[9])
        return await finish(*arguments)

    monkeypatch.setattr(store.rounds, "finish", late_finish)
    await runs.finish(run, 0, False, None, None)
    round_ = await only_round(store, run)
    assert round_.selection is not None
    assert (calls, len(round_.epochs), round_.selection["epochs"]) == (2, 10, 10)


async def test_a_crash_before_the_freeze_leaves_the_round_open(
    runs: RunWriter, epochs: EpochWriter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await opened(runs, epochs)

    async def crash(*_: Any) -> bool:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(store.rounds, "finish", crash)
        with pytest.raises(RuntimeError):
            await runs.finish(run, 0, False, None, None)
    assert not (await only_round(store, run)).finished
    await runs.finish(run, 0, False, None, None)
    assert (await only_round(store, run)).finished


async def test_a_round_is_finished_even_if_it_cannot_be_cleaned_up(
    runs: RunWriter,
    epochs: EpochWriter,
    store: Store,
    redis: Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_samples = 1_100_000
    run, _ = await runs.open(RunSpec("a", n_samples, selection=SelectionOptions(threshold="fraction", fraction=0.5)))
    for number, body in enumerate(recording(n_samples, 2)):
        await put(epochs, number, body)
    tail = Keys(settings.store_namespace).of_run("a", run.uid).chunk(0, 1)
    finish = store.rounds.finish

    async def spoiled(*arguments: Any) -> bool:
        done = await finish(*arguments)
        redis.delete(tail)
        redis.set(tail, "no hash")
        return done

    monkeypatch.setattr(store.rounds, "finish", spoiled)
    await runs.finish(run, 0, False, None, None)
    assert (await only_round(store, run)).finished


async def test_large_bodies_are_checked_beside_the_event_loop(
    runs: RunWriter, epochs: EpochWriter, store: Store
) -> None:
    n_samples = 3_000_000
    await runs.open(RunSpec("a", n_samples))
    body = bitmap.full(n_samples).tobytes()
    outcome, epoch = await put(epochs, 0, body)
    expected = PackedEpoch.from_bits(EpochBits.from_body(body, n_samples))
    assert (outcome, epoch.digest, epoch.n_correct) == ("committed", expected.digest, n_samples)
