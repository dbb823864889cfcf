"""Two selections of the same samples: what they share, who moved, and how their scores agree."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.data_map import Axis, Counts, grid
from mild_core.errors import InvalidInput
from mild_core.table import SampleTable


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """A second selection against a first one.

    Attributes
    ----------
    n_first, n_second, n_both
        Samples kept by each, and by both.
    jaccard
        Samples kept by both over those kept by either; 1 where nobody is kept.
    moved_in, moved_out
        Samples that only the second one keeps, cleanest first, and that only the first one keeps, noisiest first, both
        by the second one's scores.
    x, y
        Axes of the first one's and of the second one's scores.
    scores
        Samples per cell that have a score in both, shape (y.n_bins, x.n_bins).
    """

    n_first: int
    n_second: int
    n_both: int
    jaccard: float
    moved_in: NDArray[np.int64]
    moved_out: NDArray[np.int64]
    x: Axis
    y: Axis
    scores: Counts


def compare(first: SampleTable, second: SampleTable, n_bins: int = 30) -> Comparison:
    """Compare two selections sample by sample.

    Raises
    ------
    InvalidInput
        If they are of different numbers of samples.
    """
    if first.n_samples != second.n_samples:
        raise InvalidInput(
            f"selections of {first.n_samples} and of {second.n_samples} samples cannot be compared sample by sample; "
            "choose two of the same data set"
        )
    either = int((first.kept | second.kept).sum())
    both = int((first.kept & second.kept).sum())
    scored = ~(np.isnan(first.scores) | np.isnan(second.scores))
    values = [table.scores[scored] for table in (first, second)]
    x, y = (Axis.of_values(found, n_bins) for found in values)
    moved_in, moved_out = np.flatnonzero(second.kept & ~first.kept), np.flatnonzero(first.kept & ~second.kept)
    return Comparison(
        n_first=int(first.kept.sum()),
        n_second=int(second.kept.sum()),
        n_both=both,
        jaccard=both / either if either else 1.0,
        moved_in=moved_in[np.argsort(second.scores[moved_in], kind="stable")],
        moved_out=moved_out[np.argsort(-second.scores[moved_out], kind="stable")],
        x=x,
        y=y,
        scores=grid(x, y, *values),
    )
