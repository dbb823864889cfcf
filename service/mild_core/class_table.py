"""A selection class by class: who is kept, how noisy each given label seems, and what the others were taken for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.table import SampleTable


@dataclass(frozen=True, slots=True, eq=False)
class ClassTable:
    """Samples by their given label, arrays of shape (n_classes,); classes that no sample has are left out.

    Attributes
    ----------
    classes
        The labels, ascending.
    n_samples, n_scored, n_kept
        Samples, those that were judged, and those in the set.
    noise
        Mean probability of being mislabelled of those that were judged; NaN where there is none.
    """

    classes: NDArray[np.int64]
    n_samples: NDArray[np.int64]
    n_scored: NDArray[np.int64]
    n_kept: NDArray[np.int64]
    noise: NDArray[np.float64]


def class_table(table: SampleTable, labels: NDArray[np.integer]) -> ClassTable:
    """Count a table's samples by their given labels, shape (n_samples,)."""
    classes, place = np.unique(labels, return_inverse=True)
    judged = table.scored & ~np.isnan(table.noisy_posterior)
    n_samples, n_scored, n_kept, n_judged = (
        np.bincount(place[mask], minlength=classes.size)
        for mask in (np.ones(labels.size, dtype=np.bool_), table.scored, table.kept, judged)
    )
    sums = np.bincount(place[judged], table.noisy_posterior[judged], minlength=classes.size)
    noise = np.divide(sums, n_judged, out=np.full(classes.size, np.nan), where=n_judged > 0)
    return ClassTable(classes.astype(np.int64), n_samples, n_scored, n_kept, noise)


@dataclass(frozen=True, slots=True)
class Confusion:
    """Samples of one given label that were mostly predicted as another one."""

    given: int
    suggested: int
    n_samples: int


def confusions(given: NDArray[np.integer], suggested: NDArray[np.integer], limit: int) -> list[Confusion]:
    """The most frequent pairs of given and other label, the most frequent first.

    Parameters
    ----------
    given, suggested
        Shape (n,) each, of the samples that have both.
    limit
        Most pairs.
    """
    pairs, counts = np.unique(np.stack((given, suggested)), axis=1, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:limit]
    return [Confusion(int(pairs[0, at]), int(pairs[1, at]), int(counts[at])) for at in first]
