"""Estimates of the noise rate, and of the precision and recall of a cut, with 90% intervals.

The value is that of the fit. The interval covers the value of the fit `anchored` too, and how far both were from the
truth on recorded trainings. The model is an approximation: next to that, its sampling error is small.
"""

from collections.abc import Mapping

import numpy as np

from mild_core.mixture.mixture import Mixture
from mild_core.mixture.weibull import Floats
from mild_core.results import Curves, Estimate

QUANTITIES = ("noise_rate", "precision", "recall")
NO_ESTIMATES: Mapping[str, Estimate | None] = dict.fromkeys(QUANTITIES)
_MISFIT = 0.5
"""Margin on either side of an interval, in units of the fitted noise rate: how far the truth was outside on nine tenths
of the choosing half of the recorded sequences. Real components overlap more than fitted ones, so sets are less pure and
less complete than a fit implies."""


def estimate_curves(mixture: Mixture, anchored: Mixture) -> Curves:
    """Estimate noise rate, precision and recall of every cut, each with a 90% interval.

    Parameters
    ----------
    mixture
        The fit in use.
    anchored
        The fit ``anchored`` of the same data.
    """
    value, other = _compute_quality(mixture), _compute_quality(anchored)
    margin = _MISFIT * value[0, 0]
    low, high = np.minimum(value, other) - margin, np.maximum(value, other) + margin
    return Curves(value, np.maximum(low, 0.0), np.minimum(high, 1.0))


def read_estimates(curves: Curves, cut: int) -> Mapping[str, Estimate | None]:
    """Return the estimates of one cut by the name of the quantity (`QUANTITIES`).

    Parameters
    ----------
    curves
        Estimates of all cuts.
    cut
        Last bin that is kept; -1 for no bin.
    """
    columns = zip(curves.value[:, cut + 1], curves.low[:, cut + 1], curves.high[:, cut + 1], strict=True)
    return {
        name: Estimate(*(float(number) for number in column)) for name, column in zip(QUANTITIES, columns, strict=True)
    }


def _compute_quality(mixture: Mixture) -> Floats:
    """Compute noise rate, precision and recall of every cut from -1 on under a mixture, shape (3, n_bins + 1)."""
    clean, noisy = np.cumsum(np.pad(mixture.densities, ((0, 0), (1, 0))), axis=1)
    total = clean + noisy
    precision = np.divide(clean, total, out=np.ones_like(total), where=total > 0)
    all_clean = mixture.weights[0]
    recall = np.minimum(clean / all_clean, 1.0) if all_clean > 0 else np.ones_like(clean)
    return np.stack((np.full_like(total, mixture.weights[1]), precision, recall))
