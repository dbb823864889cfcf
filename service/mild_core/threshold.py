"""Threshold rules: where to cut a histogram of scores. A cut is the last bin that is kept; -1 keeps no bin."""

from typing import Literal

import numpy as np

from mild_core.mixture.mixture import Mixture
from mild_core.mixture.weibull import Floats
from mild_core.types import SelectionOptions


def choose_cut(mixture: Mixture, counts: Floats, options: SelectionOptions) -> int:
    """Choose the cut by the threshold rule of the options.

    Parameters
    ----------
    mixture
        The fit.
    counts
        Histogram of the scores that are cut, shape (n_bins,).
    options
        The rule `threshold` with its parameters. This function does not use the options `value` and `fraction`.

    Returns
    -------
    int
        Last bin that is kept; -1 if no bin is.
    """
    match options.threshold:
        case "posterior":
            return find_posterior_cut(mixture, options.p)
        case "scale":
            return find_scale_cut(mixture)
        case "fraction":
            return find_fraction_cut(counts, float(mixture.weights[0]))
        case "precision" | "recall":
            return find_target_cut(mixture, options.threshold, 1.0 if options.target is None else options.target)
        case "bayes":
            return find_bayes_cut(mixture, options.cost_ratio)
        case _:
            return find_f1_cut(mixture)


def apply_min_keep(cut: int, counts: Floats, min_keep: float) -> int:
    """Return the lowest cut from `cut` on that keeps at least the share `min_keep` of the samples.

    Parameters
    ----------
    cut
        Last bin that is kept; -1 for no bin.
    counts
        Histogram of the samples, shape (n_bins,).
    min_keep
        Smallest share of the samples to keep, in 0..1.
    """
    n_kept = np.concatenate(([0.0], np.cumsum(counts)))
    lowest_cut = int(np.searchsorted(n_kept, np.ceil(min_keep * n_kept[-1] - 1e-9), side="left")) - 1
    return max(cut, lowest_cut)


def find_bayes_cut(mixture: Mixture, cost_ratio: float = 1.0) -> int:
    """Find the cut with the smallest expected cost.

    The cost is `cost_ratio` for every mislabelled sample that is kept, and 1 for every clean sample that is dropped.

    All cuts are compared, since a comparison of posteriors bin by bin from the top would stop too early where the tail
    of the clean component exceeds the noisy component in the last bin only.
    """
    clean, noisy = mixture.densities
    kept_noisy = np.concatenate(([0.0], np.cumsum(noisy)))
    kept_clean = np.concatenate(([0.0], np.cumsum(clean)))
    cost = cost_ratio * kept_noisy + (kept_clean[-1] - kept_clean)
    return int(np.argmin(cost)) - 1


def compute_expected_f1(mixture: Mixture) -> Floats:
    """Compute the expected F1 score of every cut from 0 on, shape (n_bins,)."""
    clean, noisy = np.cumsum(mixture.densities, axis=1)
    f1: Floats = 2 * clean / (clean + noisy + mixture.weights[0])
    return f1


def find_f1_cut(mixture: Mixture) -> int:
    """Find the cut with the largest expected F1 score.

    The cut with the fewest expected errors is no alternative where clean samples are few: it drops most of them.
    """
    return int(np.argmax(compute_expected_f1(mixture)))


def find_target_cut(mixture: Mixture, rule: Literal["precision", "recall"], target: float) -> int:
    """Find the largest cut whose expected precision, or the smallest cut whose expected recall, is at least `target`.

    The tolerance is 1e-9, so that tail probabilities close to underflow do not decide.

    Parameters
    ----------
    mixture
        The fit.
    rule
        The quantity that is to reach `target`.
    target
        Precision or recall, in 0..1.

    Returns
    -------
    int
        Last bin that is kept; -1 if no cut reaches the target.
    """
    clean, noisy = np.cumsum(mixture.densities, axis=1)
    if rule == "precision":
        cuts = np.flatnonzero(clean >= (target - 1e-9) * (clean + noisy))
        return int(cuts[-1]) if cuts.size else -1
    return int(np.flatnonzero(clean >= (target - 1e-9) * clean[-1])[0])


def find_posterior_cut(mixture: Mixture, p: float) -> int:
    """Find the largest cut that keeps no bin with a noisy posterior above `p`; -1 if the first bin exceeds `p`."""
    exceeding = np.flatnonzero(mixture.compute_noisy_posterior() > p)
    return int(exceeding[0]) - 1 if exceeding.size else mixture.masses.shape[1] - 1


def find_scale_cut(mixture: Mixture) -> int:
    """Find the cut at the scale parameter of the noisy component ("alpha 2" of arXiv 2306.11560)."""
    return int(min(np.floor(mixture.scales[1]), mixture.masses.shape[1] - 1))


def find_fraction_cut(counts: Floats, fraction: float) -> int:
    """Find the largest cut that keeps at most the share `fraction` of the samples; -1 if the first bin holds more.

    Parameters
    ----------
    counts
        Histogram of the samples, shape (n_bins,).
    fraction
        Largest share of the samples to keep, in 0..1.
    """
    n_kept = np.cumsum(counts)
    return int(np.searchsorted(n_kept, fraction * n_kept[-1] * (1 + 1e-12), side="right")) - 1
