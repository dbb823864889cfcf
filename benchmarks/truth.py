"""Measures of scores and sets against the truth: area under the curve, F1, and F1 of the best cut in hindsight."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_core import audit

Mask = NDArray[np.bool_]


def f1(kept: Mask, clean: Mask) -> float:
    """F1 of a kept set, with the clean samples as positives; 0 where nothing is kept and nothing is clean."""
    return float(2 * (kept & clean).sum() / max(kept.sum() + clean.sum(), 1))


def best_f1(suspicion: NDArray[Any], clean: Mask) -> float:
    """F1 of the best cut in hindsight, ties kept together."""
    cuts, where = np.unique(suspicion, return_inverse=True)
    n_kept = np.cumsum(np.bincount(where, minlength=cuts.size))
    n_kept_clean = np.cumsum(np.bincount(where, clean, minlength=cuts.size))
    return float(np.max(2 * n_kept_clean / np.maximum(n_kept + clean.sum(), 1)))


def auc(suspicion: NDArray[Any], clean: Mask) -> float:
    """Probability that a clean sample is less suspicious than a mislabelled one; 0.5, as by chance, without either."""
    value = audit.compute_auc(suspicion[clean], suspicion[~clean])
    return 0.5 if value is None else value


def measure_found_share(suspicion: NDArray[Any], clean: Mask) -> float | None:
    """Share of the wrong labels among as many most suspicious samples as there are wrong labels; ties in random order.

    None where no label is wrong.
    """
    n_wrong = int((~clean).sum())
    if not n_wrong:
        return None
    levels, where = np.unique(-suspicion, return_inverse=True)
    size = np.bincount(where, minlength=levels.size)
    wrong = np.bincount(where, ~clean, minlength=levels.size)
    before = np.cumsum(size) - size
    share_taken = np.clip(n_wrong - before, 0, size) / size
    return float((share_taken * wrong).sum() / n_wrong)
