"""What a model predicted where it was wrong, and the class that it says most often over epochs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[np.unsignedinteger]
"""Class numbers plus 1, as narrow as they fit; 0 where none is known."""

MAX_CLASS = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """One epoch's wrong predictions. A right one needs none: it is the given label.

    Attributes
    ----------
    predicted, labels
        Shape (n_samples,) each: the predicted class and the given label, where the prediction was wrong and is known.
    """

    predicted: Classes
    labels: Classes

    @property
    def n_votes(self) -> int:
        """Samples with a known wrong prediction."""
        return int(np.count_nonzero(self.predicted))

    def clash(self, other: "Votes") -> NDArray[np.bool_]:
        """Where both say something, and not the same."""
        both = (self.predicted != 0) & (other.predicted != 0)
        clash: NDArray[np.bool_] = both & (self.predicted != other.predicted)
        return clash

    def joined(self, other: "Votes") -> "Votes":
        """Both together; they do not clash."""
        own = self.predicted != 0
        return Votes(np.where(own, self.predicted, other.predicted), np.where(own, self.labels, other.labels))


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """What some samples were most often taken for.

    Attributes
    ----------
    suggested
        Shape (n,): the class plus 1; 0 where the given label won, or no wrong prediction is known.
    n_votes
        Shape (n,): epochs that speak for it; where `suggested` is 0, for the given label.
    """

    suggested: Classes
    n_votes: NDArray[np.int64]


def tally(predicted: Classes, n_correct: NDArray[np.int64]) -> Tally:
    """Count exactly, class by class.

    Parameters
    ----------
    predicted
        Shape (n_epochs, n): `Votes.predicted` of some samples.
    n_correct
        Shape (n,): epochs in which the given label was predicted.

    Notes
    -----
    The given label wins a tie, and of other classes the lowest: what does not tell speaks against a change.
    """
    n = n_correct.size
    best, most = np.zeros(n, dtype=predicted.dtype), np.zeros(n, dtype=np.int64)
    current, run = np.zeros(n, dtype=predicted.dtype), np.zeros(n, dtype=np.int64)
    for row in np.sort(predicted, axis=0):
        run = np.where(row == current, run + 1, 1)
        current = row
        better = (row != 0) & (run > most)
        best[better], most[better] = row[better], run[better]
    kept = n_correct >= most
    return Tally(np.where(kept, 0, best).astype(predicted.dtype), np.where(kept, n_correct, most))
