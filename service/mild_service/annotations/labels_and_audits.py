"""Given labels and audits of runs: checking, merging, storing and reading them, also under concurrent writes."""

from dataclasses import dataclass, replace
from typing import Literal

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import MAX_LABEL, Audit, AuditChange
from mild_core.errors import InvalidInput
from mild_core.wrong_predictions import describe_unknown_classes
from mild_service.errors import LabelsConflict, LabelsFrozen
from mild_service.models import NO_PRECONDITION, Precondition, Run
from mild_service.observability import Telemetry
from mild_service.store import Store

_SHIFTED_SHARE = 0.9
"""Share of equal labels above which a shift of the samples explains a difference."""


@dataclass(frozen=True, slots=True)
class AuditUpdate:
    """Result of changing an audit.

    Attributes
    ----------
    audit
        The audit after the change.
    added, replaced, removed
        Numbers of samples whose mark is new, has changed, and was removed.
    """

    audit: Audit
    added: int
    replaced: int
    removed: int


class LabelsAndAudits:
    """Reads and writes the given labels and the audit of a run."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry

    async def put_labels(
        self, run: Run, labels: NDArray[np.integer], precondition: Precondition = NO_PRECONDITION
    ) -> tuple[Literal["set", "same", "replaced"], str]:
        """Check and store the given labels; return the outcome and the digest of the labels.

        Parameters
        ----------
        run
            The current record of the run.
        labels
            Shape (n_samples,), the classes in 0..num_classes-1.
        precondition
            Precondition on the digest of the stored labels.
        """
        await anyio.to_thread.run_sync(_check_labels, labels, run)
        while True:
            precondition.check("labels", None if run.labels is None else run.labels.digest)
            run, logged = await self._read_logged_labels(run)
            if logged is not None:
                await anyio.to_thread.run_sync(_check_logged_labels, run, labels, logged)
            compared = None if logged is None else run.logged_labels
            outcome, digest = await self._store.annotations.put_labels(run, labels, compared=compared)
            if outcome == "frozen":
                raise LabelsFrozen(
                    f"run {run.run_id!r} has epochs that were recorded with other labels; send the same labels, "
                    "or open another run for these"
                )
            if outcome != "moved":
                result: Literal["set", "same", "replaced"] = outcome
                if outcome == "set" and run.labels is not None:
                    result = "replaced"
                self._telemetry.annotations.labels("labels", result).inc()
                return result, digest
            run = await self._store.runs.refresh(run)

    async def record_logged_labels(self, run: Run, logged: NDArray[np.int64]) -> Run:
        """Compare the labels in a log with those of the run, or of its other logs, which are kept for that.

        Parameters
        ----------
        run
            The current record of the run.
        logged
            Shape (n_samples,), the given labels in the log, -1 where unknown.

        Returns
        -------
        run
            A record of the run that refers to the labels with which those in the log were compared.
        """
        samples = np.flatnonzero(logged >= 0)
        run, labels = await self.read_labels(run, samples)
        if labels is not None and np.array_equal(labels, logged[samples]):
            return run  # so that the usual post reads no other labels, and no planted samples
        (first_round,) = await self._store.rounds.get(run, range(1))
        if first_round.planted is not None:
            planted = await self._store.bitmaps.read_set(run, first_round.planted)
            logged = np.where(bitmap.unpack(planted, run.spec.num_samples), -1, logged)
        while True:
            run, labels = await self.read_labels(run, np.arange(run.spec.num_samples))
            if labels is not None:
                await anyio.to_thread.run_sync(_check_logged_labels, run, labels, logged)
                return run
            run, earlier = await self._read_logged_labels(run)
            if earlier is not None:
                await anyio.to_thread.run_sync(_check_logged_labels, run, earlier, logged)
                if not ((logged >= 0) & (earlier < 0)).any():
                    return run
                logged = np.maximum(logged, earlier)
            outcome, _ = await self._store.annotations.put_labels(run, logged + 1, "logged_labels")
            if outcome != "moved":
                return run
            run = await self._store.runs.refresh(run)

    async def put_audit(self, run: Run, change: AuditChange) -> AuditUpdate:
        """Add marks to the audit of a run, or remove marks. A new mark of a sample replaces the stored one.

        Concurrent writers lose no marks: the change is applied to the audit that is stored at the time of the write.
        """
        if not change.n_changed:
            raise InvalidInput(
                f"the audit has 0 marks for {run.spec.num_samples} samples, at least 1 is needed; "
                "send the samples whose label was checked"
            )
        while True:
            run, stored_audit = await self.read_audit(run)
            remaining_audit = stored_audit.remove(change.removed)
            merged = remaining_audit.merge(change.added)
            draw = run.draw
            if draw is not None and any(audit.n_unanswered < audit.n_drawn for audit in (stored_audit, merged)):
                draw = replace(draw, is_answered=True)
            outcome, _ = await self._store.annotations.put_audit(run, merged, draw)
            if outcome != "moved":
                self._telemetry.annotations.labels("audit", outcome).inc()
                added = merged.n_checked - remaining_audit.n_checked
                removed = bitmap.popcount(stored_audit.checked & change.removed)
                return AuditUpdate(merged, added, stored_audit.count_contradictions(change.added), removed)
            run = await self._store.runs.refresh(run)

    async def read_audit(self, run: Run) -> tuple[Run, Audit]:
        """Read the audit of a run.

        Returns
        -------
        run
            A record of the run that refers to the returned audit.
        audit
            The audit; empty if the run has none.
        """
        run, audit = await self._store.runs.read_current(run, "audit", self._store.annotations.read_audit)
        return run, audit or Audit.empty(run.spec.num_samples)

    async def read_labels(
        self, run: Run, samples: NDArray[np.int64], name: Literal["labels", "logged_labels"] = "labels"
    ) -> tuple[Run, NDArray[np.int64] | None]:
        """Read the given labels of some samples.

        Parameters
        ----------
        run
            The run.
        samples
            Shape (n,), ascending indices of the samples.
        name
            Which labels: those of the run, or those in its logs, plus 1.

        Returns
        -------
        run
            A record of the run that refers to the returned labels.
        labels
            Shape (n,); None if the run has none.
        """
        return await self._store.runs.read_current(
            run, name, lambda run, ref: self._store.annotations.read_labels(run, ref, samples, name)
        )

    async def _read_logged_labels(self, run: Run) -> tuple[Run, NDArray[np.int64] | None]:
        """Read the given labels in the logs of a run, -1 where unknown; None without a log whose epochs are stored."""
        run, labels = await self.read_labels(run, np.arange(run.spec.num_samples), "logged_labels")
        if labels is None or (run.round == 0 and not (await self._store.rounds.get(run, range(1)))[0].all_epochs):
            return run, None
        return run, labels - 1


def _check_labels(labels: NDArray[np.integer], run: Run) -> None:
    """Check the number of labels, and that each label is a class of the run."""
    spec = run.spec
    if labels.shape != (spec.num_samples,):
        raise InvalidInput(
            f"run {run.run_id!r} has {spec.num_samples} samples, got labels of shape {labels.shape}; "
            "send one label per sample"
        )
    highest = MAX_LABEL if spec.num_classes is None else spec.num_classes - 1
    examples = describe_unknown_classes(labels, np.arange(labels.size), highest + 1)
    if examples is not None:
        n_outside = int(((labels < 0) | (labels > highest)).sum())
        raise InvalidInput(f"{n_outside} of {labels.size} labels are outside 0..{highest}, such as {examples}")


def _check_logged_labels(run: Run, labels: NDArray[np.integer], logged: NDArray[np.int64]) -> None:
    """Raise `LabelsConflict` if labels in a log are not those of the run; both have -1 where a label is unknown."""
    is_known = (labels >= 0) & (logged >= 0)
    differs = is_known & (labels != logged)
    if not differs.any():
        return
    examples = ", ".join(f"{labels[i]} and {logged[i]} of sample {i}" for i in np.flatnonzero(differs)[:3])
    raise LabelsConflict(
        f"{int(differs.sum())} of {int(is_known.sum())} labels in the logs differ from those of run {run.run_id!r}: "
        f"{examples}; {_explain_difference(labels.astype(np.int64), logged, is_known)}"
    )


def _explain_difference(labels: NDArray[np.int64], logged: NDArray[np.int64], is_known: NDArray[np.bool_]) -> str:
    """Return the likely cause why two sets of labels differ, with its remedy."""
    pairs = np.stack([labels[is_known], logged[is_known]])
    offsets = np.unique(pairs[1] - pairs[0])
    if offsets.size == 1:
        return f"all by {offsets[0]:+d}: number the classes alike, from 0 on"
    for shift in (1, -1):
        moved = np.roll(labels, shift)
        inner = is_known & (moved >= 0)
        inner[0 if shift == 1 else -1] = False
        if inner.any() and (moved[inner] == logged[inner]).mean() > _SHIFTED_SHARE:
            return f"the log has the label of sample i at sample i{shift:+d}: number the samples alike, from 0 on"
    n_pairs = np.unique(pairs, axis=1).shape[1]
    if n_pairs == np.unique(pairs[0]).size == np.unique(pairs[1]).size:
        return "each class has another number: encode the classes alike, such as by their sorted names"
    if np.array_equal(np.sort(pairs[0]), np.sort(pairs[1])):
        return "they are the same labels in another order: list the samples in the order of their indices"
    return "give the labels that the model was trained on, in the order of the samples' indices"
