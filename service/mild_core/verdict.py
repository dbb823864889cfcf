"""What may be believed of a fit.

The information criteria do not say it: they prefer two components on clean labels and on random ones alike, because
they detect misfit, not noise. What tells the cases apart is where the components lie, how far apart they are, and
whether the samples of the clean one are hard to forget.

Planted noise: what labels that are known to be wrong say of all the others.

The histogram of samples whose label was broken on purpose is a sample of the noisy component. A noise rate of ``w``
puts at least ``w`` times the planted samples' share into every upper tail, and a tail holds no more than there is: the
smallest ratio of the tails bounds ``w`` (mixture proportion estimation, Blanchard, Lee and Scott 2010).
"""

import numpy as np

from mild_core.mixture.mixture import Mixture
from mild_core.mixture.weibull import FAMILIES, Floats
from mild_core.threshold import expected_f1
from mild_core.types import Verdict

MIN_BINS = 8
MIN_SAMPLES = 50
MIN_DISTINCT = 4
NOISY_MEAN = 0.6
CLEAN_MEAN = 0.38
SEPARATED = 3.0
OVERLAPPING = 1.0
NEGLIGIBLE = 0.03
NOISY_AT_LEAST = 0.5
CLEAN_AT_MOST = 0.54
WORTH_CUTTING = 0.1
FORGETFUL = 0.05
NOTHING_BUT_NOISE = 0.99
BY_HEART = 0.5


def sufficient(counts: Floats) -> tuple[bool, tuple[str, ...]]:
    """Whether a histogram, shape (n_bins,), carries enough for a fit, and why not."""
    checks = (
        (counts.size, MIN_BINS, "bins; record more epochs"),
        (int(counts.sum()), MIN_SAMPLES, "scored samples"),
        (int(np.count_nonzero(counts)), MIN_DISTINCT, "distinct scores"),
    )
    reasons = tuple(f"{got} {what}, a fit needs at least {limit}" for got, limit, what in checks if got < limit)
    return not reasons, reasons


def judge(
    mixture: Mixture, noise_bound: float | None = None, forgetting: float | None = None
) -> tuple[Verdict, tuple[str, ...]]:
    """Verdict on a fit, with its reasons in numbers.

    ``separable``: the noisy component lies high, the clean one low, they stand apart, and clean samples are hard to
    forget. ``weak``: some of that does not hold; the set is better than nothing. ``unimodal``: for all that can be told
    there is one population, and cutting it would lose samples for nothing.

    Parameters
    ----------
    mixture
        The fit.
    noise_bound
        Largest noise rate that planted noise allows; None where it does not tell.
    forgetting
        `memory.forgotten` of the samples that are likelier clean than not; None where the bits do not tell.
    """
    top = max(mixture.masses.shape[1] - 1, 1)
    clean, noisy = mixture.means / top
    apart = distance(mixture)
    facts = [
        (noisy >= NOISY_MEAN, f"noisy mean at {noisy:.2f} of the epochs (separable from {NOISY_MEAN})"),
        (clean <= CLEAN_MEAN, f"clean mean at {clean:.2f} of the epochs (separable up to {CLEAN_MEAN})"),
        (apart >= SEPARATED, f"components {apart:.1f} standard deviations apart (separable from {SEPARATED:g})"),
    ]
    if forgetting is not None:
        told = f"{forgetting:.1%} of the clean samples that were known are forgotten in the next epoch"
        facts.append((forgetting < FORGETFUL, f"{told} (separable below {FORGETFUL:.0%})"))
    reasons = tuple(text for _, text in facts)
    if mixture.open_top != FAMILIES[mixture.kind].tops[0]:
        reasons += ("counts pile up in the top bin: it stands for that many epochs or more",)
    separable = all(holds for holds, _ in facts)
    single = _single(mixture, clean, noisy, apart, separable, noise_bound)
    if single is not None:
        return "unimodal", (*reasons, single)
    return ("separable" if separable else "weak"), reasons


def _single(
    mixture: Mixture, clean: float, noisy: float, apart: float, separable: bool, noise_bound: float | None
) -> str | None:
    """Why all samples are taken for one population; None where they are not."""
    smaller = float(mixture.weights.min())
    f1 = expected_f1(mixture)
    gain = float(f1.max() - f1[-1])
    bound = 0.5 if noise_bound is None else noise_bound
    checks = (
        (
            apart < OVERLAPPING,
            f"components {apart:.1f} standard deviations apart (two populations from {OVERLAPPING:g})",
        ),
        (smaller < NEGLIGIBLE, f"smaller component holds {smaller:.3f} (two populations from {NEGLIGIBLE})"),
        (noisy < NOISY_AT_LEAST, f"noisy mean at {noisy:.2f} of the epochs (mislabelled from {NOISY_AT_LEAST})"),
        (
            clean > CLEAN_AT_MOST and apart < SEPARATED,
            f"clean mean at {clean:.2f} of the epochs (learnt up to {CLEAN_AT_MOST})",
        ),
        (
            not separable and bound < NEGLIGIBLE,
            f"planted noise allows a noise rate of {bound:.3f} at most (two populations from {NEGLIGIBLE})",
        ),
        (
            bound >= NOTHING_BUT_NOISE and clean > CLEAN_MEAN,
            f"planted noise allows a noise rate of {bound:.2f}, and the clean mean is at {clean:.2f} of the epochs: "
            "labels may carry no signal at all",
        ),
        (
            not separable and gain < WORTH_CUTTING,
            f"a cut is expected to raise F1 by {gain:.3f} (a weak fit is cut from {WORTH_CUTTING})",
        ),
    )
    return next((text for holds, text in checks if holds), None)


def distance(mixture: Mixture) -> float:
    """Difference of the components' means over the root mean square of their standard deviations within the bins."""
    bins = np.arange(mixture.masses.shape[1])
    variances = mixture.masses @ bins**2 - mixture.means**2
    spread = np.sqrt(max(float(variances.mean()), 1.0 / 12.0))
    return float((mixture.means[1] - mixture.means[0]) / spread)


MIN_PLANTED = 10
"""Planted samples below which nothing is concluded from them."""
_Z = 2.0
_LEAST_TAIL = 0.05
"""Tails of which the planted samples fill less say nothing."""


def noise_bound(counts: Floats, planted: Floats) -> float | None:
    """The noise rate that is exceeded once in twenty times or so, as far as planted noise is like the other.

    Parameters
    ----------
    counts, planted
        Histograms of the samples with their own label and of the planted ones, shape (n_bins,) each.

    Returns
    -------
    float | None
        In 0..1; None where there are under `MIN_PLANTED` planted samples, or no others.

    Notes
    -----
    The planted share of each tail is taken two standard errors low, at the end of its Wilson interval: it is estimated
    from few samples, and the smallest of many ratios is one whose share came out large.
    """
    total, n_planted = counts.sum(), planted.sum()
    if n_planted < MIN_PLANTED or total == 0:
        return None
    tail, share = (np.cumsum(h[::-1])[::-1] / h.sum() for h in (counts, planted))
    spread = _Z * np.sqrt(share * (1 - share) / n_planted + _Z**2 / (4 * n_planted**2))
    least = (share + _Z**2 / (2 * n_planted) - spread) / (1 + _Z**2 / n_planted)
    told = least > _LEAST_TAIL
    return float(np.min(tail[told] / least[told], initial=1.0))
