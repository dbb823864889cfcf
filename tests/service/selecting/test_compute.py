import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from mild_core import bitmap, selection
from mild_core.types import EpochBits, RoundBits, RunSpec, SelectionOptions
from mild_service.admission import Admission
from mild_service.config import Settings
from mild_service.errors import NoEpochs, RoundNotOpen, ShuttingDown, StoreDamaged, StoreUnavailable
from mild_service.models import Run
from mild_service.observability import Telemetry
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.evidence import Evidence
from mild_service.store import PackedEpoch, Store, StoredSamples
from mild_service.store.embedded import EmbeddedServer
from mild_service.store.keys import Keys
from tests.service.recordings import recording

pytestmark = pytest.mark.anyio
N = 500
OPTIONS = SelectionOptions()


@dataclass
class Replica:
    """One of several services on the same store."""

    store: Store
    telemetry: Telemetry
    computer: SelectionComputer

    def count(self, source: str) -> float:
        return self.telemetry.registry.get_sample_value("mild_selections_total", {"source": source}) or 0.0


def replica(settings: Settings) -> Replica:
    assert settings.store_url is not None
    store, telemetry = Store(settings, settings.store_url), Telemetry()
    return Replica(store, telemetry, SelectionComputer(store, telemetry, Settings(), Admission(Settings(), telemetry)))


@pytest.fixture
async def here(settings: Settings) -> AsyncIterator[Replica]:
    made = replica(settings)
    yield made
    await made.computer.aclose()
    await made.store.aclose()


async def opened(store: Store, bodies: Sequence[bytes], spec: RunSpec | None = None) -> Run:
    spec = spec or RunSpec("a", N)
    run, _ = await store.runs.open(replace(spec, ttl_seconds=600))
    for number, body in enumerate(bodies):
        if body:
            packed = PackedEpoch.from_bits(EpochBits.from_body(body, spec.num_samples))
            await store.epochs.commit(run, 0, number, packed, 1, False)
    return run


def recorded(bodies: Sequence[bytes]) -> RoundBits:
    return RoundBits(N, np.stack([np.frombuffer(body, dtype=np.uint8) for body in bodies]))


async def test_a_selection_is_what_the_core_says_of_the_stored_bits(here: Replica) -> None:
    bodies = recording(N, 10)
    run = await opened(here.store, bodies)
    _, computed = await here.computer.compute(await here.computer.evidence.gather(run, 0, OPTIONS))
    expected = selection.select([recorded(bodies)], OPTIONS)
    np.testing.assert_array_equal(computed.bitmap, expected.bitmap)
    assert computed.summary["num_selected"] == expected.n_selected
    assert expected.histogram is not None
    assert computed.fit["histogram"]["counts"] == list(expected.histogram.counts)


async def test_fifty_at_once_compute_once(here: Replica) -> None:
    run = await opened(here.store, recording(N, 10))
    evidence = await here.computer.evidence.gather(run, 0, OPTIONS)
    answers = await asyncio.gather(*(here.computer.compute(evidence) for _ in range(50)))
    assert here.count("computed") == 1
    assert len({computed.bitmap.tobytes() for _, computed in answers}) == 1
    again = await here.computer.compute(evidence)
    assert (here.count("computed"), here.count("cache")) == (1, 1)
    assert again[1].summary == answers[0][1].summary


async def test_replicas_leave_the_work_to_one(here: Replica, settings: Settings) -> None:
    other = replica(settings)
    run = await opened(here.store, recording(N, 10))
    evidence = await here.computer.evidence.gather(run, 0, OPTIONS)
    await asyncio.gather(*(each.computer.compute(evidence) for each in (here, other) for _ in range(10)))
    assert here.count("computed") + other.count("computed") == 1
    await other.computer.aclose()
    await other.store.aclose()


async def test_a_lock_that_its_holder_took_to_the_grave_is_taken_over(
    here: Replica, redis: Redis, settings: Settings
) -> None:
    run = await opened(here.store, recording(N, 10))
    evidence = await here.computer.evidence.gather(run, 0, OPTIONS)
    redis.set(Keys(settings.store_namespace).of_run("a", run.uid).selection_lock(evidence.digest), "dead", px=200)
    _, computed = await here.computer.compute(evidence)
    assert computed.summary["num_selected"] > 0


async def test_whoever_leaves_does_not_take_the_others_answer_along(here: Replica) -> None:
    run = await opened(here.store, recording(N, 10))
    evidence = await here.computer.evidence.gather(run, 0, OPTIONS)
    leaving, staying = (asyncio.create_task(here.computer.compute(evidence)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    _, computed = await staying
    assert computed.summary["num_selected"] > 0


async def test_what_is_computed_elsewhere_is_given_up_at_the_end(
    here: Replica, redis: Redis, settings: Settings
) -> None:
    run = await opened(here.store, recording(N, 10))
    evidence = await here.computer.evidence.gather(run, 0, OPTIONS)
    redis.set(Keys(settings.store_namespace).of_run("a", run.uid).selection_lock(evidence.digest), "busy", px=60_000)
    waiting = asyncio.create_task(here.computer.compute(evidence))
    await asyncio.sleep(0.05)
    await here.computer.aclose()
    with pytest.raises(ShuttingDown):
        await waiting


async def test_the_digest_follows_everything_that_decides(here: Replica) -> None:
    bodies = recording(N, 4)
    run = await opened(here.store, bodies)
    evidence = await here.computer.evidence.gather(run, 0, OPTIONS)
    others = [
        replace(evidence, options=SelectionOptions(cost_ratio=2.0)),
        replace(evidence, until_epoch=2),
        replace(evidence, run=replace(run, spec=replace(run.spec, observe="members"))),
    ]
    body = recording(N, 1, seed=9)[0]
    await here.store.epochs.commit(run, 0, 3, PackedEpoch.from_bits(EpochBits.from_body(body, N)), 1, True)
    others.append(await here.computer.evidence.gather(run, 0, OPTIONS))
    assert len({each.digest for each in [evidence, *others]}) == 5
    same = await here.computer.evidence.gather(run, 0, OPTIONS)
    assert same.digest == others[-1].digest


async def test_an_epoch_replaced_while_it_is_read_gives_the_newer_answer(here: Replica) -> None:
    run = await opened(here.store, recording(N, 10))
    stale = await here.computer.evidence.gather(run, 0, OPTIONS)
    bits = PackedEpoch.from_bits(EpochBits.from_body(recording(N, 1, seed=9)[0], N))
    await here.store.epochs.commit(run, 0, 3, bits, 1, True)
    evidence, computed = await here.computer.compute(stale)
    assert evidence.digest == computed.digest != stale.digest


async def test_bits_that_are_lost_are_no_reason_to_try_for_ever(
    here: Replica, redis: Redis, settings: Settings
) -> None:
    run = await opened(here.store, recording(N, 10))
    redis.delete(Keys(settings.store_namespace).of_run("a", run.uid).chunk(0, 0))
    with pytest.raises(StoreDamaged):
        await here.computer.compute(await here.computer.evidence.gather(run, 0, OPTIONS))


async def test_epochs_that_are_replaced_faster_than_they_are_read_are_no_damage(
    here: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await opened(here.store, recording(N, 3))
    open_samples, seeds = here.computer.evidence.open_samples, iter(range(100, 200))

    async def open_late(evidence: Evidence) -> StoredSamples:
        samples = await open_samples(evidence)
        body = recording(N, 1, seed=next(seeds))[0]
        await here.store.epochs.commit(run, 0, 1, PackedEpoch.from_bits(EpochBits.from_body(body, N)), 1, True)
        return samples

    monkeypatch.setattr(here.computer.evidence, "open_samples", open_late)
    with pytest.raises(StoreUnavailable, match="changed while it was read"):
        await here.computer.compute(await here.computer.evidence.gather(run, 0, OPTIONS))


async def test_there_must_be_something_to_select_from(here: Replica) -> None:
    run = await opened(here.store, [b"", *recording(N, 1)])
    with pytest.raises(RoundNotOpen, match="round 0 is open"):
        await here.computer.evidence.gather(run, 1, OPTIONS)
    with pytest.raises(NoEpochs, match="up to epoch 0"):
        await here.computer.evidence.gather(run, 0, OPTIONS, until_epoch=0)


async def evidence_bits(here: Replica, run: Run, until_epoch: int | None = None) -> RoundBits:
    """The bits that a selection of round 0 sees."""
    (bits,) = await here.computer.evidence.load_bits(await here.computer.evidence.gather(run, 0, OPTIONS, until_epoch))
    return bits


async def test_a_missing_epoch_is_left_out(here: Replica) -> None:
    bodies = recording(N, 4)
    run = await opened(here.store, [bodies[0], b"", bodies[2], bodies[3]])
    bits = await evidence_bits(here, run)
    assert bits.observed is None
    np.testing.assert_array_equal(bits.correct, [np.frombuffer(bodies[number], np.uint8) for number in (0, 2, 3)])
    assert (await evidence_bits(here, run, until_epoch=0)).n_epochs == 1
    assert (await evidence_bits(here, run, until_epoch=2)).n_epochs == 2


async def test_everyone_is_observed_unless_the_body_says(here: Replica) -> None:
    bodies = recording(N, 2)
    observed = bitmap.pack(np.arange(N) % 3 > 0)
    two = EpochBits(N, np.frombuffer(bodies[1], dtype=np.uint8) & observed, observed).to_body()
    run = await opened(here.store, [bodies[0]])
    assert (await evidence_bits(here, run)).observed is None
    await here.store.epochs.commit(run, 0, 1, PackedEpoch.from_bits(EpochBits.from_body(two, N)), 1, False)
    bits = await evidence_bits(here, run)
    assert bits.observed is not None
    np.testing.assert_array_equal(bits.observed, [bitmap.full(N), observed])
    assert (bits.expects, bits.members) == ("all", None)


async def test_a_run_that_observes_members_sees_members_only(here: Replica) -> None:
    spec = RunSpec("a", N, observe="members")
    run = await opened(here.store, [], spec)
    members = bitmap.pack(np.arange(N) % 2 == 0)
    await here.store.rounds.put_set(run, "members", 0, members, None)
    correct = np.frombuffer(recording(N, 1)[0], dtype=np.uint8) & members
    await here.store.epochs.commit(run, 0, 0, PackedEpoch.from_bits(EpochBits(N, correct)), 1, False)
    bits = await evidence_bits(here, run)
    assert bits.observed is not None
    np.testing.assert_array_equal(bits.observed[0], members)
    np.testing.assert_array_equal(bits.members, members)
    assert bits.expects == "members"


async def test_a_store_without_room_for_the_answer_still_gets_one(settings: Settings, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, Redis.from_url(server.url) as redis:
        full = replica(settings.model_copy(update={"store_url": server.url}))
        run = await opened(full.store, recording(N, 10))
        redis.config_set("maxmemory", "1")
        evidence, computed = await full.computer.compute(await full.computer.evidence.gather(run, 0, OPTIONS))
        assert computed.summary["num_selected"] > 0
        assert await full.store.selection_cache.get(run, evidence.digest) is None
        await full.computer.aclose()
        await full.store.aclose()
