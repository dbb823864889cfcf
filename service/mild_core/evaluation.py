"""A clean set and its scores against an audit. Only checked samples count; what they do not define is None."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.bitmap import Bitmap


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a set is on the checked samples.

    Attributes
    ----------
    known, clean
        Checked samples, and those among them whose label is true.
    kept, kept_clean
        Checked samples in the set, and those among them whose label is true.
    auc
        Probability that a clean sample has a lower score than a mislabelled one, ties counted half, among the checked
        samples that have a score; None without one of each.
    """

    known: int
    clean: int
    kept: int
    kept_clean: int
    auc: float | None

    @property
    def precision(self) -> float | None:
        """Share of the kept that are clean; None if nobody checked was kept."""
        return self.kept_clean / self.kept if self.kept else None

    @property
    def recall(self) -> float | None:
        """Share of the clean that are kept; None if nobody checked is clean."""
        return self.kept_clean / self.clean if self.clean else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None if nobody checked is kept or clean."""
        either = self.kept + self.clean
        return 2 * self.kept_clean / either if either else None

    def measured(self) -> dict[str, float | int | None]:
        """The figures as JSON values, with the number of samples that they rest on."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "auc": self.auc,
            "known": self.known,
        }


def evaluate(selected: Bitmap, scores: NDArray[np.floating] | None, audit: Audit) -> Evaluation:
    """Judge a clean set by an audit.

    Parameters
    ----------
    selected
        Shape (n_bytes,), the kept samples.
    scores
        Shape (n_samples,), low is clean; NaN where a sample has none. None leaves the AUC out.
    audit
        Of the same samples.
    """
    return Evaluation(
        known=audit.n_known,
        clean=audit.n_clean,
        kept=bitmap.popcount(selected & audit.known),
        kept_clean=bitmap.popcount(selected & audit.clean),
        auc=None if scores is None else _auc(scores, audit),
    )


def _auc(scores: NDArray[np.floating], audit: Audit) -> float | None:
    known, clean = audit.masks
    scored = ~np.isnan(scores)
    return auc(scores[scored & clean], scores[scored & known & ~clean])


def auc(clean: NDArray[np.floating], noisy: NDArray[np.floating]) -> float | None:
    """Probability that one of `clean` is lower than one of `noisy`, ties counted half; None if either is empty."""
    if not clean.size or not noisy.size:
        return None
    ordered = np.sort(noisy)
    at_most = np.searchsorted(ordered, clean, side="right")
    below = np.searchsorted(ordered, clean, side="left")
    return float(1.0 - (at_most + below).mean() / (2 * noisy.size))
