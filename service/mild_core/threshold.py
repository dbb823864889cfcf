"""Rules that turn a fitted mixture into one cut: bins ``0..cut`` are kept, ties together."""

from typing import Literal

import numpy as np

from mild_core.mixture.mixture import Mixture
from mild_core.mixture.weibull import Floats
from mild_core.types import SelectionOptions


def bayes_cut(mixture: Mixture, cost_ratio: float = 1.0) -> int:
    """The cut with the smallest expected cost; -1 keeps nobody.

    Misfiling costs ``cost_ratio`` for a mislabelled sample that is kept and 1 for a clean one that is dropped. Scanning
    all cuts, unlike comparing posteriors bin by bin from the top, is not fooled by a clean tail that wins in the last
    bin alone.
    """
    clean, noisy = mixture.densities
    kept_noisy = np.concatenate(([0.0], np.cumsum(noisy)))
    kept_clean = np.concatenate(([0.0], np.cumsum(clean)))
    cost = cost_ratio * kept_noisy + (kept_clean[-1] - kept_clean)
    return int(np.argmin(cost)) - 1


def expected_f1(mixture: Mixture) -> Floats:
    """Expected F1 score of the clean samples where bins ``0..t`` are kept, for every ``t``, shape (n_bins,)."""
    clean, noisy = np.cumsum(mixture.densities, axis=1)
    f1: Floats = 2 * clean / (clean + noisy + mixture.weights[0])
    return f1


def f1_cut(mixture: Mixture) -> int:
    """The cut with the largest expected F1 score of the clean samples.

    Where clean samples are few, counting misfiled ones would give most of them up to keep the set pure.
    """
    return int(np.argmax(expected_f1(mixture)))


def target_cut(mixture: Mixture, rule: Literal["precision", "recall"], target: float) -> int:
    """The largest set of at least that precision, or the smallest of at least that recall; -1: no set is.

    Tail probabilities that only underflow would reach are not asked for: targets are met to within 1e-9.
    """
    clean, noisy = np.cumsum(mixture.densities, axis=1)
    if rule == "precision":
        reached = np.flatnonzero(clean >= (target - 1e-9) * (clean + noisy))
        return int(reached[-1]) if reached.size else -1
    return int(np.flatnonzero(clean >= (target - 1e-9) * clean[-1])[0])


def posterior_cut(mixture: Mixture, p: float) -> int:
    """The largest cut up to which every noisy posterior is at most `p`; -1 if the first bin exceeds it."""
    above = np.flatnonzero(mixture.noisy_posterior() > p)
    return int(above[0]) - 1 if above.size else mixture.masses.shape[1] - 1


def scale_cut(mixture: Mixture) -> int:
    """Keep counts up to the scale of the noisy component ("alpha 2" of arXiv 2306.11560)."""
    return int(min(np.floor(mixture.scales[1]), mixture.masses.shape[1] - 1))


def fraction_cut(counts: Floats, fraction: float) -> int:
    """The largest cut that keeps at most `fraction` of the samples; -1 if the first bin alone holds more."""
    kept = np.cumsum(counts)
    return int(np.searchsorted(kept, fraction * kept[-1] * (1 + 1e-12), side="right")) - 1


def fitted_cut(mixture: Mixture, counts: Floats, options: SelectionOptions) -> int:
    """Cut by the option's rule, where the fit and not a number of the caller's makes it.

    Parameters
    ----------
    mixture, counts
        The fit and the histogram, shape (n_bins,).
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


def floored(cut: int, counts: Floats, min_keep: float) -> int:
    """Raise `cut` until at least the share `min_keep` of the samples is kept."""
    kept = np.concatenate(([0.0], np.cumsum(counts)))
    floor = int(np.searchsorted(kept, np.ceil(min_keep * kept[-1] - 1e-9), side="left")) - 1
    return max(cut, floor)
