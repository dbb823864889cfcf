"""What may be believed of a fit.

The information criteria do not say it: they prefer two components on clean labels and on random ones alike, because
they detect misfit, not noise. What tells the cases apart is where the components lie and how far apart they are.
"""

import numpy as np

from mild_core.mixture import Mixture
from mild_core.types import Verdict
from mild_core.weibull import Floats

MIN_BINS = 8
MIN_SAMPLES = 50
MIN_DISTINCT = 4
NOISY_MEAN = 0.6
CLEAN_MEAN = 0.4
SEPARATED = 3.0
OVERLAPPING = 1.0
NEGLIGIBLE = 0.02


def sufficient(counts: Floats) -> tuple[bool, tuple[str, ...]]:
    """Whether a histogram, shape (n_bins,), carries enough for a fit, and why not."""
    checks = (
        (counts.size, MIN_BINS, "bins; record more epochs"),
        (int(counts.sum()), MIN_SAMPLES, "scored samples"),
        (int(np.count_nonzero(counts)), MIN_DISTINCT, "distinct scores"),
    )
    reasons = tuple(f"{got} {what}, a fit needs at least {limit}" for got, limit, what in checks if got < limit)
    return not reasons, reasons


def judge(mixture: Mixture) -> tuple[Verdict, tuple[str, ...]]:
    """Verdict on a fit, with its reasons in numbers.

    ``separable``: the noisy component lies high, the clean one low, and they stand apart. ``weak``: they overlap or lie
    where they should not; the set is better than nothing and its estimates are rough. ``unimodal``: there is one
    population, and cutting it would only lose samples.
    """
    top = max(mixture.masses.shape[1] - 1, 1)
    clean, noisy = mixture.means / top
    apart = distance(mixture)
    facts = (
        (noisy >= NOISY_MEAN, f"noisy mean at {noisy:.2f} of the epochs (separable from {NOISY_MEAN})"),
        (clean <= CLEAN_MEAN, f"clean mean at {clean:.2f} of the epochs (separable up to {CLEAN_MEAN})"),
        (apart >= SEPARATED, f"components {apart:.1f} standard deviations apart (separable from {SEPARATED:g})"),
    )
    reasons = tuple(text for _, text in facts)
    smaller = float(mixture.weights.min())
    if apart < OVERLAPPING or smaller < NEGLIGIBLE:
        return "unimodal", (*reasons, f"smaller component holds {smaller:.3f} (two populations from {NEGLIGIBLE})")
    return ("separable" if all(holds for holds, _ in facts) else "weak"), reasons


def distance(mixture: Mixture) -> float:
    """Difference of the components' means over the root mean square of their standard deviations within the bins."""
    bins = np.arange(mixture.masses.shape[1])
    variances = mixture.masses @ bins**2 - mixture.means**2
    spread = np.sqrt(max(float(variances.mean()), 1.0 / 12.0))
    return float((mixture.means[1] - mixture.means[0]) / spread)
