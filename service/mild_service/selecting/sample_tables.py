"""The samples of selections in columns, made once and kept while people turn their pages."""

import asyncio
from dataclasses import dataclass, replace

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from mild_core.inspect.explain import Explanation, explain_sample, sample_index_error
from mild_core.inspect.sample_table import SampleTable, build_sample_table
from mild_core.results import Selection
from mild_core.types import RoundBits
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.concurrency import LruCache
from mild_service.models import Run
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.evidence import Evidence
from mild_service.selecting.label_suggestions import LabelSuggester, PredictionCounts
from mild_service.selecting.selections import SelectionPlan, Selections

_MAX_VOTES = 10_000_000
"""Votes that are counted for a table of classes; of more dropped samples than this allows, some are drawn evenly."""


@dataclass(frozen=True, slots=True, eq=False)
class SelectionTable:
    """A selection with its samples in columns.

    Attributes
    ----------
    evidence
        What it was computed from.
    selection
        What was selected.
    table
        Its samples.
    """

    evidence: Evidence
    selection: Selection
    table: SampleTable

    @property
    def n_bytes(self) -> int:
        """Memory of the columns; the selection's own are among them."""
        return self.table.n_bytes


@dataclass(frozen=True, slots=True, eq=False)
class GivenLabels:
    """The given labels of a run's samples, shape (n_samples,)."""

    values: NDArray[np.int32]

    @property
    def n_bytes(self) -> int:
        """Memory of the labels."""
        return self.values.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class SuggestedLabels:
    """What dropped samples were taken for, as far as another class than the given one was.

    Attributes
    ----------
    given, suggested
        Shape (n,) each: labels of those that have both.
    n_counted, n_dropped
        Samples whose votes were counted, and all that are dropped.
    """

    given: NDArray[np.int64]
    suggested: NDArray[np.int64]
    n_counted: int
    n_dropped: int

    @property
    def n_bytes(self) -> int:
        """Memory of the labels."""
        return self.given.nbytes + self.suggested.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class SampleHistory:
    """One sample: its history over all rounds, and what follows from it.

    Attributes
    ----------
    evidence
        What the selection was computed from.
    told
        The history, and why the sample was kept or dropped.
    counted
        What it was taken for.
    """

    evidence: Evidence
    explanation: Explanation
    counted: PredictionCounts


class SampleTables:
    """Keeps the tables that were looked at last.

    Parameters
    ----------
    selections, computer, labels_and_audits, suggester
        Where they come from.
    cache_bytes
        Memory for them.
    """

    def __init__(
        self,
        selections: Selections,
        computer: SelectionComputer,
        labels_and_audits: LabelsAndAudits,
        suggester: LabelSuggester,
        cache_bytes: int,
    ) -> None:
        self._selections, self._computer = selections, computer
        self._labels_and_audits, self._suggester = labels_and_audits, suggester
        self._tables: LruCache[SelectionTable] = LruCache(cache_bytes)
        self._labels: LruCache[GivenLabels] = LruCache(cache_bytes // 4)
        self._suggested: LruCache[SuggestedLabels] = LruCache(cache_bytes // 4)
        self._making = asyncio.Lock()

    async def get(self, choice: SelectionPlan) -> SelectionTable:
        """A selection's table. One is made at a time, so that memory is bounded and none is made twice."""
        name = _name(choice)
        if found := self._tables.get(name):
            return found
        async with self._making:
            if found := self._tables.get(name):
                return found
            inspection = await self._selections.inspect(choice)
            made = await anyio.to_thread.run_sync(build_sample_table, inspection.rounds, inspection.selection)
            tabled = SelectionTable(inspection.evidence, inspection.selection, made)
            self._tables.put(name, tabled)
            return tabled

    async def get_labels(self, run: Run) -> NDArray[np.int32] | None:
        """The given labels of all samples; None where none were put."""
        if run.labels is None:
            return None
        name = f"{run.uid}:{run.labels.digest}"
        if found := self._labels.get(name):
            return found.values
        read = await self._labels_and_audits.read_labels(run, np.arange(run.spec.num_samples))
        assert read is not None, "the run refers to labels, which are replaced and never taken away"
        labels = GivenLabels(read.astype(np.int32))
        self._labels.put(name, labels)
        return labels.values

    async def get_suggested_labels(self, choice: SelectionPlan) -> SuggestedLabels | None:
        """What a selection's dropped samples were taken for; None where no epoch has votes."""
        tabled = await self.get(choice)
        evidence = tabled.evidence
        if not any(epoch.has_wrong_predictions for round_ in evidence.rounds for epoch in evidence.epochs(round_)):
            return None
        name = f"{_name(choice)}:{evidence.run.labels and evidence.run.labels.digest}"
        if found := self._suggested.get(name):
            return found
        async with self._making:
            if found := self._suggested.get(name):
                return found
            dropped = np.flatnonzero(~tabled.table.kept)
            most = max(1, _MAX_VOTES // tabled.table.n_epochs)
            step = -(-dropped.size // most) if dropped.size else 1
            samples = dropped[::step]

            async def read(evidence: Evidence) -> PredictionCounts:
                return await self._suggester.count_predictions(
                    evidence, await self._computer.evidence.load_bits(evidence), samples
                )

            evidence, counted = await self._computer.evidence.read_consistently(evidence, read)
            labels = await self._labels_and_audits.read_labels(evidence.run, samples)
            given = counted.labels.astype(np.int64) - 1 if labels is None else labels
            other = (counted.tally.suggested > 0) & (given >= 0)
            suggested = counted.tally.suggested.astype(np.int64) - 1
            made = SuggestedLabels(given[other], suggested[other], samples.size, dropped.size)
            self._suggested.put(name, made)
            return made

    async def get_history(self, choice: SelectionPlan, index: int) -> SampleHistory:
        """One sample of a selection.

        Raises
        ------
        SampleIndexError
            If there is no such sample.
        """
        tabled = await self.get(choice)
        if not 0 <= index < tabled.table.n_samples:
            raise sample_index_error(index, tabled.table.n_samples)
        n_counting = len(tabled.evidence.rounds)

        async def read(every: Evidence) -> tuple[list[RoundBits], PredictionCounts]:
            rounds = await self._computer.evidence.load_bits(every)
            counting = replace(every, rounds=every.rounds[-n_counting:])
            return rounds, await self._suggester.count_predictions(counting, rounds[-n_counting:], np.array([index]))

        every, (rounds, counted) = await self._computer.evidence.read_consistently(
            await self._computer.evidence.extend_to_all_rounds(tabled.evidence), read
        )
        told = await anyio.to_thread.run_sync(explain_sample, rounds, tabled.selection, index)
        return SampleHistory(every, told, counted)


def _name(choice: SelectionPlan) -> str:
    """Of a selection: equal names have equal tables, whatever an audit that only measures says of them."""
    run, options = choice.run, choice.run.spec.selection
    known = [
        ref and ref.digest
        for ref, counts in ((run.labels, options.by_class), (run.audit, options.audit == "fit"))
        if counts
    ]
    digest = "stored" if choice.evidence is None else choice.evidence.digest
    return ":".join(map(str, (run.uid, choice.round.number, choice.round.finished, digest, *known)))
