"""Sweep of all cuts of a histogram: the number of samples that each cut keeps, and the quality of the kept set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mild_core.audit import Audit, Evaluation
from mild_core.fields import declare_field, describe_field
from mild_core.results import BoundCurves, CutMeasured, Selection
from mild_core.statistics import count_bins


@dataclass(frozen=True, slots=True)
class CutEstimates:
    """Quality of a cut by the fitted mixture, with 90% intervals; null where the mixture is not identified."""

    precision: float | None = declare_field(None, "Share of the kept that are clean.")
    precision_low: float | None = declare_field(None, "Lower end of its interval.")
    precision_high: float | None = declare_field(None, "Upper end of its interval.")
    recall: float | None = declare_field(None, "Share of the clean that are kept.")
    recall_low: float | None = declare_field(None, "Lower end of its interval.")
    recall_high: float | None = declare_field(None, "Upper end of its interval.")


@dataclass(frozen=True, slots=True)
class CutBounds:
    """Lower bounds of a cut by a random audit, at 95% each; those of all cuts hold at once."""

    precision: float = describe_field("Of the share of the kept that are clean.")
    recall: float = describe_field("Of the share of the clean that are kept.")


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut. It keeps the samples whose metric is at most `value`."""

    cut: int = describe_field("Last bin that is kept.")
    value: float = describe_field("Largest metric that is kept.")
    num_kept: int = describe_field("Samples kept.")
    fitted: CutEstimates = describe_field("Estimates by the fit.")
    measured: CutMeasured | None = describe_field("Null without an audit.")
    bounds: CutBounds | None = describe_field(
        "Null without a complete draw, or where its answers may have chosen the order of the samples."
    )


def sweep_cuts(
    fit: Mapping[str, Any],
    measured: Sequence[Evaluation] | None = None,
    by_mark: Sequence[Evaluation] | None = None,
    bounds: BoundCurves | None = None,
) -> list[Cut]:
    """List all cuts of a selection's histogram, from the smallest set to the largest.

    At the cut of the selection, the number of samples and the estimates equal those of the selection.

    Parameters
    ----------
    fit
        `serialize_fit` of the selection, with arrays or as JSON values; without a histogram the result is empty.
    measured
        Evaluation of every cut by `evaluate_cuts`; None without an audit.
    by_mark
        Evaluation of every cut on the samples that are kept or dropped by their mark, independent of the cut; None
        without such samples.
    bounds
        `Selection.bound_curves`.
    """
    histogram, curves = fit["histogram"], fit["curves"]
    if histogram is None:
        return []
    n_kept = np.cumsum(histogram["counts"])
    if by_mark is not None:
        n_kept += [evaluation.n_clean - evaluation.n_kept for evaluation in by_mark]
    estimates = [CutEstimates()] * n_kept.size
    if curves is not None:  # column j + 1 belongs to the cut j; row 0 is the noise rate
        rows = [np.array(curves[part])[row, 1:] for row in (1, 2) for part in ("value", "low", "high")]
        estimates = [CutEstimates(*numbers) for numbers in np.stack(rows, axis=1).tolist()]
    qualities = None if measured is None else [CutMeasured(each.precision, each.recall, each.f1) for each in measured]
    return [
        Cut(
            cut=cut,
            value=histogram["origin"] + histogram["width"] * cut,
            num_kept=int(n_kept[cut]),
            fitted=estimates[cut],
            measured=None if qualities is None else qualities[cut],
            bounds=None if bounds is None else CutBounds(float(bounds.precision[cut]), float(bounds.recall[cut])),
        )
        for cut in range(n_kept.size)
    ]


def evaluate_cuts(selection: Selection, audit: Audit) -> list[Evaluation] | None:
    """Evaluate every cut of a selection on an audit; None if there is no histogram or no checked sample."""
    if selection.histogram is None or not audit.n_checked:
        return None
    n_bins = selection.histogram.counts.size
    n_kept, n_kept_clean = (
        np.cumsum(count_bins(selection.bins, n_bins, samples)) for samples in (audit.checked, audit.clean)
    )
    return [
        Evaluation(audit.n_checked, audit.n_clean, int(n_of_cut), int(n_clean_of_cut), auc=None)
        for n_of_cut, n_clean_of_cut in zip(n_kept, n_kept_clean, strict=True)
    ]
