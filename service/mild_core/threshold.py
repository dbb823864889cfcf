"""Threshold rules: how a fitted mixture becomes one cut, where bins ``0..cut`` are kept (-1 keeps no sample)."""

from typing import Literal

import numpy as np

from mild_core.mixture.mixture import Mixture
from mild_core.mixture.weibull import Floats
from mild_core.types import SelectionOptions


def choose_cut(mixture: Mixture, counts: Floats, options: SelectionOptions) -> int:
    """Apply the rule of the options to a fit.

    Parameters
    ----------
    mixture, counts
        The fit and the histogram, shape (n_bins,).
    options
        The rule and its parameters; a `value` or a `fraction` in them is not used here.
    """
    match options.threshold:
        case "posterior":
            return posterior_cut(mixture, options.p)
        case "scale":
            return scale_cut(mixture)
        case "fraction":
            return fraction_cut(counts, float(mixture.weights[0]))
        case "precision" | "recall":
            return target_cut(mixture, options.threshold, 1.0 if options.target is None else options.target)
        case "bayes":
            return bayes_cut(mixture, options.cost_ratio)
        case _:
            return f1_cut(mixture)


def apply_min_keep(cut: int, counts: Floats, min_keep: float) -> int:
    """Raise `cut` until at least the share `min_keep` of the samples is kept."""
    n_kept = np.concatenate(([0.0], np.cumsum(counts)))
    lowest_cut = int(np.searchsorted(n_kept, np.ceil(min_keep * n_kept[-1] - 1e-9), side="left")) - 1
    return max(cut, lowest_cut)


def bayes_cut(mixture: Mixture, cost_ratio: float = 1.0) -> int:
    """Cut with the smallest expected cost: `cost_ratio` per mislabelled sample kept, 1 per clean sample dropped.

    All cuts are compared. A comparison of posteriors bin by bin from the top would stop where the tail of the clean
    component exceeds the noisy one in the last bin only.
    """
    clean, noisy = mixture.densities
    kept_noisy = np.concatenate(([0.0], np.cumsum(noisy)))
    kept_clean = np.concatenate(([0.0], np.cumsum(clean)))
    cost = cost_ratio * kept_noisy + (kept_clean[-1] - kept_clean)
    return int(np.argmin(cost)) - 1


def expected_f1(mixture: Mixture) -> Floats:
    """Expected F1 score of keeping bins ``0..cut`` as the clean samples, for every ``cut``, shape (n_bins,)."""
    clean, noisy = np.cumsum(mixture.densities, axis=1)
    f1: Floats = 2 * clean / (clean + noisy + mixture.weights[0])
    return f1


def f1_cut(mixture: Mixture) -> int:
    """Cut with the largest expected F1 score.

    Where clean samples are few, the smallest expected number of errors would drop most of them to keep the set pure.
    """
    return int(np.argmax(expected_f1(mixture)))


def target_cut(mixture: Mixture, rule: Literal["precision", "recall"], target: float) -> int:
    """Largest cut of at least that precision, or smallest cut of at least that recall; -1 if no cut has it.

    Targets are met to within 1e-9, so that tail probabilities close to underflow do not decide.
    """
    clean, noisy = np.cumsum(mixture.densities, axis=1)
    if rule == "precision":
        cuts = np.flatnonzero(clean >= (target - 1e-9) * (clean + noisy))
        return int(cuts[-1]) if cuts.size else -1
    return int(np.flatnonzero(clean >= (target - 1e-9) * clean[-1])[0])


def posterior_cut(mixture: Mixture, p: float) -> int:
    """Largest cut up to which every noisy posterior is at most `p`; -1 if the first bin exceeds it."""
    exceeding = np.flatnonzero(mixture.noisy_posterior() > p)
    return int(exceeding[0]) - 1 if exceeding.size else mixture.masses.shape[1] - 1


def scale_cut(mixture: Mixture) -> int:
    """Cut at the scale of the noisy component ("alpha 2" of arXiv 2306.11560)."""
    return int(min(np.floor(mixture.scales[1]), mixture.masses.shape[1] - 1))


def fraction_cut(counts: Floats, fraction: float) -> int:
    """Largest cut that keeps at most `fraction` of the samples; -1 if the first bin holds more."""
    n_kept = np.cumsum(counts)
    return int(np.searchsorted(n_kept, fraction * n_kept[-1] * (1 + 1e-12), side="right")) - 1
