"""Wrong predictions of a model, and the class that it predicts most often over epochs."""

from collections.abc import Sequence
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

    def take(self, mask: NDArray[np.bool_]) -> "WrongPredictions | None":
        """Return the predictions of the samples in a mask of shape (n_samples,); None if there are none."""
        predicted = np.where(mask, self.predicted, 0)
        return WrongPredictions(predicted, np.where(predicted != 0, self.labels, 0)) if predicted.any() else None


def describe_unknown_classes(classes: NDArray[np.integer], samples: NDArray[np.integer], n_classes: int) -> str | None:
    """Name the first few classes outside 0..n_classes-1 with their samples, and what helps; None if all are inside.

    Parameters
    ----------
    classes
        Shape (n_records,), the classes that are known.
    samples
        Shape (n_records,), the sample of each.
    n_classes
        Number of classes.
    """
    outside = np.flatnonzero((classes < 0) | (classes >= n_classes))
    if not outside.size:
        return None
    examples = ", ".join(f"{classes[i]} of sample {samples[i]}" for i in outside[:3])
    lowest, highest = int(classes.min()), int(classes.max())
    if (lowest, highest) == (1, n_classes):
        cause = f"they run from 1 to {highest}, as if classes were numbered from 1: subtract 1"
    elif lowest < 0:
        cause = "a negative number often stands for no label: leave it out"
    elif lowest > 0 and highest == n_classes:
        cause = "subtract 1 if classes are numbered from 1, or else encode them as the run does"
    else:
        cause = "encode the classes as the run does, or open a run with the true num_classes"
    return f"{examples}; {cause}"


MIN_RECORDS, MIN_RECORDS_PER_CLASS = 50, 10
"""Fewer records do not show that labels and predictions have different classes."""


@dataclass(slots=True)
class ClassComparison:
    """Compares the classes of predictions with those of labels, over any number of records.

    Attributes
    ----------
    n_records
        Number of records with a prediction.
    n_equal, n_above, n_below
        Number of records whose label is the predicted class, or the class above or below it.
    labels, predicted
        The lowest and the highest label and predicted class of these records.
    """

    n_records: int = 0
    n_equal: int = 0
    n_above: int = 0
    n_below: int = 0
    labels: tuple[int, int] = (MAX_CLASS, -1)
    predicted: tuple[int, int] = (MAX_CLASS, -1)

    def add(self, predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> None:
        """Add records; shape (n_records,) each, -1 where a class is unknown."""
        is_known = (predicted >= 0) & (labels >= 0)
        if not is_known.all():
            predicted, labels = predicted[is_known], labels[is_known]
        if not predicted.size:
            return
        difference = labels.astype(np.int64) - predicted
        self.n_records += difference.size
        self.n_equal += int(np.count_nonzero(difference == 0))
        self.n_above += int(np.count_nonzero(difference == 1))
        self.n_below += int(np.count_nonzero(difference == -1))
        self.labels = min(self.labels[0], int(labels.min())), max(self.labels[1], int(labels.max()))
        self.predicted = min(self.predicted[0], int(predicted.min())), max(self.predicted[1], int(predicted.max()))

    def describe_mismatch(self, is_whole: bool, names: Sequence[str] | None = None) -> str | None:
        """Describe why labels and predictions seem to be numbered differently, without a remedy; None if they do not.

        They do if the labels' range is the predictions' range moved by one, and a label more often is the class beside
        the predicted one than that class itself; or if, in a whole log, no prediction is the label.

        Parameters
        ----------
        is_whole
            Whether these are all records of a training; a part may have samples of few classes.
        names
            Name of each class; None if the classes are numbers.
        """
        (low, high), (lowest, highest) = self.labels, self.predicted
        n_needed = max(MIN_RECORDS, MIN_RECORDS_PER_CLASS * (high + 1))
        if self.n_records < n_needed or low == high or lowest == highest:
            return None
        first, last, first_predicted, last_predicted = (
            repr(names[number]) if names else number for number in (low, high, lowest, highest)
        )
        ranges = f"labels from {first} to {last}, predictions from {first_predicted} to {last_predicted}"
        for move, n_moved in ((1, self.n_above), (-1, self.n_below)):
            if not names and (low - lowest, high - highest) == (move, move) and n_moved > self.n_equal:
                return (
                    f"the log has {ranges}, and a label is the predicted class {'plus' if move > 0 else 'minus'} 1 "
                    f"in {n_moved:,} of {self.n_records:,} records, the class itself in {self.n_equal:,}"
                )
        if is_whole and not self.n_equal:
            return f"none of the {self.n_records:,} predictions of the log is the label, with {ranges}"
        return None


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
