"""Label suggestions for samples: the class that the model predicted most often."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.types import RoundBits
from mild_core.wrong_predictions import ClassNumbers, find_majority_classes


@dataclass(frozen=True, slots=True, eq=False)
class LabelSuggestions:
    """Given and suggested labels of some samples, arrays of shape (n,).

    Attributes
    ----------
    samples
        Indices of the samples, ascending.
    labels
        The given labels: those of the run, or else those in the logs; -1 where neither is known.
    suggested
        The classes that were predicted in most epochs, which may be the given labels; -1 without predictions.
    n_votes, n_observed
        Number of epochs in which `suggested` was predicted, and in which the sample was observed.
    """

    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    suggested: NDArray[np.int64]
    n_votes: NDArray[np.int64]
    n_observed: NDArray[np.int64]

    @property
    def columns(self) -> tuple[NDArray[np.int64], ...]:
        """All arrays, in the order of the attributes."""
        return self.samples, self.labels, self.suggested, self.n_votes, self.n_observed

    @property
    def n_bytes(self) -> int:
        """Size in bytes."""
        return sum(column.nbytes for column in self.columns)


def suggest_labels(
    samples: NDArray[np.int64],
    rounds: Sequence[RoundBits],
    predicted: ClassNumbers,
    logged: ClassNumbers,
    labels: NDArray[np.int64] | None,
) -> LabelSuggestions:
    """Suggest labels by counting the predictions over the epochs of a selection.

    Parameters
    ----------
    samples
        Shape (n,), ascending indices of the samples.
    rounds
        Bits of these samples alone in the rounds of the selection.
    predicted, logged
        Shape (n_epochs, n) each: classes that were predicted wrongly, and the given labels in the logs, plus 1; 0 where
        there is none.
    labels
        Shape (n,), the given labels of the run; None if the run has none.
    """
    n_correct, n_observed = np.zeros((2, samples.size), dtype=np.int64)
    for bits in rounds:
        n_correct += bitmap.unpack(bits.correct, bits.n_samples).sum(axis=0)
        n_observed += (
            bits.n_epochs if bits.observed is None else bitmap.unpack(bits.observed, bits.n_samples).sum(axis=0)
        )
    tally = find_majority_classes(predicted, n_correct)
    given_labels = logged.max(axis=0, initial=0).astype(np.int64) - 1 if labels is None else labels
    suggested = tally.suggested.astype(np.int64) - 1  # -1: the given label
    suggested = np.where((suggested < 0) & (tally.n_votes > 0), given_labels, suggested)
    return LabelSuggestions(samples, given_labels, suggested, tally.n_votes, n_observed)
