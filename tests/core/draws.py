"""Counts of drawn samples."""

import numpy as np
from numpy.typing import NDArray

from mild_core.guarantee import DrawCounts


def count_draw(
    bins: NDArray[np.integer], n_bins: int, drawn: NDArray[np.bool_], wrong: NDArray[np.bool_]
) -> DrawCounts:
    """Count the samples, the drawn ones and those of them found mislabelled, up to each cut."""
    groups = (bins, bins[drawn], bins[drawn & wrong])
    return DrawCounts(*(np.cumsum(np.bincount(group, minlength=n_bins)) for group in groups))
