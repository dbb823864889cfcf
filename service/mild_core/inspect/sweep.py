"""Every cut that the histogram allows: what it would keep, and how good that would be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mild_core.audit import Audit, Evaluation
from mild_core.estimate import estimates
from mild_core.results import Curves, Estimate, Histogram, Selection
from mild_core.scores import bins_of


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
    precision: Estimate | None
    recall: Estimate | None
    measured: Evaluation | None


def sweep(
    histogram: Histogram | None,
    curves: Curves | None,
    measured: Sequence[Evaluation] | None = None,
    by_mark: bool = False,
) -> tuple[Cut, ...]:
    """All cuts of a selection's histogram, from the one that keeps the fewest to the one that keeps everyone scored.

    At the selection's own cut, kept samples and estimates are the selection's own.

    Parameters
    ----------
    histogram, curves
        The selection's.
    measured
        What `measure` says of the same selection; None measures nothing.
    by_mark
        Whoever was checked is kept by their mark, whatever the cut: the audit is used to fit.
    """
    if histogram is None:
        return ()
    kept = np.cumsum(histogram.counts)
    if by_mark and measured is not None:
        kept += [checked.clean - checked.kept for checked in measured]
    return tuple(
        Cut(
            cut=cut,
            value=histogram.origin + histogram.width * cut,
            kept=int(kept[cut]),
            **_implied(curves, cut),
            measured=None if measured is None else measured[cut],
        )
        for cut in range(kept.size)
    )


def _implied(curves: Curves | None, cut: int) -> dict[str, Estimate | None]:
    found = {} if curves is None else estimates(curves, cut)
    return {name: found.get(name) for name in ("precision", "recall")}


def measure(selection: Selection, audit: Audit) -> list[Evaluation] | None:
    """What an audit of the same samples says of every cut; None where there is no histogram to cut, or no mark."""
    histogram, scored = selection.histogram, selection.scored
    if histogram is None or not audit.n_known:
        return None
    n_bins = histogram.counts.size
    bins = bins_of(selection.scores[scored], histogram.origin, histogram.width, n_bins)
    counts = [np.cumsum(np.bincount(bins[mask[scored]], minlength=n_bins)) for mask in audit.masks]
    return [
        Evaluation(known=audit.n_known, clean=audit.n_clean, kept=int(kept), kept_clean=int(kept_clean), auc=None)
        for kept, kept_clean in zip(*counts, strict=True)
    ]
