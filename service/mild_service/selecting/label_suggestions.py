"""Label suggestions for samples: the class that the model predicted most often."""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.types import RoundBits
from mild_core.wrong_predictions import find_majority_classes
from mild_service.selecting.evidence import Evidence
from mild_service.store import Store


@dataclass(frozen=True, slots=True, eq=False)
class LabelSuggestions:
    """Given and suggested labels of some samples, arrays of shape (n,).

    Attributes
    ----------
    samples
        Indices of the samples, ascending.
    given
        The given labels: those of the run, or else those in the logs; -1 where neither is known.
    suggested
        The classes that were predicted in most epochs, which may be the given labels; -1 without predictions.
    n_votes, n_observed
        Number of epochs in which `suggested` was predicted, and in which the sample was observed.
    """

    samples: NDArray[np.int64]
    given: NDArray[np.int64]
    suggested: NDArray[np.int64]
    n_votes: NDArray[np.int64]
    n_observed: NDArray[np.int64]

    @property
    def columns(self) -> tuple[NDArray[np.int64], ...]:
        """All arrays, in the order of the attributes."""
        return self.samples, self.given, self.suggested, self.n_votes, self.n_observed

    @property
    def n_bytes(self) -> int:
        """Size in bytes."""
        return sum(column.nbytes for column in self.columns)


async def suggest_labels(
    store: Store,
    evidence: Evidence,
    rounds: Sequence[RoundBits],
    samples: NDArray[np.int64],
    labels: NDArray[np.int64] | None,
) -> LabelSuggestions:
    """Suggest labels by counting the predictions over the epochs of a selection.

    Parameters
    ----------
    store
        Where the predictions are read.
    evidence
        Evidence of the selection.
    rounds
        Bits of these samples alone in the rounds of the evidence.
    samples
        Shape (n,), ascending indices of the samples.
    labels
        Shape (n,), the given labels of the run; None if the run has none.
    """
    parts = []
    for round_ in evidence.rounds:
        epochs = [epoch for epoch in evidence.used_epochs(round_) if epoch.has_wrong_predictions]
        parts.append(await store.wrong_predictions.read_samples(evidence.run, round_.number, epochs, samples))
    predicted, logged = (np.concatenate([pair[row] for pair in parts]) for row in (0, 1))
    n_correct, n_observed = np.array([_count_epochs(bits) for bits in rounds]).sum(axis=0)
    tally = await anyio.to_thread.run_sync(find_majority_classes, predicted, n_correct)
    given = logged.max(axis=0, initial=0).astype(np.int64) - 1 if labels is None else labels
    suggested = tally.suggested.astype(np.int64) - 1  # -1: the given label
    suggested = np.where((suggested < 0) & (tally.n_votes > 0), given, suggested)
    return LabelSuggestions(samples, given, suggested, tally.n_votes, n_observed)


def _count_epochs(bits: RoundBits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the epochs of a round in which each sample was correct, and in which it was observed."""

    def count_ones(plane: bitmap.Bitmap) -> NDArray[np.int64]:
        ones: NDArray[np.int64] = bitmap.unpack(plane, bits.n_samples).sum(axis=0, dtype=np.int64)
        return ones

    all_epochs = np.full(bits.n_samples, bits.n_epochs, dtype=np.int64)
    return count_ones(bits.correct), all_epochs if bits.observed is None else count_ones(bits.observed)
