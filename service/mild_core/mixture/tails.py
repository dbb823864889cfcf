"""Tails of the two components: hard clean samples, and mislabelled samples that are memorised early.

With a tail weight ``q`` the components of a `tailed` fit are::

    f0 = (1 - q)     W(a0, k0) + q     U    clean, U uniform over the bins
    f1 = (1 - q / 2) W(a1, k1) + q / 2 V    noisy, V proportional to (z + 1/2) ** 2

A single Weibull leaves hard clean samples to the noisy component, which overestimates the noise. ``q`` is optimised as
``s = logit q``, with ``q' = q (1 - q)`` and ``q'' = q' (1 - 2 q)`` by ``s``.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from mild_core.mixture.weibull import Derivatives, Floats

_SHARE = np.array([1.0, 0.5])[:, None]
"""Tail weights of the clean and of the noisy component, in units of ``q``."""


@dataclass(frozen=True, slots=True, eq=False)
class TailDerivatives:
    """Derivatives of both components by ``s = logit q``.

    Attributes
    ----------
    parts
        Shape (4, n_problems, 2, n_cells): first derivative by ``s``, mixed ones with ``log a`` and ``log k`` of the
        same component, and second one by ``s``.
    """

    parts: Floats

    @property
    def s(self) -> Floats:
        """The first derivative by ``s``, shape (n_problems, 2, n_cells)."""
        first: Floats = self.parts[0]
        return first

    @property
    def mixed(self) -> Floats:
        """The mixed derivatives with ``log a`` and ``log k``, shape (2, n_problems, 2, n_cells)."""
        return self.parts[1:3]

    @property
    def ss(self) -> Floats:
        """The second derivative by ``s``, shape (n_problems, 2, n_cells)."""
        second: Floats = self.parts[3]
        return second


def compute_tail_masses(n_bins: int) -> Floats:
    """Compute the probability of every bin under both tails, shape (2, n_bins)."""
    bins = np.arange(n_bins)
    masses = np.stack((np.ones(n_bins), (bins + 0.5) ** 2))
    normalised: Floats = masses / masses.sum(axis=1, keepdims=True)
    return normalised


def add_tails(masses: Floats, tails: Floats, q: float) -> Floats:
    """Add the tails, shape (2, n_cells), to the probabilities of the Weibulls, shape (2, n_cells)."""
    weight = _SHARE * q
    added: Floats = (1 - weight) * masses + weight * tails
    return added


def differentiate_tailed(cell: Derivatives, tails: Floats, logit_q: Floats) -> tuple[Derivatives, TailDerivatives]:
    """Add the tails to the Weibulls' likelihoods, with derivatives; `logit_q` of shape (n_problems,)."""
    q = expit(logit_q)[:, None, None]
    rest, slope = 1 - _SHARE * q, _SHARE * q * (1 - q)
    by_tail = np.empty((4, *cell.value.shape))
    np.multiply(slope, tails - cell.value, out=by_tail[0])
    np.multiply(-slope, cell.first, out=by_tail[1:3])
    np.multiply(by_tail[0], 1 - 2 * q, out=by_tail[3])
    parts = rest * cell.parts
    parts[0] += _SHARE * q * tails
    return Derivatives(parts), TailDerivatives(by_tail)
