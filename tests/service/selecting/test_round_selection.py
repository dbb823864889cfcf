"""Tables of samples: the core's own numbers, made once, and never another selection's."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from mild_core import bitmap
from mild_core.audit import AuditChange
from mild_core.errors import SampleIndexError
from mild_core.inspect.sample_table import SampleTable, build_sample_table
from mild_core.selection import select
from mild_core.types import EpochBits, RoundBits, RunSpec, SelectionOptions
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.models import Round, Run
from mild_service.observability import Telemetry
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.round_selection import RoundSelection
from mild_service.selecting.selections import Selections
from mild_service.store import PackedEpoch, Store
from tests.service.recordings import recording

pytestmark = pytest.mark.anyio
N = 400
BODIES = recording(N, 20)
LATER = recording(N, 12, seed=3)


class Service:
    """The parts that make tables, over a store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        app = create_app(settings, store)
        self.store, self.settings = store, settings
        self.computer: SelectionComputer = app.state.computer
        self.selections: Selections = app.state.selections
        self.labels_and_audits: LabelsAndAudits = app.state.labels_and_audits
        self.telemetry: Telemetry = app.state.telemetry

    async def open(self, run_id: str, bodies: Sequence[bytes]) -> None:
        await self.store.runs.open(RunSpec(run_id, N, 7, ttl_seconds=600))
        await self.put(run_id, bodies)

    async def put(self, run_id: str, bodies: Sequence[bytes]) -> None:
        run = await self.store.runs.get(run_id)
        for number, body in enumerate(bodies):
            packed = PackedEpoch.from_bits(EpochBits.from_body(body, N))
            await self.store.epochs.commit(run, 0, number, packed, 1, True)

    async def selection(self, run_id: str) -> RoundSelection:
        return await self.selections.open(await self.store.runs.get(run_id), "latest", {})

    def of_round(self, run: Run, round_: Round) -> RoundSelection:
        return RoundSelection(self.computer, self.labels_and_audits, run, round_)

    async def table(self, run_id: str) -> SampleTable:
        return await (await self.selection(run_id)).build_table()

    @property
    def n_made(self) -> float:
        return self.telemetry.registry.get_sample_value("mild_selections_total", {"source": "detail"}) or 0.0


@pytest.fixture
def service(store: Store, settings: Settings) -> Service:
    return Service(store, settings)


def bits(bodies: Sequence[bytes]) -> RoundBits:
    return RoundBits(N, np.stack([np.frombuffer(body, dtype=np.uint8) for body in bodies]))


async def test_a_table_is_what_the_core_says(service: Service) -> None:
    await service.open("a", BODIES)
    table = await service.table("a")
    expected = build_sample_table([bits(BODIES)], select([bits(BODIES)]))
    for name in ("scores", "is_kept", "misclassified", "transitions", "order"):
        np.testing.assert_array_equal(getattr(table, name), getattr(expected, name))


async def test_many_at_once_make_it_once_and_marks_make_no_other(service: Service) -> None:
    await service.open("a", BODIES)
    selection = await service.selection("a")
    found = await asyncio.gather(*(selection.build_table() for _ in range(8)))
    await service.labels_and_audits.put_audit(selection.run, AuditChange.from_marks([3], [True], N))
    found.append(await service.table("a"))
    assert len({id(each) for each in found}) == 1
    assert service.n_made == 1


async def test_labels_order_samples_of_equal_score_and_pages_stay(service: Service) -> None:
    run, _ = await service.store.runs.open(RunSpec("a", N, 7, ttl_seconds=600))
    labels = np.arange(N) % 5
    await service.labels_and_audits.put_labels(run, labels)
    await service.put("a", BODIES)
    orders = [(await service.table("a")).order for _ in range(2)]
    expected = build_sample_table([bits(BODIES)], select([bits(BODIES)]), labels).order
    assert orders[0].tolist() == orders[1].tolist() == expected.tolist()
    assert expected.tolist() != build_sample_table([bits(BODIES)], select([bits(BODIES)])).order.tolist()


async def test_a_table_of_replaced_epochs_is_not_that_of_the_earlier_ones(service: Service) -> None:
    await service.open("a", BODIES)
    selection = await service.selection("a")
    await service.put("a", LATER)
    replaced = await selection.build_table()
    await service.put("a", BODIES)
    table = await service.table("a")
    assert not np.array_equal(replaced.misclassified, table.misclassified)
    np.testing.assert_array_equal(
        table.misclassified, build_sample_table([bits(BODIES)], select([bits(BODIES)])).misclassified
    )


async def test_another_epoch_makes_another_table(service: Service) -> None:
    await service.open("a", BODIES)
    before = await service.table("a")
    await service.put("a", LATER)
    after = await service.table("a")
    assert not np.array_equal(before.misclassified, after.misclassified)


async def test_marks_that_calibrate_the_fit_make_another_table(service: Service) -> None:
    options = SelectionOptions(audit="fit")
    await service.store.runs.open(RunSpec("a", N, 7, selection=options, ttl_seconds=600))
    await service.put("a", BODIES)
    await service.table("a")
    run = await service.store.runs.get("a")
    await service.labels_and_audits.put_audit(run, AuditChange.from_marks([3, 5], [True, False], N))
    await service.table("a")
    assert service.n_made == 2


async def test_only_the_last_tables_are_kept(store: Store, settings: Settings) -> None:
    service = Service(store, settings.model_copy(update={"table_cache_bytes": 2 * 26 * N}))
    for run_id in "abc":
        await service.open(run_id, BODIES)
        await service.table(run_id)
    assert service.n_made == 3
    await service.table("c")
    await service.table("b")
    assert service.n_made == 3
    await service.table("a")
    assert service.n_made == 4


async def test_labels_are_read_once_and_anew_when_they_change(service: Service) -> None:
    run, _ = await service.store.runs.open(RunSpec("a", N, 7, ttl_seconds=600))
    rounds = await service.store.rounds.get(run, range(1))
    assert await service.of_round(run, rounds[0]).read_labels() is None
    for value in (3, 4):
        await service.labels_and_audits.put_labels(run, np.full(N, value))
        run = await service.store.runs.get("a")
        first, second = [await service.of_round(run, rounds[0]).read_labels() for _ in range(2)]
        assert first is not None
        assert first.tolist() == [value] * N
        assert second is first


async def test_a_story_is_of_the_samples_of_the_run(service: Service) -> None:
    await service.open("a", BODIES)
    selection = await service.selection("a")
    explanation, suggestion = await selection.explain(7)
    history = "".join(str(int(bitmap.get_sample_bits(row, 7))) for row in bits(BODIES).correct)
    assert [each.history for each in explanation.rounds] == [history]
    assert (suggestion.samples.tolist(), suggestion.suggested.tolist()) == ([7], [-1])
    with pytest.raises(SampleIndexError, match=r"400 is outside 0\.\.399"):
        await selection.explain(N)


@pytest.mark.parametrize("per_class", [False, True])
async def test_one_sample_is_judged_without_the_others(
    service: Service, monkeypatch: pytest.MonkeyPatch, per_class: bool
) -> None:
    await service.open("a", [])
    await service.labels_and_audits.put_labels(await service.store.runs.get("a"), np.full(N, 2) - np.arange(N) % 2)
    await service.put("a", BODIES)
    run = await service.store.runs.get("a")
    selection = await service.selections.open(run, "latest", {"per_class": per_class})
    table = await selection.build_table()
    if not per_class:  # whose fits are not stored
        monkeypatch.setattr(selection, "build_table", None)
    for index in (0, 7, N - 1):
        explanation, suggestion = await selection.explain(index)
        assert explanation.score == table.scores[index]
        assert explanation.kept == table.is_kept[index]
        predicted = (
            2 - index % 2 if "1" in explanation.rounds[0].history else -1
        )  # the given label, where it was memorised
        assert suggestion.suggested.tolist() == [predicted]


async def test_without_votes_nothing_is_suggested(service: Service) -> None:
    await service.open("a", BODIES)
    assert await (await service.selection("a")).suggest_all() is None


async def test_every_part_is_of_the_epochs_that_are_stored_when_it_is_read(service: Service) -> None:
    await service.open("a", BODIES)
    selection = await service.selection("a")
    before, first = selection.identity, await selection.read_set()
    await service.put("a", LATER)
    table = await selection.build_table()
    assert selection.identity != before
    kept = await selection.read_set()
    assert not np.array_equal(kept, first)
    np.testing.assert_array_equal(bitmap.unpack(kept, N), table.is_kept)


async def test_a_part_is_read_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.open("a", BODIES)
    selection = await service.selection("a")
    document, details = await selection.read_document(), await selection.compute_details()
    monkeypatch.setattr(service.store.runs, "get", None)
    monkeypatch.setattr(service.store.selection_cache, "get", None)
    assert await selection.read_document() == document
    assert await selection.compute_details() is details
    assert (await selection.compute_sweep())["threshold"] == document["threshold"]
    assert service.n_made == 1
