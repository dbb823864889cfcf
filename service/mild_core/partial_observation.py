"""Likelihood of the scores of samples that were not observed in every epoch.

A cell ``(k, y)`` holds the samples that were observed in ``k`` epochs and misclassified in ``y`` of these, on the scale
of the grid: one epoch per bin. Plain counts would be on another scale where a bin holds several epochs, and where
rounds of different lengths have equal weight.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from mild_core.mixture.weibull import Floats

_MAX_LEVELS = 16
"""Largest number of distinct observed-epoch counts; more are rounded to the nearest of that many levels."""


def encode_cells(k: NDArray[np.integer], y: NDArray[np.integer], n_bins: int) -> NDArray[np.int64]:
    """Encode cells as numbers, ``k * n_bins + y``, with the broadcast shape of `k` and `y`."""
    cells: NDArray[np.int64] = np.asarray(k, dtype=np.int64) * n_bins + y
    return cells


@dataclass(frozen=True, slots=True, eq=False)
class PartialObservation:
    """The cells of a fit.

    Attributes
    ----------
    cells
        Shape (n,), the encoded cells that hold samples, ascending.
    positions
        Shape (n,), row of each of them in `likelihood`: several cells share one where there are many levels of ``k``.
    levels
        Numbers of observed epochs of the cells, ascending; others are rounded to the nearest.
    likelihood
        Shape (n_cells, n_bins), ``P(cell | z)``: probability of every cell if all epochs together put the sample into
        bin ``z``.

    Notes
    -----
    A sample observed in ``k`` of ``E`` epochs, ``y`` of them misclassified, is a draw without replacement from its
    ``z`` misclassified epochs: ``P(y | z, k) = Hypergeometric(y; E, z, k)``. Its likelihood under a component is the
    sum over ``z``, and its posterior depends on ``(y, k)``, so that few observations change the posterior little.
    """

    cells: NDArray[np.int64]
    positions: NDArray[np.intp]
    levels: NDArray[np.int64]
    likelihood: Floats

    @classmethod
    def from_cells(cls, cells: NDArray[np.int64], n_bins: int) -> Self:
        """Group the encoded cells that hold samples, shape (n,), ascending."""
        top = n_bins - 1
        k, y = np.divmod(cells, n_bins)
        levels = round_to_levels(k, choose_levels(k))
        rate = ((2 * y - k) / np.maximum(k, 1) * top / max(top, 1) + 1) / 2  # as scores are computed, rounding included
        y = np.where(levels == k, y, np.rint(rate * levels).astype(np.int64))
        rows, positions = np.unique(encode_cells(levels, y, n_bins), return_inverse=True)
        k, y = np.divmod(rows, n_bins)
        likelihood = compute_hypergeometric_pmf(y[:, None], top, np.arange(n_bins)[None, :], k[:, None])
        return cls(cells, positions, np.unique(k), likelihood)

    def find_positions(self, cells: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the row in `likelihood` of encoded cells that hold samples, shape of `cells`."""
        rows: NDArray[np.intp] = self.positions[np.searchsorted(self.cells, cells)]
        return rows


def compute_hypergeometric_pmf(
    y: NDArray[np.int64], n_epochs: NDArray[np.int64] | int, z: NDArray[np.int64], k: NDArray[np.int64]
) -> Floats:
    """Compute the hypergeometric probability ``P(y | z, k)``, with the broadcast shape of the arrays.

    Parameters
    ----------
    y
        Number of misclassified epochs among the observed ones.
    n_epochs
        Number of all epochs.
    z
        Number of misclassified epochs among all epochs.
    k
        Number of observed epochs.
    """
    is_possible = (y >= 0) & (y <= z) & (k - y <= n_epochs - z)
    y, z = np.where(is_possible, y, 0), np.where(is_possible, z, 0)
    k = np.broadcast_to(k, y.shape)
    log_p = (
        _compute_log_binomial(z, y)
        + _compute_log_binomial(n_epochs - z, np.where(is_possible, k - y, 0))
        - _compute_log_binomial(n_epochs, k)
    )
    return np.where(is_possible, np.exp(log_p), 0.0)


def _compute_log_binomial(n: NDArray[np.int64] | int, r: NDArray[np.int64]) -> Floats:
    """Compute the logarithm of the binomial coefficient "n over r"."""
    return np.asarray(gammaln(np.asarray(n) + 1) - gammaln(r + 1) - gammaln(n - r + 1))


def choose_levels(k: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Choose the levels to which numbers of observed epochs are rounded, ascending; None where they are few."""
    levels = np.unique(k)
    if levels.size <= _MAX_LEVELS:
        return None
    return np.unique(np.linspace(levels[0], levels[-1], _MAX_LEVELS).round().astype(np.int64))


def round_to_levels(k: NDArray[np.int64], levels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Round numbers of observed epochs to the nearest of the levels; without levels, return them as they are."""
    return k if levels is None else levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, k)]
