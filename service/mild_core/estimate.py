"""How many labels are wrong and how good the set is, as intervals.

The value is the fit's own. The 90% interval covers what resampling the histogram does to it (parametric bootstrap),
what choosing another fit would have said, and how far both were from the truth on recorded trainings: the model is
never quite right, and its sampling error alone would promise too much.
"""

from collections.abc import Mapping

import numpy as np

from mild_core.mixture.mixture import Mixture, fit_mixture, refit
from mild_core.mixture.weibull import Floats
from mild_core.results import Curves, Estimate
from mild_core.types import Fit

N_BOOTSTRAP = 20
QUANTITIES = ("noise_rate", "precision", "recall")
UNKNOWN: Mapping[str, Estimate | None] = dict.fromkeys(QUANTITIES)
_MISFIT = (
    (np.array([0.01, 0.005, 0.01]), np.array([0.1, 0.45, 0.3])),
    (np.array([0.01, 0.005, 0.01]), np.array([0.1, 0.0, 0.0])),
)
"""What the truth was further off, below and above, on 95% of the recorded sequences of the choosing half: a part of its
own and a part per noise rate, of each quantity. Real components overlap more than fitted ones, so sets are less pure
and less complete than a fit believes."""
_RIVALS: tuple[Fit, ...] = ("anchored", "grouped", "censored")


def estimates(curves: Curves, cut: int) -> Mapping[str, Estimate | None]:
    """Estimates where bins ``0..cut`` are kept; -1 keeps nobody."""
    columns = zip(curves.value[:, cut + 1], curves.low[:, cut + 1], curves.high[:, cut + 1], strict=True)
    return {
        name: Estimate(*(float(number) for number in column)) for name, column in zip(QUANTITIES, columns, strict=True)
    }


def curves_of(
    mixture: Mixture,
    counts: Floats,
    observation: Floats | None = None,
    checked: Floats | None = None,
) -> Curves:
    """Estimate noise rate, precision and recall of keeping bins ``0..cut``, for every cut.

    Parameters
    ----------
    mixture
        The fit in use.
    counts, observation, checked
        What it was fitted to, as in `fit_mixture`; the resamples are of complete histograms all the same.
    """
    rng = np.random.default_rng(0)
    total = int(counts.sum())
    expected = mixture.densities.sum(axis=0)
    told = checked if observation is None else None  # resamples have no cells
    again = np.zeros_like(expected) if told is None else told.sum(axis=0)  # who was checked is not drawn anew
    resampled = again + rng.multinomial(total - int(again.sum()), expected / expected.sum(), size=N_BOOTSTRAP)
    draws = np.array([_quality(drawn) for drawn in refit(mixture, resampled, told)])
    rivals = np.array(
        [_quality(fit_mixture(counts, kind, observation, checked)) for kind in _RIVALS if kind != mixture.kind]
    )
    value = _quality(mixture)
    below, above = ((fixed + per_noise * value[0, 0])[:, None] for fixed, per_noise in _MISFIT)
    low = np.minimum(np.quantile(draws, 0.05, axis=0), np.minimum(rivals.min(axis=0), value)) - below
    high = np.maximum(np.quantile(draws, 0.95, axis=0), np.maximum(rivals.max(axis=0), value)) + above
    return Curves(value, np.maximum(low, 0.0), np.minimum(high, 1.0))


def _quality(mixture: Mixture) -> Floats:
    """Noise rate, precision and recall that a mixture implies of every cut, shape (3, n_bins + 1)."""
    clean, noisy = np.cumsum(np.pad(mixture.densities, ((0, 0), (1, 0))), axis=1)
    both = clean + noisy
    precision = np.divide(clean, both, out=np.ones_like(both), where=both > 0)
    total = mixture.weights[0]
    recall = np.minimum(clean / total, 1.0) if total > 0 else np.ones_like(clean)
    return np.stack((np.full_like(both, mixture.weights[1]), precision, recall))
