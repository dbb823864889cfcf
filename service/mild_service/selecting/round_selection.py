"""The selection of a round of a run: one object, whose parts are read or computed where they are asked for."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, TypeAlias, TypeVar

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Audit, Evaluation, evaluate_selection
from mild_core.bitmap import Bitmap
from mild_core.inspect.explain import (
    Explanation,
    JudgedSample,
    explain_histories,
    make_sample_index_error,
    read_histories,
)
from mild_core.inspect.sample_table import SampleTable, build_sample_table
from mild_core.inspect.sweep import evaluate_cuts, sweep_cuts
from mild_core.random_audit import RandomAudit, judge_by_draw
from mild_core.results import Selection, is_identified, serialize_fit
from mild_core.sample_scores import SampleScore, score_sample
from mild_core.statistics import Query
from mild_core.types import RoundBits, SelectionOptions
from mild_service.admission import hold_memory, keep_memory, take_memory
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.models import ComputedSelection, Round, Run
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.engine import to_json_types
from mild_service.selecting.evidence import CORE_VERSION, Evidence
from mild_service.selecting.label_suggestions import LabelSuggestions, suggest_labels
from mild_service.selecting.memory_use import MemoryUse

T = TypeVar("T")

_MAX_PREDICTIONS = 10_000_000
"""Maximum number of predictions that are counted for the label suggestions of all dropped samples.

Of more dropped samples, an evenly spaced part is used."""
_PREDICTION_BYTES = 16
"""Most memory while one prediction is counted: its class and its label, as read and as arrays."""


_Part: TypeAlias = Callable[["RoundSelection"], Coroutine[Any, Any, T]]


def _lazy(read: _Part[T]) -> _Part[T]:
    """Let a selection keep the result of a method without parameters, until its evidence changes."""

    @wraps(read)
    async def read_once(selection: "RoundSelection") -> T:
        parts, name = selection._parts, read.__name__
        if name not in parts:
            parts[name] = await read(selection)
        part: T = parts[name]
        return part

    return read_once


class RoundSelection:
    """A selection of a round: the set that the round was finished with, or one that is computed from its epochs.

    Its inputs are determined; what is asked for is read or computed then, and kept. If epochs are replaced meanwhile,
    it is that of the newer epochs from then on.

    Attributes
    ----------
    run, round
        Records of the run and of the round.
    is_stored
        Whether it is the stored set of a finished round. Its scores are computed nevertheless, as they are not stored.

    Parameters
    ----------
    computer, labels_and_audits
        Where it is computed, and where labels and the audit are read.
    run, round_
        The run and the round.
    evidence
        Evidence for the computation; None for the stored set of the round.
    """

    def __init__(
        self,
        computer: SelectionComputer,
        labels_and_audits: LabelsAndAudits,
        run: Run,
        round_: Round,
        evidence: Evidence | None = None,
    ) -> None:
        self.run, self.round, self.is_stored = run, round_, evidence is None
        self._computer, self._reader, self._labels_and_audits = computer, computer.evidence, labels_and_audits
        self._evidence = evidence
        self._parts: dict[str, Any] = {}

    @property
    def identity(self) -> str:
        """Text that changes whenever the content changes, for ETags."""
        base = f"stored:{self.run.uid}:{self.round.number}"
        if not self.is_stored and self._evidence is not None:
            base = f"computed:{self.round.number}:{self.round.finished}:{self._evidence.digest}"
        return base if self.run.audit is None else f"{base}:{self.run.audit.digest}"

    @property
    def head(self) -> dict[str, Any]:
        """The fields with which the JSON of every part starts."""
        return {"run_id": self.run.run_id, "round": self.round.number, "provisional": not self.round.finished}

    async def read_document(self) -> Mapping[str, Any]:
        """Return the JSON of the selection, without `indices`; with an audit, it includes an evaluation."""
        summary, evaluated = {}, {}
        if self.run.audit is not None:
            summary = to_json_types((await self.judge()).summary())
            measured = (await self.evaluate()).summary()
            evaluated = {"guarantee": summary["guarantee"], "bounds": summary["bounds"], "measured": measured}
        elif not self.is_stored:
            summary = dict((await self._compute()).summary)
        if not self.is_stored:
            return {**self.head, "basis": "computed", **summary, "core_version": CORE_VERSION, **evaluated}
        assert self.round.selection is not None, "a finished round has its selection"
        return {**self.round.selection, **evaluated}

    async def read_fit(self) -> Mapping[str, Any]:
        """Return the fit as JSON: histogram, densities, components, threshold, verdict and estimates."""
        fit = self.round.fit if self.is_stored else (await self._compute()).fit
        assert fit is not None, "a finished round has its fit"
        return {**self.head, **fit}

    @_lazy
    async def read_set(self) -> Bitmap:
        """Return the kept samples, shape (n_bytes,)."""
        if not self.is_stored:
            computed: Selection | ComputedSelection = self._parts.get("compute_details") or await self._compute()
            return computed.bitmap
        assert self.round.selected is not None, "a finished round has its set"
        return await self._computer.read_set(self.run, self.round.selected)

    @_lazy
    async def read_audit(self) -> Audit:
        """Return the audit of the run, to which `run` refers then; empty if it has none."""
        self.run, audit = await self._labels_and_audits.read_audit(self.run)
        return audit

    async def read_labels(self) -> NDArray[np.int32] | None:
        """Return the given labels of all samples, shape (n_samples,); None if the run has no labels."""
        run, cache = self.run, self._computer.labels
        if run.labels is None:
            return None
        key = f"{run.uid}:{run.labels.digest}"
        if (labels := cache.get(key)) is None:
            _, values = await self._labels_and_audits.read_labels(run, np.arange(run.spec.num_samples))
            assert values is not None, "the run refers to labels, which are never deleted"
            labels = values.astype(np.int32)
            cache.put(key, labels, labels.nbytes)
        return labels

    @_lazy
    async def compute_details(self) -> Selection:
        """Compute the scores of all samples, with the set and the fit."""
        return await self._read(self._compute_details)

    @_lazy
    async def judge(self) -> Selection:
        """Return the scores of all samples, as `compute_details`, with what the random audit says of the set."""
        audit, details, evidence = await self.read_audit(), await self.compute_details(), await self._read_evidence()
        if evidence.by_draw:  # judged by the answers that made its cut
            return details
        deviation = replace(evidence, run=self.run).deviation

        def judge() -> Selection:
            draw = RandomAudit.from_selection(audit, details)
            return judge_by_draw(details, draw, deviation, is_fixed=self.is_stored)

        return await to_thread.run_sync(judge)

    async def evaluate(self) -> Evaluation:
        """Evaluate the set on the audit."""
        audit, details = await self.read_audit(), await self.compute_details()
        return await to_thread.run_sync(evaluate_selection, details.audited_bitmap, details.scores, audit)

    async def compute_sweep(self) -> Mapping[str, Any]:
        """Return size, estimates and, with an audit, measured quality of the set at every possible cut, as JSON.

        Estimates come from the fit. Only the measured quality needs the scores of the samples.
        """
        audit = await self.read_audit()
        judged = await self.judge() if audit.n_checked else None
        fit = self.head if judged else await self.read_fit()
        return await to_thread.run_sync(_make_sweep, fit, judged, audit)

    async def build_table(self) -> SampleTable:
        """Return the table of all samples, from the cache or computed."""
        key, cache = self._table_key, self._computer.tables
        if cached := cache.get(key):
            return cached

        async def build() -> SampleTable:
            table = await self._read(self._build_table)
            cache.put(self._table_key, table, table.n_bytes)  # of newer epochs, if some were replaced
            return table

        return await self._computer.shared.run(key, build)

    async def suggest_page(self, offset: int, limit: int) -> tuple[int, LabelSuggestions]:
        """Suggest labels for one page of the samples that the selection drops, in order of their index.

        The memory for predictions is proportional to the number of epochs times `limit`, not to the size of the run.

        Parameters
        ----------
        offset, limit
            Number of dropped samples before the page, and the most on it.

        Returns
        -------
        n_dropped, suggestions
            Number of all dropped samples, and the suggestions of those on the page.
        """
        n_samples = self.run.spec.num_samples

        async def suggest(evidence: Evidence) -> tuple[int, LabelSuggestions]:
            clean_set = await self.read_set() if self.is_stored else (await self._computer.compute_set(evidence)).bitmap
            n_dropped = n_samples - bitmap.popcount(clean_set)
            n_predictions = sum(epoch.has_wrong_predictions for epoch in evidence.epochs)
            n_listed = max(0, min(limit, n_dropped - offset))
            await take_memory(MemoryUse.of_evidence(evidence, 1).estimate_page(n_dropped, n_listed, n_predictions))
            dropped = bitmap.to_indices(bitmap.full(n_samples) & ~clean_set, n_samples)
            samples = dropped[offset : offset + limit].copy()
            del dropped
            return n_dropped, await self._suggest(evidence, samples)

        return await self._read(suggest)

    async def suggest_all(self) -> LabelSuggestions | None:
        """Suggest labels for all dropped samples, or an even part of many; None if no epoch has wrong predictions."""
        key, cache = self._table_key, self._computer.suggestions
        if cached := cache.get(key):
            return cached
        table, evidence = await self.build_table(), await self._read_evidence()
        if not any(epoch.has_wrong_predictions for epoch in evidence.epochs):
            return None

        async def suggest() -> LabelSuggestions:
            dropped = np.flatnonzero(~table.is_kept)
            step = -(-dropped.size * table.n_epochs // _MAX_PREDICTIONS) or 1
            samples = dropped[::step]
            await take_memory(_PREDICTION_BYTES * samples.size * table.n_epochs)
            suggestions = await self._read(lambda evidence: self._suggest(evidence, samples))
            cache.put(self._table_key, suggestions, suggestions.n_bytes)
            return suggestions

        return await self._computer.shared.run(("suggestions", key), suggest)

    async def explain(self, index: int) -> tuple[Explanation, LabelSuggestions]:
        """Explain why one sample is kept or dropped, by its history over all rounds, and suggest its label."""
        n_samples = self.run.spec.num_samples
        if not 0 <= index < n_samples:
            raise make_sample_index_error(index, n_samples)
        evidence = await self._read_evidence()
        n_used, samples = len(evidence.rounds), np.array([index])

        async def read_all_rounds(all_rounds: Evidence) -> tuple[Sequence[RoundBits], LabelSuggestions]:
            rounds = await self._reader.load_bits(all_rounds, samples)
            used = replace(all_rounds, rounds=all_rounds.rounds[-n_used:])
            return rounds, await self._suggest(used, samples, rounds[-n_used:])

        all_rounds = await self._reader.extend_to_all_rounds(evidence)
        async with hold_memory(MemoryUse.of_evidence(all_rounds, n_workers=1).sample_bytes):
            all_rounds, (rounds, suggestions) = await self._reader.read_consistently(all_rounds, read_all_rounds)
        recorded = [
            np.flatnonzero([epoch.n_observed != 0 for epoch in all_rounds.used_epochs(round_)])
            for round_ in all_rounds.rounds
        ]
        recorded_bits = [bits.take_epochs(epochs) for bits, epochs in zip(rounds, recorded, strict=True)]
        fit, clean_set = await self.read_fit(), await self.read_set()
        score = await self._score_sample(fit, evidence.options, recorded_bits[-n_used:], index)
        sample = JudgedSample(
            index,
            score,
            bool(bitmap.get_sample_bits(clean_set, index)),
            evidence.options.evidence,
            fit["early"],
            fit["threshold"]["value"],
            fit["verdict"],
        )
        return explain_histories(read_histories(rounds, 0), recorded, sample), suggestions

    @property
    def _table_key(self) -> str:
        """Name of the table in the cache: labels order it, and an audit is used if the options say so."""
        digests = [self.run.labels and self.run.labels.digest]
        if self.run.spec.selection.audit == "fit":
            digests.append(self.run.audit and self.run.audit.digest)
        evidence = "stored" if self.is_stored or self._evidence is None else self._evidence.digest
        return ":".join(map(str, (self.run.uid, self.round.number, self.round.finished, evidence, *digests)))

    async def _read_evidence(self) -> Evidence:
        """Return the evidence of the selection; of a stored set, that from which it was computed."""
        if self._evidence is None:
            self._evidence = await self._reader.gather(self.run, self.round.number, self.run.spec.selection)
        return self._evidence

    async def _read(self, read: Callable[[Evidence], Awaitable[T]]) -> T:
        """Return the result of `read`, which is repeated with newer evidence if epochs were replaced meanwhile."""
        evidence, result = await self._reader.read_consistently(await self._read_evidence(), read)
        if evidence is not self._evidence:
            self._evidence = evidence
            self._parts.clear()
            if not self.is_stored:
                self.round = evidence.round
        return result

    @_lazy
    async def _compute(self) -> ComputedSelection:
        """Return the set and the fit, from the cache or computed."""
        return await self._read(self._computer.compute_set)

    async def _compute_details(self, evidence: Evidence) -> Selection:
        """Compute the scores from some evidence; the set is the stored one if the selection is."""
        details = await self._computer.compute_details(evidence)
        return replace(details, bitmap=await self.read_set()) if self.is_stored else details

    async def _build_table(self, evidence: Evidence) -> SampleTable:
        """Compute the table of all samples from some evidence."""
        details = await self._compute_details(evidence)
        use = MemoryUse.of_evidence(evidence, n_workers=1)
        await take_memory(use.table_bytes)
        labels = await self.read_labels()
        rounds = await self._reader.load_bits(evidence)
        table = await to_thread.run_sync(build_sample_table, rounds, details, labels)
        keep_memory(use.kept_table_bytes)
        return table

    async def _suggest(
        self, evidence: Evidence, samples: NDArray[np.int64], rounds: Sequence[RoundBits] | None = None
    ) -> LabelSuggestions:
        """Suggest labels of some samples; `rounds` are their bits, None to read these."""
        if rounds is None:
            rounds = await self._reader.load_bits(evidence, samples)
        _, labels = await self._labels_and_audits.read_labels(evidence.run, samples)
        predicted, logged = await self._reader.read_wrong_predictions(evidence, samples)
        return await to_thread.run_sync(suggest_labels, samples, rounds, predicted, logged, labels)

    async def _score_sample(
        self, fit: Mapping[str, Any], options: SelectionOptions, rounds: Sequence[RoundBits], index: int
    ) -> SampleScore:
        """Score one sample by its own bits and the fit; where classes have fits of their own, read the table of all."""
        if options.per_class:
            table = await self.build_table()
            return SampleScore(
                float(table.scores[index]), float(table.noisy_posterior[index]), bool(table.scored[index])
            )
        densities = None if fit["densities"] is None else np.array(fit["densities"])
        score = score_sample(rounds, Query(options, fit["early"], None), densities, fit["levels"])
        return score if is_identified(fit["verdict"]) else replace(score, noisy_posterior=np.nan)


def _make_sweep(fit: Mapping[str, Any], judged: Selection | None, audit: Audit) -> dict[str, Any]:
    """Return the sweep: by the fit alone, or by the scores and the audit, where `fit` has the head of the JSON."""
    measured, by_mark, bounds = None, None, None
    if judged is not None:
        fit = {**fit, **to_json_types(serialize_fit(judged))}
        followed = audit if judged.options.audit == "fit" else audit.restrict_to_draw(judged.scored)
        by_mark = evaluate_cuts(judged, followed) if judged.follows_marks else None
        measured, bounds = evaluate_cuts(judged, audit), judged.bound_curves
    head = {name: fit[name] for name in ("run_id", "round", "provisional", "metric", "threshold", "verdict")}
    return {**head, "cuts": sweep_cuts(fit, measured, by_mark, bounds)}
