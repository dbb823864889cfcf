"""Verdicts on a fit: whether it separates clean from mislabelled samples.

Information criteria do not answer that: they prefer two components on clean labels and on random ones alike, since they
detect misfit, not noise. The verdict depends on how far the components are apart, and on the order of the epochs:
whether the samples of the clean component are hard to forget, and whether those that were misclassified in most epochs
stay so until the end.
"""

import numpy as np

from mild_core.forgetting import FORGETTING_LIMIT, MIN_EPOCHS, Forgetting
from mild_core.mixture.mixture import Mixture
from mild_core.mixture.weibull import FAMILIES, Floats
from mild_core.proportions import bound_share
from mild_core.threshold import compute_expected_f1
from mild_core.types import Verdict

MIN_BINS = MIN_EPOCHS + 1
MIN_SAMPLES = 50
MIN_DISTINCT = 4
"""Bins, scored samples and distinct scores that a fit needs."""

SEPARABLE_DISTANCE = 3.0
SEPARABLE_MEMORISATION = 0.36
"""A fit is separable if the distance of its components, in standard deviations, is at least, the late memorisation of
the samples that were misclassified in most epochs at most these, and the forgetting of its clean samples is below
`FORGETTING_LIMIT`. Above that memorisation, mislabelled samples may be memorised, and the first quarter of the epochs
is judged too."""

SINGLE_WEIGHT = 0.04
SINGLE_CLEAN_MEAN = 0.6
SINGLE_F1_GAIN = 0.1
"""All samples are one population if a component weighs less, if the clean mean of components that are not
`SEPARABLE_DISTANCE` apart lies at a larger share of the epochs, or if a cut is expected to gain less F1 although the
late memorisation is above `SEPARABLE_MEMORISATION`."""

MIN_PLANTED = 10
"""Fewest planted samples that give a bound of the noise rate."""


def check_sufficiency(counts: Floats) -> tuple[bool, tuple[str, ...]]:
    """Check whether a histogram has enough data for a fit.

    Parameters
    ----------
    counts
        Histogram of the scored samples, shape (n_bins,).

    Returns
    -------
    is_sufficient
        Whether a fit is possible.
    reasons
        One sentence for every lack of data; empty if the data are sufficient.
    """
    checks = (
        (counts.size, MIN_BINS, "bins; record more epochs"),
        (int(counts.sum()), MIN_SAMPLES, "scored samples"),
        (int(np.count_nonzero(counts)), MIN_DISTINCT, "distinct scores"),
    )
    reasons = tuple(f"{n} {what}, a fit needs at least {limit}" for n, limit, what in checks if n < limit)
    return not reasons, reasons


def judge_fit(
    mixture: Mixture,
    forgetting: Forgetting,
    memorisation: float | None = None,
    planted_counts: Floats | None = None,
) -> tuple[Verdict, tuple[str, ...]]:
    """Judge whether a fit separates clean from mislabelled samples, and give the reasons in numbers.

    Parameters
    ----------
    mixture
        The fit.
    forgetting
        Forgetting of the likely clean samples (`sum_forgetting`).
    memorisation
        Late memorisation of the samples that were misclassified in most epochs (`count_late_memorisation`); None if
        it is unknown.
    planted_counts
        Shape (2, n_bins), histograms of the other and of the planted samples of the round in which they are planted;
        None if there are none.

    Returns
    -------
    verdict
        ``separable`` if the components are far apart, clean samples are hard to forget, and samples that were
        misclassified in most epochs are still misclassified at the end. ``weak`` if one of these does not hold, but a
        cut is still better than none.
        ``unimodal`` if the samples may be one population, so that a cut would drop clean samples.
    reasons
        One sentence for every criterion, with the measured value and the limit.
    """
    top = max(mixture.masses.shape[1] - 1, 1)
    clean, noisy = mixture.means / top
    distance = measure_component_distance(mixture)
    reasons = [
        f"means at {clean:.2f} and {noisy:.2f} of the epochs, {distance:.1f} standard deviations apart (separable from "
        f"{SEPARABLE_DISTANCE:g})",
        _describe_forgetting(forgetting),
    ]
    is_separable = distance >= SEPARABLE_DISTANCE and forgetting.is_below(FORGETTING_LIMIT)
    is_memorised = memorisation is not None and memorisation > SEPARABLE_MEMORISATION
    if memorisation is not None:
        reasons.append(
            f"{memorisation:.0%} of the samples that were misclassified in most epochs are known in the last quarter "
            f"(separable up to {SEPARABLE_MEMORISATION:.0%})"
        )
    if mixture.open_top != FAMILIES[mixture.kind].tops[0]:
        reasons.append("counts pile up in the top bin: it stands for that many epochs or more")
    is_learnt = bool(clean <= SINGLE_CLEAN_MEAN or distance >= SEPARABLE_DISTANCE)
    is_separable = is_separable and not is_memorised
    is_alike = planted_counts is not None and _are_planted_alike(planted_counts, is_separable=is_separable)
    single_reason = _find_single_population(mixture, is_learnt=is_learnt, is_memorised=is_memorised, is_alike=is_alike)
    if single_reason is not None:
        return "unimodal", (*reasons, single_reason)
    return ("separable" if is_separable else "weak"), tuple(reasons)


def _describe_forgetting(forgetting: Forgetting) -> str:
    """Describe the forgetting of the likely clean samples."""
    limit = f"(separable below {FORGETTING_LIMIT:.0%})"
    if forgetting.share is None:
        return f"no clean sample was known in one epoch and observed in the next, so forgetting is unknown {limit}"
    text = f"{forgetting.share:.1%} of the clean samples that were known are forgotten in the next epoch {limit}"
    if forgetting.share < FORGETTING_LIMIT and not forgetting.is_below(FORGETTING_LIMIT):
        text += f", which {forgetting.n_memorised} observations do not show"
    return text


def _are_planted_alike(planted_counts: Floats, *, is_separable: bool) -> bool:
    """Return whether planted samples may be learnt as all others are, so that all labels may be wrong.

    A bound of 1 says so of a weak fit. Where most labels are wrong, a few planted samples give it by chance, so a
    separable fit is overruled only if the network has learnt most of the planted labels, too.
    """
    bound = bound_noise_rate(*planted_counts)
    if bound is None or bound < 1:
        return False
    planted = planted_counts[1]
    _, hard_share = bound_share(planted[(planted.size + 1) // 2 :].sum() / planted.sum(), int(planted.sum()))
    return not is_separable or bool(hard_share < 0.5)


def _find_single_population(mixture: Mixture, *, is_learnt: bool, is_memorised: bool, is_alike: bool) -> str | None:
    """Return why all samples may be one population, or None if the fit shows two populations."""
    smaller_weight = float(mixture.weights.min())
    f1 = compute_expected_f1(mixture)
    gain = float(f1.max() - f1[-1])
    checks = (
        (
            smaller_weight < SINGLE_WEIGHT,
            f"smaller component holds {smaller_weight:.3f} (two populations from {SINGLE_WEIGHT})",
        ),
        (not is_learnt, f"clean samples are not learnt (learnt up to a mean of {SINGLE_CLEAN_MEAN} of the epochs)"),
        (
            is_alike,
            "planted_bound_if_alike is 1: if wrong labels are learnt like planted ones, all labels may be wrong",
        ),
        (
            is_memorised and gain < SINGLE_F1_GAIN,
            f"a cut is expected to raise F1 by {gain:.3f} (two populations from {SINGLE_F1_GAIN})",
        ),
    )
    return next((text for applies, text in checks if applies), None)


def measure_component_distance(mixture: Mixture) -> float:
    """Measure the distance of the means of the two components, in standard deviations (their root mean square)."""
    bins = np.arange(mixture.masses.shape[1])
    variances = mixture.masses @ bins**2 - mixture.means**2
    spread = np.sqrt(max(float(variances.mean()), 1.0 / 12.0))
    return float((mixture.means[1] - mixture.means[0]) / spread)


def bound_noise_rate(counts: Floats, planted_counts: Floats) -> float | None:
    """Estimate an upper bound of the noise rate from planted samples.

    The confidence is about 95% if planted noise is like the other noise.

    Parameters
    ----------
    counts
        Shape (n_bins,), histogram of the samples that were trained with their own label.
    planted_counts
        Shape (n_bins,), histogram of the planted samples.

    Returns
    -------
    float | None
        In 0..1; None if there are fewer than `MIN_PLANTED` planted samples, or no other samples.

    Notes
    -----
    Planted samples are a sample of the noisy component. With a noise rate of ``w``, every upper tail of the histogram
    holds at least ``w`` times the share of the planted samples in that tail, so the smallest ratio of the two bounds
    ``w`` (mixture proportion estimation, Blanchard, Lee and Scott 2010). The planted share enters by the lower end of
    its Wilson interval of two standard errors: it is estimated from few samples, and the smallest of many ratios tends
    to be one whose share was overestimated.
    """
    n_samples, n_planted = counts.sum(), int(planted_counts.sum())
    if n_planted < MIN_PLANTED or n_samples == 0:
        return None
    tail, share = (np.cumsum(histogram[::-1])[::-1] / histogram.sum() for histogram in (counts, planted_counts))
    lower_share, _ = bound_share(share, n_planted)
    is_planted = lower_share > 0
    return float(np.min(tail[is_planted] / lower_share[is_planted], initial=1.0))
