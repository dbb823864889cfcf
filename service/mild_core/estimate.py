"""Estimates of the noise rate, and of the precision and recall of a cut, with 90% intervals.

The value is that of the fit. The interval covers the variation under resampling of the histogram (parametric
bootstrap), the values of the other fits, and how far both were from the truth on recorded trainings: the model is an
approximation, and its sampling error alone would make the interval too narrow.
"""

from collections.abc import Mapping

import numpy as np

from mild_core.mixture.mixture import Mixture, fit_mixture, refit_histograms
from mild_core.mixture.weibull import Floats
from mild_core.results import Curves, Estimate
from mild_core.types import Fit

N_BOOTSTRAP = 20
QUANTITIES = ("noise_rate", "precision", "recall")
NO_ESTIMATES: Mapping[str, Estimate | None] = dict.fromkeys(QUANTITIES)
_MISFIT = 0.5
"""Margin on either side of an interval, in units of the fitted noise rate: how far the truth was outside on nine tenths
of the choosing half of the recorded sequences. Real components overlap more than fitted ones, so sets are less pure and
less complete than a fit implies."""
_ALTERNATIVE_FITS: tuple[Fit, ...] = ("anchored", "grouped", "censored")


def estimate_curves(
    mixture: Mixture,
    counts: Floats,
    cell_likelihood: Floats | None = None,
    checked_counts: Floats | None = None,
    anchored: Mixture | None = None,
) -> Curves:
    """Estimate noise rate, precision and recall of every cut, each with a 90% interval.

    Parameters
    ----------
    mixture
        The fit in use.
    counts, cell_likelihood, checked_counts
        The data of the fit, as in `fit_mixture`. The bootstrap resamples whole bins even where these data have cells.
    anchored
        The fit ``anchored`` of these data, if it is known.
    """
    rng = np.random.default_rng(0)
    n_samples = int(counts.sum())
    density = mixture.densities.sum(axis=0)
    resampled_checks = checked_counts if cell_likelihood is None else None  # resamples have bins, not cells
    fixed_counts = np.zeros_like(density) if resampled_checks is None else resampled_checks.sum(axis=0)
    n_drawn = n_samples - int(fixed_counts.sum())  # checked samples are not resampled
    resamples = fixed_counts + rng.multinomial(n_drawn, density / density.sum(), size=N_BOOTSTRAP)
    draws = np.array([_compute_quality(fit) for fit in refit_histograms(mixture, resamples, resampled_checks)])
    alternatives = np.array(
        [
            _compute_quality(
                anchored
                if anchored is not None and kind == anchored.kind
                else fit_mixture(counts, kind, cell_likelihood, checked_counts)
            )
            for kind in _ALTERNATIVE_FITS
            if kind != mixture.kind
        ]
    )
    value = _compute_quality(mixture)
    margin = _MISFIT * value[0, 0]
    low = np.minimum(np.quantile(draws, 0.05, axis=0), np.minimum(alternatives.min(axis=0), value)) - margin
    high = np.maximum(np.quantile(draws, 0.95, axis=0), np.maximum(alternatives.max(axis=0), value)) + margin
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
