"""Reading selections: stored and computed ones, the best round of a run, and the sweep over all cuts.

A selection is planned first, which determines its identity for ETags, and only then loaded or computed.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from anyio import to_thread

from mild_core import bitmap
from mild_core.audit import Audit, Evaluation, evaluate_selection
from mild_core.bitmap import Bitmap
from mild_core.inspect.sweep import Cut, evaluate_cuts, sweep_cuts
from mild_core.random_audit import RandomAudit, is_cut_by_draw, judge_by_draw
from mild_core.results import BoundCurves, Curves, Estimate, Histogram, Selection, serialize_fit
from mild_core.types import RoundBits, SelectionOptions
from mild_service.admission import hold_memory
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.concurrency import LruCache
from mild_service.config import Settings
from mild_service.errors import LimitExceeded, RoundsNotComparable, StoreDamaged
from mild_service.models import Round, Run
from mild_service.observability import Telemetry
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.engine import to_json_types
from mild_service.selecting.event_feed import EventFeed
from mild_service.selecting.evidence import CORE_VERSION, Evidence
from mild_service.store import Store

T = TypeVar("T")

RoundChoice: TypeAlias = int | Literal["latest", "best"]
"""Number of a round, or which of the finished rounds to take."""

VALIDATION_METRIC = "validation_accuracy"
"""Metric of an epoch by which rounds are compared: the accuracy on held-out labels."""
_MAX_OVERLAPS = 20
_OVERLAP_COPIES = 5
"""Bitmaps that are in memory while two sets are compared: both, one as the store sends it, and what they share."""
_BEST_ROUND_CACHE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class SelectionResult:
    """A selection in the form in which it is sent.

    Attributes
    ----------
    identity
        Text that changes whenever the content changes, for ETags; empty for bits that are not stored.
    document
        JSON of the selection, without `indices`.
    n_samples, bitmap
        Number of samples, and the kept samples as a bitmap of shape (n_bytes,).
    ids
        External ids of the kept samples; None if they were not requested.
    """

    identity: str
    document: Mapping[str, Any]
    n_samples: int
    bitmap: Bitmap
    ids: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class SelectionPlan:
    """A selection whose inputs are determined, but which is neither loaded nor computed yet.

    Attributes
    ----------
    run
        The run.
    round
        The round for which the selection is made.
    identity
        Text that changes whenever the content changes, for ETags.
    evidence
        Evidence for the computation; None if the stored set of the round is used.
    """

    run: Run
    round: Round
    identity: str
    evidence: Evidence | None


@dataclass(frozen=True, slots=True, eq=False)
class InspectedSelection:
    """A selection with its scores per sample.

    Attributes
    ----------
    evidence
        The evidence from which it was computed.
    selection
        Computed scores and posteriors. The set is the stored one if the plan uses the stored set.
    """

    evidence: Evidence
    selection: Selection


@dataclass(frozen=True, slots=True)
class _BestRound:
    """Number of the best round of a run, with its size in the cache."""

    number: int
    n_bytes: int = 256


class Selections:
    """Plans, loads and computes selections."""

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
        self._best_rounds: LruCache[_BestRound] = LruCache(_BEST_ROUND_CACHE_BYTES)

    async def plan(
        self, run: Run, round_choice: RoundChoice, changes: Mapping[str, Any], until_epoch: int | None = None
    ) -> SelectionPlan:
        """Determine the round and the inputs of a selection, without loading or computing the selection.

        The stored set of a finished round is used unless `changes` or `until_epoch` require a computation.

        Parameters
        ----------
        run
            The current record of the run.
        round_choice
            Number of the round, ``latest`` or ``best``. The best round is determined by the stored sets, independently
            of `changes`.
        changes
            Options of the selection that differ from those of the run, by name.
        until_epoch
            Last epoch that is used in the round; None uses all epochs.
        """
        if round_choice == "best":
            run, round_choice = await self._find_best(run)
        number = max(run.round - 1, 0) if round_choice == "latest" else round_choice
        options = replace(run.spec.selection, **changes).validate()
        stored_round = None
        # An audit can change after a round is finished: a selection that uses it is computed from its current state.
        # Asked for by a request only: the set of a round is cut by the fit, also with the rule `precision`.
        by_draw = options.threshold == "fdr" or (
            "threshold" in changes and run.draw is not None and is_cut_by_draw(options)
        )
        use_stored = (
            until_epoch is None and options == run.spec.selection and changes.get("audit") != "fit" and not by_draw
        )
        if use_stored and number <= run.round:
            (stored_round,) = await self._store.rounds.get(run, range(number, number + 1))
            if stored_round.finished:
                return SelectionPlan(run, stored_round, _make_identity(run, number, None), None)
        evidence = await self._computer.evidence.gather(
            run, number, options, until_epoch, last_round=stored_round, by_draw=by_draw
        )
        return SelectionPlan(run, evidence.round, _make_identity(run, number, evidence), evidence)

    async def _find_best(self, run: Run) -> tuple[Run, int]:
        """Return a record of the run with its current audit, and the number of the best finished round."""
        run, audit = await self._labels_and_audits.read_audit(run)
        # Finished rounds do not change, so the best one depends only on their number and on the audit.
        key = f"{run.uid}:{run.round}:{'' if run.audit is None else run.audit.digest}"
        if (best := self._best_rounds.get(key)) is None:
            rounds = await self._store.rounds.get(run, range(run.round))
            best = _BestRound(
                await find_best_round(run, rounds, audit, lambda round_: self._read_measurable(run, round_))
            )
            self._best_rounds.put(key, best)
        return run, best.number

    async def _read_measurable(self, run: Run, round_: Round) -> Bitmap:
        """Read the set of a finished round as it is compared with the audit."""
        assert round_.selected is not None, "a finished round has its set"
        if run.spec.selection.audit == "fit":  # audited samples follow their mark in the stored set
            plan = SelectionPlan(run, round_, _make_identity(run, round_.number, None), None)
            return (await self.inspect(plan)).selection.audited_bitmap
        return await self._store.bitmaps.read_set(run, round_.selected)

    async def read_summary(self, plan: SelectionPlan) -> Mapping[str, Any]:
        """Return the JSON of a selection. The set is loaded only if an audit or a computation requires it."""
        if plan.evidence is None and plan.run.audit is None and plan.round.selection is not None:
            return plan.round.selection
        return (await self.load(plan)).document

    async def load(self, plan: SelectionPlan, with_evaluation: bool = True) -> SelectionResult:
        """Load or compute a selection.

        Parameters
        ----------
        plan
            The planned selection.
        with_evaluation
            Whether the JSON includes an evaluation by the audit, if the run has an audit.
        """
        if not with_evaluation or plan.run.audit is None:
            return await self._load_unevaluated(plan)
        run, audit = await self._labels_and_audits.read_audit(plan.run)
        inspection = await self.inspect(plan)
        selection, evidence = _judge_by_draw(plan, inspection, run, audit), plan.evidence and inspection.evidence
        summary = to_json_types(selection.summary())
        document = plan.round.selection if evidence is None else _serialize_computed(evidence, summary)
        assert document is not None, "a finished round has its selection"
        measured = evaluate_selection(selection.audited_bitmap, selection.scores, audit).summary()
        return SelectionResult(
            _make_identity(run, plan.round.number, evidence),
            {**document, **{name: summary[name] for name in ("guarantee", "bounds")}, "measured": measured},
            selection.n_samples,
            selection.bitmap,
        )

    async def _load_unevaluated(self, plan: SelectionPlan) -> SelectionResult:
        """Load or compute a selection without an evaluation."""
        run, round_ = plan.run, plan.round
        if plan.evidence is None:
            assert round_.selection is not None, "a finished round has its selection"
            assert round_.selected is not None, "a finished round has its set"
            self._telemetry.selections.labels("stored").inc()
            members = await self._store.bitmaps.read_set(run, round_.selected)
            return SelectionResult(plan.identity, round_.selection, run.spec.num_samples, members)
        evidence, computed = await self._computer.compute(plan.evidence)
        identity = _make_identity(run, round_.number, evidence)
        return SelectionResult(
            identity, _serialize_computed(evidence, computed.summary), run.spec.num_samples, computed.bitmap
        )

    async def inspect(self, plan: SelectionPlan) -> InspectedSelection:
        """Compute a selection with its scores per sample; the set is the stored one if `plan` uses the stored set."""
        run, number = plan.run, plan.round.number
        evidence = plan.evidence or await self._computer.evidence.gather(run, number, run.spec.selection)
        evidence, selection = await self._computer.compute_detail(evidence)
        if plan.evidence is None and plan.round.selected is not None:
            selection = replace(selection, bitmap=await self._store.bitmaps.read_set(run, plan.round.selected))
        return InspectedSelection(evidence, selection)

    async def read_inspected(self, plan: SelectionPlan, read: Callable[[InspectedSelection], Awaitable[T]]) -> T:
        """Inspect a selection and call `read`, both again if an epoch was replaced or deleted in the meantime."""
        failed_digest = None
        while True:
            inspection = await self.inspect(plan)
            try:
                return await read(inspection)
            except StoreDamaged:
                if inspection.evidence.digest == failed_digest:
                    raise
                failed_digest = inspection.evidence.digest

    async def read_fit(self, plan: SelectionPlan) -> Mapping[str, Any]:
        """Return the fit of a selection: histogram, densities, components, threshold, verdict and estimates."""
        if plan.evidence is None:
            return _get_stored_fit(plan)
        evidence, computed = await self._computer.compute(plan.evidence)
        return {**_common_fields(evidence), **computed.fit}

    async def read_fit_and_set(self, plan: SelectionPlan) -> tuple[Mapping[str, Any], Bitmap]:
        """Return the fit of a selection, as `read_fit`, and the kept samples, shape (n_bytes,)."""
        if plan.evidence is None:
            assert plan.round.selected is not None, "a finished round has its set"
            return _get_stored_fit(plan), await self._store.bitmaps.read_set(plan.run, plan.round.selected)
        evidence, computed = await self._computer.compute(plan.evidence)
        return {**_common_fields(evidence), **computed.fit}, computed.bitmap

    async def compute_sweep(self, plan: SelectionPlan) -> Mapping[str, Any]:
        """Return size, estimates and, with an audit, measured quality of the set at every possible cut.

        The values are those of `serialize_sweep`. Estimates come from the stored fit. Only the measured quality needs
        the samples' scores.
        """
        run, audit = await self._labels_and_audits.read_audit(plan.run)
        fit = await self.read_fit(plan)
        if not audit.n_known and "curves" in fit:  # rounds finished by earlier versions have no curves
            return await to_thread.run_sync(serialize_sweep, fit)
        inspection = await self.inspect(plan)

        def serialize() -> dict[str, Any]:
            selection = _judge_by_draw(plan, inspection, run, audit)
            fit = {**_common_fields(inspection.evidence), **to_json_types(serialize_fit(selection))}
            measured = evaluate_cuts(selection, audit)
            followed = audit if selection.options.audit == "fit" else audit.restrict_to_draw(selection.scored)
            by_mark = evaluate_cuts(selection, followed) if selection.follows_marks else None
            return serialize_sweep(fit, measured, by_mark, selection.bound_curves)

        return await to_thread.run_sync(serialize)

    async def compute_overlaps(self, run: Run, rounds: Sequence[Round]) -> dict[int, float | None]:
        """Compute the Jaccard similarity between the set of each round and the set of the round before.

        Returns
        -------
        dict
            Similarity in 0..1 by number of the round. None where one of the two sets is missing, and for all but the
            last `_MAX_OVERLAPS` rounds.
        """
        overlaps: dict[int, float | None] = dict.fromkeys(round_.number for round_ in rounds)
        previous: Bitmap | None = None
        selected = [(round_.number, round_.selected) for round_ in rounds if round_.selected is not None]
        if len(selected) > 1:
            async with hold_memory(_OVERLAP_COPIES * bitmap.n_bytes(run.spec.num_samples)):
                for number, ref in selected[-_MAX_OVERLAPS:]:
                    members = await self._store.bitmaps.read_set(run, ref)
                    if previous is not None:
                        overlaps[number] = bitmap.compute_jaccard(previous, members)
                    previous = members
        return overlaps

    async def select_stateless(
        self, rounds: list[RoundBits], options: SelectionOptions, ids: Sequence[str] | None = None
    ) -> SelectionResult:
        """Compute a selection from bits that are not stored.

        Parameters
        ----------
        rounds
            Bits of the rounds, oldest first; the selection is made for the last round.
        options
            Options of the selection.
        ids
            External ids of all samples; None if the samples have no external ids.
        """
        computed = await self._computer.compute_stateless(rounds, options)
        head = {"run_id": None, "round": len(rounds) - 1, "basis": "computed", "provisional": False}
        n_samples = rounds[0].n_samples
        kept_ids = None
        if ids is not None:
            kept_ids = [ids[index] for index in bitmap.to_indices(computed.bitmap, n_samples).tolist()]
        return SelectionResult(
            "", {**head, **computed.summary, "core_version": CORE_VERSION}, n_samples, computed.bitmap, kept_ids
        )

    async def wait_for_round(self, run: Run, number: int, seconds: float) -> Run:
        """Wait up to `seconds` until a round is finished; return the record of the run.

        The wait ends early if the service shuts down. No connection to the store is in use while waiting.
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
            last_seen = run.n_events
            while tail.is_alive and not self._feed.closing and (remaining := deadline - time.monotonic()) > 0:
                events = await tail.wait_for_events(last_seen, remaining)
                if any(event.kind == "round-finished" and event.fields["round"] >= number for event in events):
                    break
                last_seen = events[-1].number if events else last_seen
        return await self._store.runs.get(run.run_id)


def _judge_by_draw(plan: SelectionPlan, inspection: InspectedSelection, run: Run, audit: Audit) -> Selection:
    """Return the inspected selection with what the random audit says of it; `run` refers to `audit`."""
    selection, evidence = inspection.selection, inspection.evidence
    if evidence.by_draw:  # judged by the answers that made its cut
        return selection
    deviation = replace(evidence, run=run).deviation
    draw = RandomAudit.from_selection(audit, selection)
    return judge_by_draw(selection, draw, deviation, is_fixed=plan.evidence is None)


def _make_identity(run: Run, number: int, evidence: Evidence | None) -> str:
    """Return the identity of a computed selection, or, if `evidence` is None, of the stored set of the round."""
    stored = f"stored:{run.uid}:{number}"
    base = f"computed:{number}:{evidence.round.finished}:{evidence.digest}" if evidence else stored
    return base if run.audit is None else f"{base}:{run.audit.digest}"


def _get_stored_fit(plan: SelectionPlan) -> dict[str, Any]:
    """Return the stored fit of a finished round."""
    assert plan.round.fit is not None, "a finished round has its fit"
    return {"run_id": plan.run.run_id, "round": plan.round.number, "provisional": False, **plan.round.fit}


def _common_fields(evidence: Evidence) -> dict[str, Any]:
    """Return the fields with which the JSON of every computed selection starts."""
    return {
        "run_id": evidence.run.run_id,
        "round": evidence.round.number,
        "provisional": not evidence.round.finished,
    }


def _serialize_computed(evidence: Evidence, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a computed selection."""
    return {
        **_common_fields(evidence),
        "basis": "computed",
        **summary,
        "core_version": CORE_VERSION,
    }


async def find_best_round(
    run: Run, rounds: Sequence[Round], audit: Audit, read_kept: Callable[[Round], Awaitable[Bitmap]]
) -> int:
    """Return the number of the best finished round; of equally good rounds, the first.

    If the audit has a clean sample, rounds are compared by the F1 of their selections. Otherwise, they are compared by
    their last `VALIDATION_METRIC`, which every round must have.

    Parameters
    ----------
    run, rounds
        The run, and its finished rounds.
    audit
        The audit; empty if there is none.
    read_kept
        Function that reads the set of a round to compare with the audit, shape (n_bytes,).
    """
    if not rounds:
        raise RoundsNotComparable(
            f"run {run.run_id!r} has 0 finished rounds, the best one is chosen among at least 1; "
            "finish a round, or ask for round=latest"
        )
    if audit.n_clean:
        return _find_first_maximum(
            {round_.number: evaluate_selection(await read_kept(round_), None, audit).f1 for round_ in rounds}
        )
    accuracies = {round_.number: _find_last_validation(round_) for round_ in rounds}
    if None in accuracies.values():
        n_validated = sum(value is not None for value in accuracies.values())
        raise RoundsNotComparable(
            f"run {run.run_id!r} cannot compare its rounds: {n_validated} of its {len(rounds)} finished rounds have a "
            f"{VALIDATION_METRIC} and all need one, or 1 audited sample that is clean, got 0; put what was checked "
            f"with PUT /runs/{run.run_id}/audit, or {VALIDATION_METRIC} among the metrics of every round's last epoch"
        )
    return _find_first_maximum(accuracies)


def _find_first_maximum(values: Mapping[int, float | None]) -> int:
    """Return the smallest round number with the highest value; None counts as 0."""
    return max(sorted(values), key=lambda number: values[number] or 0.0)


def _find_last_validation(round_: Round) -> float | None:
    """Return the last `VALIDATION_METRIC` of a round; None if no epoch of the round has this metric."""
    values = [metrics[VALIDATION_METRIC] for metrics in round_.metrics.values() if VALIDATION_METRIC in metrics]
    return values[-1] if values else None


def get_histogram(fit: Mapping[str, Any]) -> Histogram | None:
    """Return the histogram of a fit that `Selections.read_fit` returned; None if it has none."""
    histogram = fit["histogram"]
    return histogram and Histogram(histogram["origin"], histogram["width"], np.array(histogram["counts"]))


def serialize_sweep(
    fit: Mapping[str, Any],
    measured: Sequence[Evaluation] | None = None,
    by_mark: Sequence[Evaluation] | None = None,
    bounds: BoundCurves | None = None,
) -> dict[str, Any]:
    """Evaluate a fit at every possible cut; return JSON values.

    Parameters
    ----------
    fit
        The fit of the selection, as returned by `Selections.read_fit`.
    measured
        Evaluation of each cut by an audit; None if the run has no audit.
    by_mark
        Evaluation of each cut on the samples that are kept or dropped by their mark, independently of the cut; None
        without such samples.
    bounds
        Bounds of each cut by a random audit; None without one that is complete.
    """
    curves = fit["curves"]
    cuts = sweep_cuts(
        get_histogram(fit),
        curves and Curves(**{name: np.array(rows) for name, rows in curves.items()}),
        measured,
        by_mark,
        bounds,
    )
    head = {name: fit[name] for name in ("run_id", "round", "provisional", "metric", "threshold", "verdict")}
    return {**head, "cuts": [_serialize_cut(cut) for cut in cuts]}


def _serialize_cut(cut: Cut) -> dict[str, Any]:
    measured = cut.measured
    return {
        "cut": cut.cut,
        "value": cut.value,
        "num_kept": cut.kept,
        "fitted": {**_serialize_estimate("precision", cut.precision), **_serialize_estimate("recall", cut.recall)},
        "measured": measured and {"precision": measured.precision, "recall": measured.recall, "f1": measured.f1},
        "bounds": cut.bounds and asdict(cut.bounds),
    }


def _serialize_estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
