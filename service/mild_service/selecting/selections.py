"""Opening selections of runs, of the best round too, comparing sets, and selections of bits that are not stored."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from mild_core import bitmap
from mild_core.audit import Audit, evaluate_selection
from mild_core.bitmap import Bitmap
from mild_core.random_audit import is_cut_by_draw
from mild_core.types import RoundBits, SelectionOptions
from mild_service.admission import hold_memory
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.concurrency import LruCache
from mild_service.config import Settings
from mild_service.errors import LimitExceeded, RoundsNotComparable
from mild_service.models import Round, Run
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.event_feed import EventFeed
from mild_service.selecting.evidence import CORE_VERSION
from mild_service.selecting.round_selection import RoundSelection
from mild_service.store import Store

RoundChoice: TypeAlias = int | Literal["latest", "best"]
"""Number of a round, or which of the finished rounds to take."""

VALIDATION_METRIC = "validation_accuracy"
"""Metric of an epoch by which rounds are compared: the accuracy on held-out labels."""
_MAX_OVERLAPS = 20
_OVERLAP_COPIES = 5
"""Bitmaps that are in memory while two sets are compared: both, one as the store sends it, and what they share."""
_BEST_ROUND_CACHE_BYTES, _BEST_ROUND_BYTES = 1 << 20, 256


class Selections:
    """Opens selections of runs, and makes those of bits that are not stored."""

    def __init__(
        self,
        store: Store,
        computer: SelectionComputer,
        labels_and_audits: LabelsAndAudits,
        feed: EventFeed,
        settings: Settings,
    ) -> None:
        self._store = store
        self._labels_and_audits = labels_and_audits
        self._computer = computer
        self._settings = settings
        self._feed = feed
        self._best_rounds: LruCache[int] = LruCache(_BEST_ROUND_CACHE_BYTES)

    async def open(
        self,
        run: Run,
        round_choice: RoundChoice,
        changes: Mapping[str, Any],
        until_epoch: int | None = None,
        last_rounds: Sequence[Round] = (),
    ) -> RoundSelection:
        """Determine the round and the inputs of a selection, without reading or computing the selection.

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
        last_rounds
            Records of the round and of some before it, oldest first, if the caller has just read them.
        """
        if round_choice == "best":
            run, round_choice = await self._find_best(run)
        number = max(run.round - 1, 0) if round_choice == "latest" else round_choice
        options = replace(run.spec.selection, **changes).validate()
        # An audit can change after a round is finished: a selection that uses it is computed from its current state.
        # Asked for by a request only: the set of a round is cut by the fit, also with the rule `precision`.
        by_draw = options.threshold == "fdr" or (
            "threshold" in changes and run.draw is not None and is_cut_by_draw(options)
        )
        use_stored = (
            until_epoch is None and options == run.spec.selection and changes.get("audit") != "fit" and not by_draw
        )
        if use_stored and number <= run.round:
            last_rounds = last_rounds or await self._store.rounds.get(run, range(number, number + 1))
            if last_rounds[-1].finished:
                return RoundSelection(self._computer, self._labels_and_audits, run, last_rounds[-1])
        evidence = await self._computer.evidence.gather(
            run, number, options, until_epoch, last_rounds=last_rounds, by_draw=by_draw
        )
        return RoundSelection(self._computer, self._labels_and_audits, run, evidence.round, evidence)

    async def _find_best(self, run: Run) -> tuple[Run, int]:
        """Return a record of the run with its current audit, and the number of the best finished round."""
        run, audit = await self._labels_and_audits.read_audit(run)
        # Finished rounds do not change, so the best one depends only on their number and on the audit.
        key = f"{run.uid}:{run.round}:{'' if run.audit is None else run.audit.digest}"
        if (best := self._best_rounds.get(key)) is None:
            ratings = await self._rate_rounds(run, audit)
            best = max(sorted(ratings), key=lambda number: ratings[number] or 0.0)  # of equally good ones, the first
            self._best_rounds.put(key, best, _BEST_ROUND_BYTES)
        return run, best

    async def _rate_rounds(self, run: Run, audit: Audit) -> Mapping[int, float | None]:
        """Return how good the set of each finished round is, by number of the round.

        If the audit has a clean sample, that is the F1 of the set. Otherwise, it is the last `VALIDATION_METRIC` of the
        round, which every round must have.
        """
        rounds = await self._store.rounds.get(run, range(run.round))
        if not rounds:
            raise RoundsNotComparable(
                f"run {run.run_id!r} has 0 finished rounds, the best one is chosen among at least 1; "
                "finish a round, or ask for round=latest"
            )
        if audit.n_clean:
            return {
                round_.number: evaluate_selection(await self._read_measurable(run, round_), None, audit).f1
                for round_ in rounds
            }
        accuracies: dict[int, float | None] = {round_.number: None for round_ in rounds}
        for round_ in rounds:
            for metrics in round_.metrics.values():
                accuracies[round_.number] = metrics.get(VALIDATION_METRIC, accuracies[round_.number])
        n_validated = sum(value is not None for value in accuracies.values())
        if n_validated < len(rounds):
            raise RoundsNotComparable(
                f"run {run.run_id!r} cannot compare its rounds: {n_validated} of its {len(rounds)} finished rounds "
                f"have a {VALIDATION_METRIC} and all need one, or 1 audited sample that is clean, got 0; put what was "
                f"checked with PUT /runs/{run.run_id}/audit, or {VALIDATION_METRIC} among the metrics of every round's "
                "last epoch"
            )
        return accuracies

    async def _read_measurable(self, run: Run, round_: Round) -> Bitmap:
        """Read the set of a finished round as it is compared with the audit."""
        selection = RoundSelection(self._computer, self._labels_and_audits, run, round_)
        if run.spec.selection.audit == "fit":  # audited samples follow their mark in the stored set
            return (await selection.compute_details()).audited_bitmap
        return await selection.read_set()

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
        self, rounds: list[RoundBits], options: SelectionOptions
    ) -> tuple[Mapping[str, Any], Bitmap]:
        """Compute a selection from bits that are not stored.

        Parameters
        ----------
        rounds
            Bits of the rounds, oldest first; the selection is made for the last round.
        options
            Options of the selection.

        Returns
        -------
        document, clean_set
            JSON of the selection without `indices`, and the kept samples, shape (n_bytes,).
        """
        computed = await self._computer.compute_stateless(rounds, options)
        head = {"run_id": None, "round": len(rounds) - 1, "basis": "computed", "provisional": False}
        return {**head, **computed.summary, "core_version": CORE_VERSION}, computed.bitmap

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
