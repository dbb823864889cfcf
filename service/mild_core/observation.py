"""Samples that were not observed in every epoch: what was seen, given what happened.

A sample seen in ``k`` of ``E`` epochs, ``y`` of them misclassified, is a draw without replacement from its ``z``
misclassified ones: ``P(y | z, k) = Hypergeometric(y; E, z, k)``. Its likelihood under a component is the sum over
``z``, and its posterior depends on ``(y, k)``, so that few observations move it little.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from mild_core.metrics import EPSILON, Scores
from mild_core.weibull import Floats

_MAX_LEVELS = 16
"""Distinct numbers of observed epochs told apart; finer ones are rounded to the nearest level."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The distinct ``(k, y)`` cells of the samples that were seen often enough.

    Attributes
    ----------
    counts
        Scored samples per cell, shape (n_cells,).
    likelihood
        ``P(cell | z)``, shape (n_cells, n_bins).
    cell
        Each scored sample's cell, shape (n_scored,).
    """

    counts: Floats
    likelihood: Floats
    cell: NDArray[np.intp]

    @classmethod
    def of(cls, scores: Scores) -> Self | None:
        """Cells of the samples; None when every one of them was observed in every epoch."""
        coverage = scores.coverage[scores.scored]
        if (coverage > 1 - EPSILON).all():
            return None
        # On the grid's scale, an epoch a bin: where bins hold several epochs, and where rounds of different lengths
        # weigh the same, plain counts would be on another one.
        top = scores.n_bins - 1
        rate = (scores.values[scores.scored] / scores.n_epochs + 1) / 2
        k = _coarsened(np.maximum(np.rint(coverage * top), 1).astype(np.int64))
        y = np.rint(rate * k).astype(np.int64)
        cells, cell = np.unique(k * (top + 1) + y, return_inverse=True)
        k, y = np.divmod(cells, top + 1)
        likelihood = hypergeometric(y[:, None], top, np.arange(top + 1)[None, :], k[:, None])
        return cls(np.bincount(cell).astype(np.float64), likelihood, cell)


def _coarsened(k: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round observed counts to at most `_MAX_LEVELS` levels."""
    levels = np.unique(k)
    if levels.size <= _MAX_LEVELS:
        return k
    grid = np.unique(np.linspace(levels[0], levels[-1], _MAX_LEVELS).round().astype(np.int64))
    return grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, k)]


def hypergeometric(y: NDArray[np.int64], n_epochs: int, z: NDArray[np.int64], k: NDArray[np.int64]) -> Floats:
    """``P(y | z, k)``: `y` misclassified among `k` epochs drawn from `n_epochs`, `z` of which were misclassified."""
    possible = (y <= z) & (k - y <= n_epochs - z)
    y, z = np.where(possible, y, 0), np.where(possible, z, 0)
    k = np.broadcast_to(k, y.shape)
    log_p = _log_choose(z, y) + _log_choose(n_epochs - z, np.where(possible, k - y, 0)) - _log_choose(n_epochs, k)
    return np.where(possible, np.exp(log_p), 0.0)


def _log_choose(n: NDArray[np.int64] | int, r: NDArray[np.int64]) -> Floats:
    return np.asarray(gammaln(np.asarray(n) + 1) - gammaln(r + 1) - gammaln(n - r + 1))
