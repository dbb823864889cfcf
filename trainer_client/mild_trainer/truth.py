"""What only someone who knows the true labels can say about a clean set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap


@dataclass(frozen=True, slots=True)
class Agreement:
    """A selected set against the samples whose given label is true.

    Attributes
    ----------
    precision
        Share of the selected samples that are clean; 0 for an empty set.
    recall
        Share of the clean samples that are selected; 0 where none is clean.
    f1
        Their harmonic mean.
    """

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, selected: NDArray[np.bool_], clean: NDArray[np.bool_]) -> "Agreement":
        """Compare two masks of shape (n_samples,)."""
        hits, n_selected, n_clean = (int(np.count_nonzero(m)) for m in (selected & clean, selected, clean))
        return cls(
            precision=hits / max(1, n_selected),
            recall=hits / max(1, n_clean),
            f1=2 * hits / max(1, n_selected + n_clean),
        )


def jaccard(a: Bitmap, b: Bitmap) -> float:
    """Size of the intersection over that of the union; 1 for two empty sets."""
    union = bitmap.popcount(a | b)
    return bitmap.popcount(a & b) / union if union else 1.0
