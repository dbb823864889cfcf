"""The read path: which round, stored or computed, and its identity before any work is done.

The best of a run's finished rounds: by the audit, or else by how well their networks agree with held-out labels.

Every cut of a selection as JSON values, read off a fit that was kept.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from anyio import to_thread

from mild_core import bitmap
from mild_core.audit import Audit, Evaluation, evaluate
from mild_core.bitmap import Bitmap
from mild_core.inspect.sweep import Cut, evaluate_cuts, sweep_cuts
from mild_core.results import Curves, Estimate, Histogram, Selection
from mild_core.types import RoundBits, SelectionOptions
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.concurrency import LruCache
from mild_service.config import Settings
from mild_service.errors import LimitExceeded, RoundsNotComparable
from mild_service.models import Round, Run
from mild_service.observability import Telemetry
from mild_service.selecting.compute import SelectionComputer, serialize_fit, to_json_types
from mild_service.selecting.event_feed import EventFeed
from mild_service.selecting.evidence import CORE_VERSION, Evidence
from mild_service.store import Store

VALIDATION_METRIC = "validation_accuracy"
"""The scalar of an epoch that compares rounds: the share of held-out labels that the network predicts."""


async def find_best_round(
    run: Run, rounds: Sequence[Round], audit: Audit, measurable: Callable[[Round], Awaitable[Bitmap]]
) -> int:
    """Number of the best finished round; of equals, the first.

    An audit that has found a clean sample compares the sets by their F1. Without one, the rounds are compared by the
    last `VALIDATION_METRIC` of each, if all of them have one.

    Parameters
    ----------
    run, rounds
        The run, and its finished rounds.
    audit
        All that is known; empty where there is none.
    measurable
        Reads a round's set to hold against the audit, shape (n_bytes,).

    Raises
    ------
    RoundsNotComparable
        If there is nothing to compare, or nothing to compare by.
    """
    if not rounds:
        raise RoundsNotComparable(
            f"run {run.run_id!r} has 0 finished rounds, the best one is chosen among at least 1; "
            "finish a round, or ask for round=latest"
        )
    if audit.n_clean:
        return _first_best({held.number: evaluate(await measurable(held), None, audit).f1 for held in rounds})
    validated = {held.number: _validated(held) for held in rounds}
    if None in validated.values():
        n_known = sum(value is not None for value in validated.values())
        raise RoundsNotComparable(
            f"run {run.run_id!r} cannot compare its rounds: {n_known} of its {len(rounds)} finished rounds have a "
            f"{VALIDATION_METRIC} and all need one, or 1 audited sample that is clean, got 0; put what was checked "
            f"with PUT /runs/{run.run_id}/audit, or {VALIDATION_METRIC} among the metrics of every round's last epoch"
        )
    return _first_best(validated)


def _first_best(values: Mapping[int, float | None]) -> int:
    return max(sorted(values), key=lambda number: values[number] or 0.0)


def _validated(held: Round) -> float | None:
    """The last `VALIDATION_METRIC` of a round; None where it has none."""
    told = [metrics[VALIDATION_METRIC] for metrics in held.metrics.values() if VALIDATION_METRIC in metrics]
    return told[-1] if told else None


def serialize_sweep(
    fit: Mapping[str, Any], measured: Sequence[Evaluation] | None = None, by_mark: bool = False
) -> dict[str, Any]:
    """The sweep of a selection.

    Parameters
    ----------
    fit
        As `Selections.fit` gives it.
    measured
        What an audit says of each cut; None measures nothing.
    by_mark
        Whoever was checked is kept by their mark, whatever the cut.
    """
    curves, grid = fit["curves"], fit["histogram"]
    found = sweep_cuts(
        grid and Histogram(grid["origin"], grid["width"], np.array(grid["counts"])),
        curves and Curves(**{name: np.array(rows) for name, rows in curves.items()}),
        measured,
        by_mark,
    )
    head = {name: fit[name] for name in ("run_id", "round", "provisional", "metric", "threshold", "verdict")}
    return {**head, "cuts": [_cut(cut) for cut in found]}


def _cut(cut: Cut) -> dict[str, Any]:
    measured = cut.measured
    return {
        "cut": cut.cut,
        "value": cut.value,
        "num_kept": cut.kept,
        "estimated": {**_estimated("precision", cut.precision), **_estimated("recall", cut.recall)},
        "measured": measured and {"precision": measured.precision, "recall": measured.recall, "f1": measured.f1},
    }


def _estimated(name: str, found: Estimate | None) -> dict[str, float | None]:
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


RoundChoice: TypeAlias = int | Literal["latest", "best"]
_OVERLAPS = 20
_REMEMBERED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class SelectionResult:
    """A selection to be sent.

    Attributes
    ----------
    identity
        Equal identities give equal answers; empty for bits that are stored nowhere.
    document
        The JSON, without `indices`.
    n_samples, bitmap
        The kept samples, shape (n_bytes,).
    ids
        Their external ids, where they were asked for.
    """

    identity: str
    document: Mapping[str, Any]
    n_samples: int
    bitmap: Bitmap
    ids: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class SelectionPlan:
    """A selection that has been decided on, but neither loaded nor computed.

    Attributes
    ----------
    run
        The run.
    round
        The round that is selected from.
    identity
        Equal identities give equal answers.
    evidence
        What to compute from; None when the round's stored set answers.
    """

    run: Run
    round: Round
    identity: str
    evidence: Evidence | None


@dataclass(frozen=True, slots=True, eq=False)
class InspectedSelection:
    """A selection sample by sample.

    Attributes
    ----------
    evidence
        What it was computed from.
    rounds
        The same as bits, oldest first.
    selection
        Scores and posteriors as computed now; the set is the stored one where that was asked for.
    """

    evidence: Evidence
    rounds: Sequence[RoundBits]
    selection: Selection


@dataclass(frozen=True, slots=True)
class _Best:
    """Which round is a run's best."""

    number: int
    n_bytes: int = 256


class Selections:
    """Answers to who is clean."""

    def __init__(
        self,
        store: Store,
        computer: SelectionComputer,
        labels_and_audits: LabelsAndAudits,
        feed: EventFeed,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._labels_and_audits = labels_and_audits
        self._computer = computer
        self._settings = settings
        self._telemetry = telemetry
        self._feed = feed
        self._best_rounds: LruCache[_Best] = LruCache(_REMEMBERED_BYTES)

    async def plan(
        self, run: Run, which: RoundChoice, changes: Mapping[str, Any], until_epoch: int | None = None
    ) -> SelectionPlan:
        """Decide what answers: a finished round's stored set, unless `changes` or `until_epoch` ask for another.

        Which round is the best goes by the stored sets, whatever is asked of that round.

        Raises
        ------
        ParameterError
            If `changes` are not options of a selection.
        RoundNotOpen, NoEpochs
            If there is nothing to select from.
        RoundsNotComparable
            If the best round is asked for and nothing tells which it is.
        """
        if which == "best":
            run, which = await self._best(run)
        number = max(run.round - 1, 0) if which == "latest" else which
        options = replace(run.spec.selection, **changes).checked()
        known = None
        # An audit goes on after a round is finished: who asks for it means what it says now.
        stored = until_epoch is None and options == run.spec.selection and changes.get("audit") != "fit"
        if stored and number <= run.round:
            (known,) = await self._store.rounds.get(run, range(number, number + 1))
            if known.finished:
                return SelectionPlan(run, known, _identity(run, number, None), None)
        evidence = await self._computer.evidence.gather(run, number, options, until_epoch, known=known)
        return SelectionPlan(run, evidence.round, _identity(run, number, evidence), evidence)

    async def _best(self, run: Run) -> tuple[Run, int]:
        """The best finished round, and the run with the audit that says so."""
        run, audit = await self._labels_and_audits.read_audit(run)
        # Finished rounds do not change, so it is another one only after one more, or with another audit.
        name = f"{run.uid}:{run.round}:{'' if run.audit is None else run.audit.digest}"
        if (known := self._best_rounds.get(name)) is None:
            rounds = await self._store.rounds.get(run, range(run.round))
            known = _Best(await find_best_round(run, rounds, audit, lambda held: self._measurable(run, held)))
            self._best_rounds.put(name, known)
        return run, known.number

    async def _measurable(self, run: Run, held: Round) -> Bitmap:
        """A finished round's set to hold against the audit."""
        assert held.selected is not None, "a finished round has its set"
        if run.spec.selection.audit == "fit":  # checked samples follow their mark in the set itself
            choice = SelectionPlan(run, held, _identity(run, held.number, None), None)
            return (await self.inspect(choice)).selection.measurable
        return await self._store.bitmaps.read_set(run, held.selected)

    async def read_summary(self, choice: SelectionPlan) -> Mapping[str, Any]:
        """What an answer says of its set, without the set where that would have to be loaded for it."""
        if choice.evidence is None and choice.run.audit is None and choice.round.selection is not None:
            return choice.round.selection
        return (await self.load(choice)).document

    async def load(self, choice: SelectionPlan, measure: bool = True) -> SelectionResult:
        """Load or compute a selection; with `measure`, and an audit, its document says how good it is."""
        if not measure or choice.run.audit is None:
            return await self._load(choice)
        run, audit = await self._labels_and_audits.read_audit(choice.run)
        inspection = await self.inspect(choice)
        selection, evidence = inspection.selection, choice.evidence and inspection.evidence
        document = (
            choice.round.selection if evidence is None else _document(evidence, to_json_types(selection.summary()))
        )
        assert document is not None, "a finished round has its selection"
        measured = evaluate(selection.measurable, selection.scores, audit).summary()
        return SelectionResult(
            _identity(run, choice.round.number, evidence),
            {**document, "measured": measured},
            selection.n_samples,
            selection.bitmap,
        )

    async def _load(self, choice: SelectionPlan) -> SelectionResult:
        """Load or compute a selection; whatever an audit may say of it."""
        run, round_ = choice.run, choice.round
        if choice.evidence is None:
            assert round_.selection is not None, "a finished round has its selection"
            assert round_.selected is not None, "a finished round has its set"
            self._telemetry.selections.labels("stored").inc()
            members = await self._store.bitmaps.read_set(run, round_.selected)
            return SelectionResult(choice.identity, round_.selection, run.spec.num_samples, members)
        evidence, computed = await self._computer.compute(choice.evidence)
        identity = _identity(run, round_.number, evidence)
        return SelectionResult(identity, _document(evidence, computed.summary), run.spec.num_samples, computed.bitmap)

    async def inspect(self, choice: SelectionPlan) -> InspectedSelection:
        """What a selection was made of, sample by sample, with the set that `choice` stands for."""
        run, number = choice.run, choice.round.number
        evidence = choice.evidence or await self._computer.evidence.gather(run, number, run.spec.selection)
        evidence, detail = await self._computer.compute_detail(evidence)
        selection = detail.selection
        if choice.evidence is None and choice.round.selected is not None:
            selection = replace(selection, bitmap=await self._store.bitmaps.read_set(run, choice.round.selected))
        return InspectedSelection(evidence, detail.rounds, selection)

    async def read_fit(self, choice: SelectionPlan) -> Mapping[str, Any]:
        """What a selection was read off: histogram, densities, components, threshold, verdict, and what follows."""
        if choice.evidence is None:
            assert choice.round.fit is not None, "a finished round has its fit"
            head = {"run_id": choice.run.run_id, "round": choice.round.number, "provisional": False}
            return {**head, **choice.round.fit}
        evidence, computed = await self._computer.compute(choice.evidence)
        return {**_head(evidence), **computed.fit}

    async def compute_sweep(self, choice: SelectionPlan) -> Mapping[str, Any]:
        """Every cut that could be made in a selection's place, as JSON values.

        What was estimated is read off the fit; only what an audit measures needs the samples.
        """
        _, audit = await self._labels_and_audits.read_audit(choice.run)
        fit = await self.read_fit(choice)
        measured, by_mark = None, False
        if audit.n_known or "curves" not in fit:  # rounds that were finished by earlier versions have none
            inspection = await self.inspect(choice)
            fit = {**_head(inspection.evidence), **to_json_types(serialize_fit(inspection.selection))}
            measured = await to_thread.run_sync(evaluate_cuts, inspection.selection, audit)
            by_mark = inspection.selection.options.audit == "fit"
        return await to_thread.run_sync(serialize_sweep, fit, measured, by_mark)

    async def compute_overlaps(self, run: Run, rounds: Sequence[Round]) -> dict[int, float | None]:
        """Of each round, the Jaccard similarity of its set with the one before; None where one of the two is missing.

        Of a run with many rounds that is known of the last `_OVERLAPS` only.
        """
        found: dict[int, float | None] = dict.fromkeys(held.number for held in rounds)
        before: Bitmap | None = None
        selected = [(held.number, held.selected) for held in rounds if held.selected is not None]
        for number, ref in selected[-_OVERLAPS:] if len(selected) > 1 else ():
            kept = await self._store.bitmaps.read_set(run, ref)
            if before is not None:
                found[number] = bitmap.jaccard(before, kept)
            before = kept
        return found

    async def select_stateless(
        self, rounds: list[RoundBits], options: SelectionOptions, ids: Sequence[str] | None = None
    ) -> SelectionResult:
        """Select from bits that are stored nowhere; `ids` are those of the first samples, where they have any."""
        computed = await self._computer.compute_stateless(rounds, options)
        head = {"run_id": None, "round": len(rounds) - 1, "basis": "computed", "provisional": False}
        n_samples = rounds[0].n_samples
        kept = None
        if ids is not None:
            kept = [ids[index] for index in bitmap.to_indices(computed.bitmap, n_samples).tolist()]
        return SelectionResult(
            "", {**head, **computed.summary, "core_version": CORE_VERSION}, n_samples, computed.bitmap, kept
        )

    async def wait_for_round(self, run: Run, number: int, seconds: float) -> Run:
        """Return the run once a round is finished, or as it is after `seconds`.

        It answers early when the service is to end. While it waits it holds no connection to the store.

        Raises
        ------
        LimitExceeded
            If `seconds` are more than the limit.
        RunNotFound
            If the run goes meanwhile.
        """
        if not 0 <= seconds <= self._settings.max_wait_seconds:
            raise LimitExceeded(
                f"wait is {seconds:g} seconds, this service takes 0..{self._settings.max_wait_seconds:g}; "
                "ask again after a shorter wait"
            )
        deadline = time.monotonic() + seconds
        if run.round > number:
            return run
        async with self._feed.watch(run) as tail:
            seen = run.n_events
            while tail.alive and not self._feed.closing and (left := deadline - time.monotonic()) > 0:
                events = await tail.next_events(seen, left)
                if any(event.kind == "round-finished" and event.fields["round"] >= number for event in events):
                    break
                seen = events[-1].number if events else seen
        return await self._store.runs.get(run.run_id)


def _identity(run: Run, number: int, evidence: Evidence | None) -> str:
    """What an answer depends on; no `evidence` means the round's stored set."""
    stored = f"stored:{run.uid}:{number}"
    base = f"computed:{number}:{evidence.round.finished}:{evidence.digest}" if evidence else stored
    return base if run.audit is None else f"{base}:{run.audit.digest}"


def _head(evidence: Evidence) -> dict[str, Any]:
    """Of what a document is."""
    return {
        "run_id": evidence.run.run_id,
        "round": evidence.round.number,
        "provisional": not evidence.round.finished,
    }


def _document(evidence: Evidence, summary: Mapping[str, Any]) -> dict[str, Any]:
    """A computed selection's JSON."""
    return {
        **_head(evidence),
        "basis": "computed",
        **summary,
        "core_version": CORE_VERSION,
    }
