"""Sweep of all cuts of a histogram: the number of samples that each cut keeps, and the quality of the kept set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mild_core.audit import Audit, Evaluation
from mild_core.estimate import read_estimates
from mild_core.results import BoundCurves, Curves, Estimate, Histogram, Selection
from mild_core.statistics import count_bins


@dataclass(frozen=True, slots=True)
class CutBounds:
    """Lower bounds of one cut by a random audit; those of all cuts hold at once."""

    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut of a histogram.

    Attributes
    ----------
    cut
        Last bin that is kept.
    value
        Largest metric that is kept.
    kept
        Number of samples kept.
    precision, recall
        Estimates by the fit; None if the fit does not identify them.
    measured
        Evaluation on an audit; None without an audit. Its `auc` is None, since the AUC does not depend on the cut.
    bounds
        Bounds by a random audit; None without one that is complete and may judge the order of the samples.
    """

    cut: int
    value: float
    kept: int
    precision: Estimate | None
    recall: Estimate | None
    measured: Evaluation | None
    bounds: CutBounds | None


def sweep_cuts(
    histogram: Histogram | None,
    curves: Curves | None,
    measured: Sequence[Evaluation] | None = None,
    by_mark: Sequence[Evaluation] | None = None,
    bounds: BoundCurves | None = None,
) -> tuple[Cut, ...]:
    """List all cuts of a selection's histogram, from the smallest set to the largest.

    At the cut of the selection, the number of samples and the estimates equal those of the selection.

    Parameters
    ----------
    histogram, curves
        `Selection.histogram` and `Selection.curves`; without a histogram the result is empty.
    measured
        Evaluation of every cut by `evaluate_cuts`; None without an audit.
    by_mark
        Evaluation of every cut on the samples that are kept or dropped by their mark, independent of the cut; None
        without such samples.
    bounds
        `Selection.bound_curves`.
    """
    if histogram is None:
        return ()
    n_kept = np.cumsum(histogram.counts)
    if by_mark is not None:
        n_kept += [evaluation.clean - evaluation.kept for evaluation in by_mark]
    return tuple(
        Cut(
            cut=cut,
            value=histogram.origin + histogram.width * cut,
            kept=int(n_kept[cut]),
            **_read_precision_and_recall(curves, cut),
            measured=None if measured is None else measured[cut],
            bounds=None if bounds is None else CutBounds(float(bounds.precision[cut]), float(bounds.recall[cut])),
        )
        for cut in range(n_kept.size)
    )


def evaluate_cuts(selection: Selection, audit: Audit) -> list[Evaluation] | None:
    """Evaluate every cut of a selection on an audit; None if there is no histogram or no checked sample."""
    if selection.histogram is None or not audit.n_known:
        return None
    n_bins = selection.histogram.counts.size
    kept, kept_clean = (
        np.cumsum(count_bins(selection.bins, n_bins, samples)) for samples in (audit.known, audit.clean)
    )
    return [
        Evaluation(known=audit.n_known, clean=audit.n_clean, kept=int(n_kept), kept_clean=int(n_clean), auc=None)
        for n_kept, n_clean in zip(kept, kept_clean, strict=True)
    ]


def _read_precision_and_recall(curves: Curves | None, cut: int) -> dict[str, Estimate | None]:
    """Return the estimates of precision and recall of one cut; None for both without curves."""
    estimates = {} if curves is None else read_estimates(curves, cut)
    return {name: estimates.get(name) for name in ("precision", "recall")}
