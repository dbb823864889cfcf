"""What the model took dropped samples for: the class that it predicted most often, counted exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.types import RoundBits
from mild_core.wrong_predictions import ClassNumbers, MajorityVote, count_votes
from mild_service.errors import StoreDamaged
from mild_service.models import Run
from mild_service.selecting.evidence import Evidence
from mild_service.selecting.selections import InspectedSelection, RoundChoice, Selections
from mild_service.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class PredictionCounts:
    """What the votes say of some samples.

    Attributes
    ----------
    labels
        Shape (n,): given labels plus 1, as logs told them beside a wrong prediction; 0 where they did not.
    tally
        Their suggested classes.
    n_observed
        Shape (n,): epochs in which each was observed.
    """

    labels: ClassNumbers
    tally: MajorityVote
    n_observed: NDArray[np.int64]

    def given_label(self, place: int, label: int | None) -> int | None:
        """A sample's given label: `label`, as it was put, else as logs told it."""
        told = int(self.labels[place]) - 1
        return label if label is not None else None if told < 0 else told

    def suggested_class(self, place: int, label: int | None) -> int | None:
        """The class that it was mostly taken for; its given label where that is the one, None where nobody told."""
        other = int(self.tally.suggested[place]) - 1
        if other >= 0:
            return other
        return self.given_label(place, label) if self.tally.n_votes[place] else None


@dataclass(frozen=True, slots=True, eq=False)
class SuggestionPage:
    """Some dropped samples.

    Attributes
    ----------
    inspection
        The selection that dropped them.
    n_dropped
        All that are not in the set.
    samples
        Shape (n,): these of them, ascending.
    counted
        What the votes say of `samples`.
    """

    inspection: InspectedSelection
    n_dropped: int
    samples: NDArray[np.int64]
    counted: PredictionCounts


class LabelSuggester:
    """Counts votes of the epochs that a selection was made of."""

    def __init__(self, store: Store, selections: Selections) -> None:
        self._store = store
        self._selections = selections

    async def suggest(
        self, run: Run, which: RoundChoice, changes: Mapping[str, Any], until_epoch: int | None, offset: int, limit: int
    ) -> SuggestionPage:
        """Up to `limit` of the samples that a selection drops, from the `offset`-th on.

        Of the votes, what is in memory grows with epochs times `limit`, not with the run.

        Raises
        ------
        RoundNotOpen, NoEpochs, RoundsNotComparable
            If there is nothing to select from.
        StoreDamaged
            If votes are missing.
        """
        before = None
        while True:
            inspection = await self._selections.inspect(await self._selections.plan(run, which, changes, until_epoch))
            try:
                return await self._suggest(inspection, offset, limit)
            except StoreDamaged:  # an epoch may have been replaced or dropped while it was read
                if inspection.evidence.digest == before:
                    raise
                before = inspection.evidence.digest

    async def _suggest(self, inspection: InspectedSelection, offset: int, limit: int) -> SuggestionPage:
        n_samples = inspection.selection.n_samples
        dropped = bitmap.to_indices(bitmap.full(n_samples) & ~inspection.selection.bitmap, n_samples)
        samples = dropped[offset : offset + limit]
        counted = await self.count_predictions(inspection.evidence, inspection.rounds, samples)
        return SuggestionPage(inspection, dropped.size, samples, counted)

    async def count_predictions(
        self, evidence: Evidence, rounds: Sequence[RoundBits], samples: NDArray[np.int64]
    ) -> PredictionCounts:
        """Count the votes of some samples, ascending, over the epochs of `evidence`, whose bits are `rounds`.

        Raises
        ------
        StoreDamaged
            If votes are missing.
        """
        predicted, labels = await self._votes(evidence, samples)
        pairs = np.array([_counts(bits, samples) for bits in rounds])
        n_correct, n_observed = pairs.sum(axis=0)
        counted = await anyio.to_thread.run_sync(lambda: count_votes(predicted, n_correct))
        return PredictionCounts(labels.max(axis=0, initial=0), counted, n_observed)

    async def _votes(self, evidence: Evidence, samples: NDArray[np.int64]) -> tuple[ClassNumbers, ClassNumbers]:
        """Predicted classes and labels, shape (n_epochs, n) each; epochs without votes are left out."""
        found = []
        for round_ in evidence.rounds:
            epochs = [epoch for epoch in evidence.epochs(round_) if epoch.has_wrong_predictions]
            found.append(await self._store.wrong_predictions.read_some(evidence.run, round_.number, epochs, samples))
        predicted, labels = (np.concatenate([pair[row] for pair in found]) for row in (0, 1))
        return predicted, labels


def _counts(bits: RoundBits, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Epochs of a round in which samples were right, and in which they were observed."""
    shift = (7 - samples % 8).astype(np.uint8)

    def count(plane: bitmap.Bitmap) -> NDArray[np.int64]:
        ones: NDArray[np.int64] = (plane[:, samples // 8] >> shift & 1).sum(axis=0, dtype=np.int64)
        return ones

    everyone = np.full(samples.size, bits.n_epochs, dtype=np.int64)
    return count(bits.correct), everyone if bits.observed is None else count(bits.observed)
