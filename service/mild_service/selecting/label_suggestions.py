"""Label suggestions for dropped samples: the class that the model predicted most often."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.types import RoundBits
from mild_core.wrong_predictions import ClassNumbers, MajorityVote, find_majority_classes
from mild_service.admission import take_memory
from mild_service.models import Run
from mild_service.selecting.evidence import Evidence, EvidenceReader
from mild_service.selecting.memory_use import MemoryUse
from mild_service.selecting.selections import InspectedSelection, RoundChoice, Selections
from mild_service.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class PredictionCounts:
    """Counts of the predictions of some samples.

    Attributes
    ----------
    labels
        Shape (n,): the given labels in the logs, plus 1; 0 where no log has the label of the sample.
    tally
        Majority vote over the predicted classes of each sample.
    n_observed
        Shape (n,): number of epochs in which each sample was observed.
    """

    labels: ClassNumbers
    tally: MajorityVote
    n_observed: NDArray[np.int64]

    def given_label(self, position: int, label: int | None) -> int | None:
        """Return the given label of the sample at `position`: `label`, or the label in the logs if that is None.

        The result is None if neither is known.
        """
        logged_label = int(self.labels[position]) - 1
        return label if label is not None else None if logged_label < 0 else logged_label

    def suggested_class(self, position: int, label: int | None) -> int | None:
        """Return the class that the model predicted most often for the sample at `position`.

        The class may be the given label: `label`, or the label in the logs if that is None. The result is None if no
        predictions of the sample are known.
        """
        suggested = int(self.tally.suggested[position]) - 1
        if suggested >= 0:
            return suggested
        return self.given_label(position, label) if self.tally.n_votes[position] else None


@dataclass(frozen=True, slots=True, eq=False)
class SuggestionPage:
    """One page of dropped samples with their suggestions.

    Attributes
    ----------
    inspection
        The selection with its scores per sample.
    n_dropped
        Number of all dropped samples.
    samples
        Shape (n,): the dropped samples of this page, ascending.
    counts
        Counts of the predictions of `samples`.
    """

    inspection: InspectedSelection
    n_dropped: int
    samples: NDArray[np.int64]
    counts: PredictionCounts


class LabelSuggester:
    """Suggests labels by counting the predictions over the epochs of a selection."""

    def __init__(self, store: Store, selections: Selections) -> None:
        self._store = store
        self._evidence = EvidenceReader(store)
        self._selections = selections

    async def suggest(
        self,
        run: Run,
        round_choice: RoundChoice,
        changes: Mapping[str, Any],
        until_epoch: int | None,
        offset: int,
        limit: int,
    ) -> SuggestionPage:
        """Suggest labels for one page of the samples that a selection drops.

        The memory for predictions is proportional to the number of epochs times `limit`, not to the size of the run.

        Parameters
        ----------
        run, round_choice, changes, until_epoch
            The selection, as in `Selections.plan`.
        offset
            Number of dropped samples before the page.
        limit
            Maximum number of dropped samples on the page.
        """
        plan = await self._selections.plan(run, round_choice, changes, until_epoch)
        return await self._selections.read_inspected(
            plan, lambda inspection: self._suggest_page(inspection, offset, limit)
        )

    async def _suggest_page(self, inspection: InspectedSelection, offset: int, limit: int) -> SuggestionPage:
        n_samples, evidence = inspection.selection.n_samples, inspection.evidence
        n_dropped = n_samples - bitmap.popcount(inspection.selection.bitmap)
        n_predictions = sum(e.has_wrong_predictions for round_ in evidence.rounds for e in evidence.used_epochs(round_))
        n_listed = max(0, min(limit, n_dropped - offset))
        await take_memory(MemoryUse.of_evidence(evidence, 1).estimate_page(n_dropped, n_listed, n_predictions))
        dropped = bitmap.to_indices(bitmap.full(n_samples) & ~inspection.selection.bitmap, n_samples)
        samples = dropped[offset : offset + limit].copy()
        del dropped
        rounds = await self._evidence.load_bits(evidence, samples)
        counts = await self.count_predictions(evidence, rounds, samples)
        return SuggestionPage(inspection, n_dropped, samples, counts)

    async def count_predictions(
        self, evidence: Evidence, rounds: Sequence[RoundBits], samples: NDArray[np.int64]
    ) -> PredictionCounts:
        """Count the predictions of some samples over the epochs of a selection.

        Parameters
        ----------
        evidence
            Evidence of the selection.
        rounds
            Bits of these samples alone in the rounds of the evidence.
        samples
            Shape (n,), ascending indices of the samples.
        """
        predicted, labels = await self._read_wrong_predictions(evidence, samples)
        pairs = np.array([_count_epochs(bits) for bits in rounds])
        n_correct, n_observed = pairs.sum(axis=0)
        tally = await anyio.to_thread.run_sync(lambda: find_majority_classes(predicted, n_correct))
        return PredictionCounts(labels.max(axis=0, initial=0), tally, n_observed)

    async def _read_wrong_predictions(
        self, evidence: Evidence, samples: NDArray[np.int64]
    ) -> tuple[ClassNumbers, ClassNumbers]:
        """Read predicted classes and labels, shape (n_epochs, n) each, of the epochs that have wrong predictions."""
        parts = []
        for round_ in evidence.rounds:
            epochs = [epoch for epoch in evidence.used_epochs(round_) if epoch.has_wrong_predictions]
            parts.append(await self._store.wrong_predictions.read_samples(evidence.run, round_.number, epochs, samples))
        predicted, labels = (np.concatenate([pair[row] for pair in parts]) for row in (0, 1))
        return predicted, labels


def _count_epochs(bits: RoundBits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the epochs of a round in which each sample was correct, and in which it was observed."""

    def count_ones(plane: bitmap.Bitmap) -> NDArray[np.int64]:
        ones: NDArray[np.int64] = bitmap.unpack(plane, bits.n_samples).sum(axis=0, dtype=np.int64)
        return ones

    all_epochs = np.full(bits.n_samples, bits.n_epochs, dtype=np.int64)
    return count_ones(bits.correct), all_epochs if bits.observed is None else count_ones(bits.observed)
