"""Every cut that the histogram allows: what it would keep, and how good that would be."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.audit import Audit
from mild_core.evaluation import Evaluation
from mild_core.metrics import bins_of
from mild_core.types import Histogram, Selection


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut.

    Attributes
    ----------
    cut
        Last bin that is kept.
    value
        The same as a metric: samples with a metric up to it are kept.
    kept
        Samples kept.
    precision, recall
        As the fitted mixture implies; None where it says nothing that can be believed.
    measured
        As an audit says; None without one. Its `auc` is None: it belongs to the scores, not to a cut.
    """

    cut: int
    value: float
    kept: int
    precision: float | None
    recall: float | None
    measured: Evaluation | None


def sweep(selection: Selection, audit: Audit | None = None) -> tuple[Cut, ...]:
    """All cuts of a selection's histogram, from the one that keeps the fewest to the one that keeps everyone scored.

    At the selection's own cut, kept samples and estimates are the selection's own.

    Parameters
    ----------
    selection
        Its estimates are None where nothing was fitted, or where the verdict is that there is only one population.
    audit
        Of the same samples; None measures nothing.
    """
    histogram = selection.histogram
    if histogram is None:
        return ()
    kept = np.cumsum(histogram.counts)
    implied = _implied(selection)
    measured = None if audit is None else _measured(selection, histogram, audit)
    return tuple(
        Cut(
            cut=cut,
            value=histogram.origin + histogram.width * cut,
            kept=int(kept[cut]),
            precision=None if implied is None else float(implied[0, cut]),
            recall=None if implied is None else float(implied[1, cut]),
            measured=None if measured is None else measured[cut],
        )
        for cut in range(kept.size)
    )


def _implied(selection: Selection) -> NDArray[np.float64] | None:
    """Precision and recall at every cut as the fit implies, shape (2, n_bins)."""
    if selection.densities is None or selection.estimated["precision"] is None:
        return None
    clean, noisy = np.cumsum(selection.densities, axis=1)
    both = clean + noisy
    precision = np.divide(clean, both, out=np.ones_like(clean), where=both > 0)
    recall = np.divide(clean, clean[-1], out=np.ones_like(clean), where=clean[-1] > 0)
    return np.stack((precision, np.minimum(recall, 1.0)))


def _measured(selection: Selection, grid: Histogram, audit: Audit) -> list[Evaluation]:
    """What the audit says of every cut."""
    scored, n_bins = selection.scored, grid.counts.size
    bins = bins_of(selection.scores[scored], grid.origin, grid.width, n_bins)
    counts = [np.cumsum(np.bincount(bins[mask[scored]], minlength=n_bins)) for mask in audit.masks]
    return [
        Evaluation(known=audit.n_known, clean=audit.n_clean, kept=int(kept), kept_clean=int(kept_clean), auc=None)
        for kept, kept_clean in zip(*counts, strict=True)
    ]
