"""Wrong predictions of a model, and the class that it predicts most often over epochs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ClassNumbers = NDArray[np.unsignedinteger]
"""Class numbers plus 1, in the narrowest type that holds them; 0 where the class is unknown."""

MAX_CLASS = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class WrongPredictions:
    """The wrong predictions of one epoch; right predictions are not stored, since they equal the given label.

    Attributes
    ----------
    predicted, labels
        Shape (n_samples,) each: predicted class plus 1 and given label plus 1 of the samples with a known wrong
        prediction; 0 for all other samples.
    """

    predicted: ClassNumbers
    labels: ClassNumbers

    @property
    def n_predictions(self) -> int:
        """Number of samples with a known wrong prediction."""
        return int(np.count_nonzero(self.predicted))

    def merge(self, other: "WrongPredictions") -> "WrongPredictions":
        """Return the predictions of both sets; of two classes of one sample, the lower one counts."""
        planes = np.stack([self.predicted, other.predicted])
        predicted = np.where((planes == 0).any(axis=0), planes.max(axis=0), planes.min(axis=0))
        return WrongPredictions(predicted, np.maximum(self.labels, other.labels))


@dataclass(frozen=True, slots=True, eq=False)
class MajorityVote:
    """The most frequent predicted class of every sample.

    Attributes
    ----------
    suggested
        Shape (n_samples,), the most frequent class plus 1; 0 where that is the given label, or no wrong prediction is
        known.
    n_votes
        Shape (n_samples,), number of epochs that predicted the class; the given label where `suggested` is 0.
    """

    suggested: ClassNumbers
    n_votes: NDArray[np.int64]


def find_majority_classes(predicted: ClassNumbers, n_correct: NDArray[np.int64]) -> MajorityVote:
    """Find the most frequent predicted class of every sample over all epochs.

    Parameters
    ----------
    predicted
        Shape (n_epochs, n_samples), `WrongPredictions.predicted` of every epoch.
    n_correct
        Shape (n_samples,), number of epochs that predicted the given label.

    Notes
    -----
    The given label wins a tie; among other classes the lowest number wins.
    """
    n_samples = n_correct.size
    best_class, most_votes = np.zeros(n_samples, dtype=predicted.dtype), np.zeros(n_samples, dtype=np.int64)
    previous, run_length = np.zeros(n_samples, dtype=predicted.dtype), np.zeros(n_samples, dtype=np.int64)
    for row in np.sort(predicted, axis=0):  # equal classes of a sample are neighbours
        run_length = np.where(row == previous, run_length + 1, 1)
        previous = row
        is_better = (row != 0) & (run_length > most_votes)
        best_class[is_better], most_votes[is_better] = row[is_better], run_length[is_better]
    label_wins = n_correct >= most_votes
    return MajorityVote(
        np.where(label_wins, 0, best_class).astype(predicted.dtype), np.where(label_wins, n_correct, most_votes)
    )
