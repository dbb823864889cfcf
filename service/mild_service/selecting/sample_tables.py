"""Cached tables of the samples of selections, for the pages of the dashboard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.inspect.explain import (
    Explanation,
    JudgedSample,
    explain_histories,
    make_sample_index_error,
    read_history,
)
from mild_core.inspect.sample_table import SampleTable, build_sample_table
from mild_core.results import Selection, is_identified
from mild_core.sample_scores import SampleScore, score_sample
from mild_core.statistics import Query
from mild_core.types import RoundBits, SelectionOptions
from mild_service.admission import Admission, SharedWork, hold_memory, keep_memory, take_memory
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.concurrency import LruCache
from mild_service.models import Run
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.evidence import Evidence
from mild_service.selecting.label_suggestions import LabelSuggester, PredictionCounts
from mild_service.selecting.memory_use import MemoryUse
from mild_service.selecting.selections import InspectedSelection, SelectionPlan, Selections

_MAX_PREDICTIONS = 10_000_000
"""Maximum number of predictions that are counted for the label suggestions of all dropped samples.

Of more dropped samples, an evenly spaced part is used."""

_PREDICTION_BYTES = 16
"""Most memory while one prediction is counted: its class and its label, as read and as arrays."""


@dataclass(frozen=True, slots=True, eq=False)
class SelectionTable:
    """A selection and the table of its samples.

    Attributes
    ----------
    evidence
        Evidence from which the selection was computed.
    selection
        The selection.
    table
        All samples of the selection, in columns.
    """

    evidence: Evidence
    selection: Selection
    table: SampleTable

    @property
    def n_bytes(self) -> int:
        """Size of the columns in bytes, including the columns of the selection."""
        return self.table.n_bytes


@dataclass(frozen=True, slots=True, eq=False)
class GivenLabels:
    """Given labels of all samples of a run, shape (n_samples,)."""

    values: NDArray[np.int32]

    @property
    def n_bytes(self) -> int:
        """Size of the labels in bytes."""
        return self.values.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class SuggestedLabels:
    """Given and suggested labels of dropped samples whose suggestion differs from the given label.

    Attributes
    ----------
    given_labels, suggested_labels
        Shape (n,) each: the given and the suggested labels.
    n_counted, n_dropped
        Number of samples whose predictions were counted, and of all dropped samples.
    """

    given_labels: NDArray[np.int64]
    suggested_labels: NDArray[np.int64]
    n_counted: int
    n_dropped: int

    @property
    def n_bytes(self) -> int:
        """Size of the labels in bytes."""
        return self.given_labels.nbytes + self.suggested_labels.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class SampleHistory:
    """The history of one sample over all rounds.

    Attributes
    ----------
    evidence
        Evidence of all rounds of the run up to that of the selection.
    explanation
        The history, and why the sample was kept or dropped.
    counts
        Counts of the predictions of the sample.
    fit
        The fit of the selection, as `Selections.read_fit` returns it.
    """

    evidence: Evidence
    explanation: Explanation
    counts: PredictionCounts
    fit: Mapping[str, Any]


class SampleTables:
    """Computes tables of samples and caches the latest ones.

    Parameters
    ----------
    selections, computer, labels_and_audits, suggester
        Sources of the selections, bits, labels and suggestions.
    cache_bytes
        Maximum size of the cached tables in bytes.
    admission
        Grants the memory for tables.
    """

    def __init__(
        self,
        selections: Selections,
        computer: SelectionComputer,
        labels_and_audits: LabelsAndAudits,
        suggester: LabelSuggester,
        cache_bytes: int,
        admission: Admission,
    ) -> None:
        self._selections, self._computer = selections, computer
        self._labels_and_audits, self._suggester = labels_and_audits, suggester
        self._tables: LruCache[SelectionTable] = LruCache(cache_bytes)
        self._labels: LruCache[GivenLabels] = LruCache(cache_bytes // 4)
        self._suggested: LruCache[SuggestedLabels] = LruCache(cache_bytes // 4)
        for cache in (self._tables, self._labels, self._suggested):
            admission.memory.add_cache(cache)
        self._shared = SharedWork(admission)

    async def get(self, plan: SelectionPlan) -> SelectionTable:
        """Return the table of a selection, from the cache or computed."""
        key = _cache_key(plan)
        if cached := self._tables.get(key):
            return cached

        async def build() -> SelectionTable:
            selection_table = await self._build(plan)
            self._tables.put(key, selection_table)
            return selection_table

        return await self._shared.run(key, build)

    async def _build(self, plan: SelectionPlan) -> SelectionTable:
        """Compute the table of a selection, again if an epoch was replaced or deleted in the meantime."""

        async def build(inspection: InspectedSelection) -> SelectionTable:
            use = MemoryUse.of_evidence(inspection.evidence, n_workers=1)
            await take_memory(use.table_bytes)
            labels = await self.get_labels(plan.run)
            rounds = await self._computer.evidence.load_bits(inspection.evidence)
            table = await anyio.to_thread.run_sync(build_sample_table, rounds, inspection.selection, labels)
            keep_memory(use.kept_table_bytes)
            return SelectionTable(inspection.evidence, inspection.selection, table)

        return await self._selections.read_inspected(plan, build)

    async def get_labels(self, run: Run) -> NDArray[np.int32] | None:
        """Return the given labels of all samples, shape (n_samples,); None if the run has no labels."""
        if run.labels is None:
            return None
        key = f"{run.uid}:{run.labels.digest}"
        if cached := self._labels.get(key):
            return cached.values
        values = await self._labels_and_audits.read_labels(run, np.arange(run.spec.num_samples))
        assert values is not None, "the run refers to labels, which are never deleted"
        labels = GivenLabels(values.astype(np.int32))
        self._labels.put(key, labels)
        return labels.values

    async def get_suggested_labels(self, plan: SelectionPlan) -> SuggestedLabels | None:
        """Return the label suggestions of all dropped samples; None if no epoch has wrong predictions."""
        selection_table = await self.get(plan)
        evidence = selection_table.evidence
        if not any(epoch.has_wrong_predictions for round_ in evidence.rounds for epoch in evidence.used_epochs(round_)):
            return None
        key = f"{_cache_key(plan)}:{evidence.run.labels and evidence.run.labels.digest}"
        if cached := self._suggested.get(key):
            return cached

        async def suggest() -> SuggestedLabels:
            dropped = np.flatnonzero(~selection_table.table.kept)
            max_samples = max(1, _MAX_PREDICTIONS // selection_table.table.n_epochs)
            step = -(-dropped.size // max_samples) if dropped.size else 1
            samples = dropped[::step]

            async def count_predictions(evidence: Evidence) -> PredictionCounts:
                rounds = await self._computer.evidence.load_bits(evidence, samples)
                return await self._suggester.count_predictions(evidence, rounds, samples)

            await take_memory(_PREDICTION_BYTES * samples.size * selection_table.table.n_epochs)
            used, counts = await self._computer.evidence.read_consistently(evidence, count_predictions)
            labels = await self._labels_and_audits.read_labels(used.run, samples)
            given_labels = counts.labels.astype(np.int64) - 1 if labels is None else labels
            has_both = (counts.tally.suggested > 0) & (given_labels >= 0)
            suggested = counts.tally.suggested.astype(np.int64) - 1
            result = SuggestedLabels(given_labels[has_both], suggested[has_both], samples.size, dropped.size)
            self._suggested.put(key, result)
            return result

        return await self._shared.run(("suggested", key), suggest)

    async def get_history(self, plan: SelectionPlan, index: int) -> SampleHistory:
        """Return the history of one sample of a selection."""
        n_samples = plan.run.spec.num_samples
        if not 0 <= index < n_samples:
            raise make_sample_index_error(index, n_samples)
        evidence = plan.evidence or await self._computer.evidence.gather(
            plan.run, plan.round.number, plan.run.spec.selection
        )
        n_used, samples = len(evidence.rounds), np.array([index])

        async def read_all_rounds(all_rounds: Evidence) -> tuple[Sequence[RoundBits], PredictionCounts]:
            rounds = await self._computer.evidence.load_bits(all_rounds, samples)
            used = replace(all_rounds, rounds=all_rounds.rounds[-n_used:])
            return rounds, await self._suggester.count_predictions(used, rounds[-n_used:], samples)

        all_rounds = await self._computer.evidence.extend_to_all_rounds(evidence)
        async with hold_memory(MemoryUse.of_evidence(all_rounds, n_workers=1).sample_bytes):
            all_rounds, (rounds, counts) = await self._computer.evidence.read_consistently(all_rounds, read_all_rounds)
        recorded = [
            np.flatnonzero([epoch.n_observed != 0 for epoch in all_rounds.used_epochs(round_)])
            for round_ in all_rounds.rounds
        ]
        recorded_bits = [bits.take_epochs(epochs) for bits, epochs in zip(rounds, recorded, strict=True)]
        fit, kept = await self._selections.read_fit_and_set(plan)
        score, early = await self._score_sample(plan, fit, evidence.options, recorded_bits[-n_used:], index)
        sample = JudgedSample(
            index,
            score,
            bool(bitmap.get_sample_bits(kept, index)),
            evidence.options.evidence,
            early,
            fit["threshold"]["value"],
            fit["verdict"],
        )
        explanation = explain_histories([read_history(bits, 0) for bits in rounds], recorded, sample)
        return SampleHistory(all_rounds, explanation, counts, fit)

    async def _score_sample(
        self,
        plan: SelectionPlan,
        fit: Mapping[str, Any],
        options: SelectionOptions,
        rounds: Sequence[RoundBits],
        index: int,
    ) -> tuple[SampleScore, int]:
        """Score one sample by its own bits and the fit; return how often rounds were cut to their first quarter, too.

        Where classes have fits of their own, or the fit is of an earlier version, the table of all samples is read.
        """
        if options.per_class or "early" not in fit:
            selection_table = await self.get(plan)
            table = selection_table.table
            score = SampleScore(
                float(table.scores[index]), float(table.noisy_posterior[index]), bool(table.scored[index])
            )
            return score, selection_table.selection.early
        densities = None if fit["densities"] is None else np.array(fit["densities"])
        score = score_sample(rounds, Query(options, fit["early"], None), densities, fit["levels"])
        return score if is_identified(fit["verdict"]) else replace(score, noisy_posterior=np.nan), fit["early"]


def _cache_key(plan: SelectionPlan) -> str:
    """Return the cache key of a selection's table: labels order it, and an audit is used if the options say so."""
    run, options = plan.run, plan.run.spec.selection
    annotation_digests = [run.labels and run.labels.digest]
    if options.audit == "fit":
        annotation_digests.append(run.audit and run.audit.digest)
    digest = "stored" if plan.evidence is None else plan.evidence.digest
    return ":".join(map(str, (run.uid, plan.round.number, plan.round.finished, digest, *annotation_digests)))
