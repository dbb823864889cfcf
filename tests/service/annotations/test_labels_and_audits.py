"""What several callers at once, or an unlucky moment, may do to labels and audits."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from redis import Redis

from mild_core import bitmap
from mild_core.audit import Audit, AuditChange
from mild_core.draw import DrawChoice
from mild_core.types import RunSpec, SelectionOptions
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.config import Settings
from mild_service.errors import RunNotFound, StoreDamaged, StoreUnavailable
from mild_service.models import Run
from mild_service.observability import Telemetry
from mild_service.store import Store
from mild_service.store.keys import Keys

pytestmark = pytest.mark.anyio
N = 1_100_000
"""Two chunks, of which the second has a slot of its own."""


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    assert settings.store_url is not None
    store = Store(settings, settings.store_url)
    yield store
    await store.aclose()


@pytest.fixture
def labels_and_audits(store: Store) -> LabelsAndAudits:
    return LabelsAndAudits(store, Telemetry())


@pytest.fixture
async def run(store: Store) -> Run:
    run, _ = await store.runs.open(RunSpec("a", N, ttl_seconds=60))
    return run


def mark(index: int, clean: bool | None = True) -> AuditChange:
    return AuditChange.from_marks([index], [clean], N)


async def test_of_many_audits_at_once_none_is_lost(labels_and_audits: LabelsAndAudits, run: Run, store: Store) -> None:
    merged = await asyncio.gather(*(labels_and_audits.put_audit(run, mark(index)) for index in range(12)))
    assert sorted(m.audit.n_checked for m in merged) == list(range(1, 13))
    assert (await labels_and_audits.read_audit(await store.runs.get("a")))[1].n_checked == 12


async def test_marks_and_marks_taken_back_at_once_all_count(
    labels_and_audits: LabelsAndAudits, run: Run, store: Store
) -> None:
    for index in range(6):
        await labels_and_audits.put_audit(run, mark(index))
    changes = [mark(index, None) for index in range(6)] + [mark(index, False) for index in range(6, 12)]
    merged = await asyncio.gather(*(labels_and_audits.put_audit(run, change) for change in changes))
    assert [(m.added, m.replaced, m.removed) for m in merged] == [(0, 0, 1)] * 6 + [(1, 0, 0)] * 6
    audit = (await labels_and_audits.read_audit(await store.runs.get("a")))[1]
    assert [audit.get_mark(index) for index in range(12)] == [None] * 6 + [False] * 6


async def test_marks_keep_the_draw_and_its_choice(labels_and_audits: LabelsAndAudits, run: Run, store: Store) -> None:
    await labels_and_audits.put_audit(run, mark(3))  # two bitmaps, as every audit was before there were draws
    run, audit = await labels_and_audits.read_audit(await store.runs.get("a"))
    assert (run.draw, audit.random) == (None, None)
    choice = DrawChoice(2, SelectionOptions(threshold="fdr", alpha=0.2))
    random = bitmap.from_indices([5, N - 1], N)
    assert (await store.annotations.put_audit(run, replace(audit, random=random), choice))[0] == "set"
    run = await store.runs.get("a")
    assert run.draw == choice
    await labels_and_audits.put_audit(run, mark(N - 1))
    run, audit = await labels_and_audits.read_audit(await store.runs.get("a"))
    assert run.draw == choice
    assert audit.random is not None
    assert bitmap.to_indices(audit.random, N).tolist() == [5, N - 1]
    assert (audit.n_drawn, audit.n_unanswered, audit.get_mark(3)) == (2, 1, True)
    other = replace(choice, round=3)  # the same samples, drawn for another choice
    assert (await store.annotations.put_audit(run, audit, other))[0] == "set"
    assert (await store.runs.get("a")).draw == other


async def test_of_many_labels_at_once_the_last_stands(
    labels_and_audits: LabelsAndAudits, run: Run, store: Store
) -> None:
    sets = [np.full(N, value) for value in (1, 2, 70_000)]
    outcomes = await asyncio.gather(*(labels_and_audits.put_labels(run, labels) for labels in sets))
    assert sorted(outcome for outcome, _ in outcomes) == ["replaced", "replaced", "set"]
    _, last = await labels_and_audits.read_labels(await store.runs.get("a"), np.array([N - 1]))
    assert last is not None
    assert last.tolist() in ([1], [2], [70_000])


async def test_a_label_is_read_from_any_chunk(labels_and_audits: LabelsAndAudits, run: Run, store: Store) -> None:
    assert (await labels_and_audits.read_labels(run, np.array([0])))[1] is None
    await labels_and_audits.put_labels(run, np.arange(N))
    run = await store.runs.get("a")
    for index in (0, 1_048_575, 1_048_576, N - 1):
        _, labels = await labels_and_audits.read_labels(run, np.array([index]))
        assert labels is not None
        assert labels.tolist() == [index]


async def test_an_audit_that_is_replaced_while_it_is_read_is_read_again(
    labels_and_audits: LabelsAndAudits, run: Run, store: Store
) -> None:
    await labels_and_audits.put_audit(run, mark(0))
    stale = await store.runs.get("a")
    await labels_and_audits.put_audit(run, mark(N - 1))
    fresh, audit = await labels_and_audits.read_audit(stale)
    assert audit.n_checked == 2
    assert fresh.audit != stale.audit


async def test_a_reader_does_not_try_for_ever(
    labels_and_audits: LabelsAndAudits, run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await labels_and_audits.put_audit(run, mark(0))
    read, index = store.annotations.read_audit, 0

    async def always_late(run: Run, ref: Any) -> Audit:
        nonlocal index
        index += 1
        with monkeypatch.context() as patch:
            patch.setattr(store.annotations, "read_audit", read)
            await labels_and_audits.put_audit(run, mark(index))
        return await read(run, ref)

    run = await store.runs.get("a")
    monkeypatch.setattr(store.annotations, "read_audit", always_late)
    with pytest.raises(StoreUnavailable, match="20 times while being read"):
        await labels_and_audits.read_audit(run)


async def test_an_audit_that_is_lost_is_no_empty_one(
    labels_and_audits: LabelsAndAudits, run: Run, store: Store, redis: Redis, settings: Settings
) -> None:
    await labels_and_audits.put_audit(run, mark(0))
    redis.delete(Keys(settings.store_namespace).of_run("a", run.uid).annotations(1))
    with pytest.raises(StoreDamaged, match="noeviction"):
        await labels_and_audits.read_audit(await store.runs.get("a"))


async def test_a_run_that_was_opened_anew_is_another(
    labels_and_audits: LabelsAndAudits, run: Run, store: Store
) -> None:
    await labels_and_audits.put_audit(run, mark(0))
    stale = await store.runs.get("a")
    await store.runs.delete("a", run.uid)
    with pytest.raises(RunNotFound):
        await labels_and_audits.read_audit(stale)
    await store.runs.open(RunSpec("a", 8, ttl_seconds=60))
    with pytest.raises(RunNotFound):
        await labels_and_audits.put_labels(run, np.zeros(N, dtype=np.int64))
    with pytest.raises(RunNotFound):
        await labels_and_audits.put_audit(replace(stale, audit=None), mark(1))


async def test_a_run_that_goes_while_it_is_written_to_leaves_nothing(
    labels_and_audits: LabelsAndAudits,
    run: Run,
    store: Store,
    redis: Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = store.annotations._context
    ask = context.run_script

    async def deleted_before(name: str, *arguments: Any) -> list[str]:
        if name == "put_annotation":
            await store.runs.delete("a", run.uid)
        return await ask(name, *arguments)

    monkeypatch.setattr(context, "run_script", deleted_before)
    with pytest.raises(RunNotFound):
        await labels_and_audits.put_audit(run, mark(0))
    assert not list(redis.scan_iter(f"{settings.store_namespace}:*truth*"))
