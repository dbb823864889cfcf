"""Random draws of samples to audit, and the choice that is recorded with each."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal, TypeAlias

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.draw import DrawChoice, draw_samples
from mild_core.errors import ParameterError
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.errors import DrawAnswered, RoundOpen
from mild_service.models import Run
from mild_service.selecting.selections import Selections
from mild_service.store import Store

DrawOutcome: TypeAlias = Literal["drawn", "replaced", "same"]


class AuditDraws:
    """Draws samples for the audit of a run."""

    def __init__(self, store: Store, selections: Selections, labels_and_audits: LabelsAndAudits) -> None:
        self._store = store
        self._selections = selections
        self._labels_and_audits = labels_and_audits

    async def draw(
        self, run: Run, n_drawn: int, number: int | None, changes: Mapping[str, Any]
    ) -> tuple[DrawOutcome, Run, Audit]:
        """Draw samples uniformly from those that a round judges, and record the choice that they are drawn for.

        The draw is stored with the audit, so that a concurrent mark is neither lost nor overlooked.

        Parameters
        ----------
        run
            The current record of the run.
        n_drawn
            Number of samples to draw.
        number
            Number of a finished round; None for the latest one.
        changes
            Options of the recorded selection, by name, that differ from those of the run with ``threshold="fdr"``.

        Returns
        -------
        outcome
            ``same`` if this draw was made before; it is then unchanged.
        run, audit
            The run, and its audit with the draw.
        """
        choice = _choose(run, number, changes)
        scored: NDArray[np.bool_] | None = None
        while True:
            run, audit = await self._labels_and_audits.read_audit(run)
            previous = run.draw
            if previous == choice and audit.n_drawn == n_drawn:
                return "same", run, audit
            if previous is not None and (previous.is_answered or audit.n_answered):
                state = "are marked" if audit.n_answered else "are marked, after marks that were taken back"
                raise DrawAnswered(
                    f"{audit.n_answered} of the {audit.n_drawn} drawn samples of run {run.run_id!r} {state}, 0 may "
                    "ever be: another draw would follow the answers; answer the rest, or open another run"
                )
            seed = secrets.randbits(63) if previous is None or previous.seed is None else previous.seed
            if scored is None:
                scored = await self._find_scored(run, choice)
            indices = await anyio.to_thread.run_sync(draw_samples, scored, n_drawn, np.random.default_rng(seed))
            drawn = replace(audit, random=bitmap.from_indices(indices.tolist(), run.spec.num_samples))
            outcome, _ = await self._store.annotations.put_audit(run, drawn, replace(choice, seed=seed))
            run = await self._store.runs.get(run.run_id)
            if outcome == "set":
                return ("drawn" if previous is None else "replaced"), run, drawn

    async def _find_scored(self, run: Run, choice: DrawChoice) -> NDArray[np.bool_]:
        """Return the samples that a selection with the choice judges, shape (n_samples,)."""
        # Which samples are judged depends neither on the rule nor on classes, which may need answers or labels.
        options = replace(choice.options, threshold="f1", per_class=False, min_keep_class=0.0)
        selection = await self._selections.open(run, choice.round, asdict(options))
        if not selection.round.finished:
            raise RoundOpen(
                f"round {choice.round} of run {run.run_id!r} is open, a draw needs a finished one, whose bits no "
                f"longer change; finish it with POST /runs/{run.run_id}/rounds/{choice.round}/finish"
            )
        return (await selection.compute_details()).scored


def _choose(run: Run, number: int | None, changes: Mapping[str, Any]) -> DrawChoice:
    """Return the choice to record, with valid options."""
    options = replace(run.spec.selection, **{"threshold": "fdr", **changes}).validate()
    if options.audit == "fit":
        raise ParameterError(
            "audit is 'fit', and a fit that uses the answers cannot be judged by them; draw with audit 'measure'"
        )
    if options.needs_labels and run.labels is None:
        raise ParameterError(
            f"per_class or min_keep_class needs the given labels, and run {run.run_id!r} has none; put them before the "
            "draw, since labels that come after the answers could follow them"
        )
    return DrawChoice(max(run.round - 1, 0) if number is None else number, options)
