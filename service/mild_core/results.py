"""Result of a selection: the clean set, the cut and the fit behind it, and the estimates of its quality."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.fields import declare_field, describe_field
from mild_core.types import Evidence, Fit, Metric, Rule, SelectionOptions, Verdict

if TYPE_CHECKING:
    from mild_core.sample_scores import SampleScores


def is_identified(verdict: str) -> bool:
    """Return whether a fit with this verdict identifies shares of labels, and probabilities of samples."""
    return verdict == "separable"


def to_optional_float(value: float | np.floating) -> float | None:
    """Return a score or a posterior as a JSON value: None for NaN."""
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity with a 90% interval."""

    value: float = describe_field("The estimate.")
    low: float = describe_field("Lower end of the interval.")
    high: float = describe_field("Upper end of the interval.")


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Estimates of noise rate, precision and recall for every cut of a histogram.

    Attributes
    ----------
    value, low, high
        Shape (3, n_bins + 1) each: the estimates, and the ends of their 90% intervals. Row 0 is the noise rate, row 1
        the precision and row 2 the recall; column ``j`` belongs to the cut ``j - 1``.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Component:
    """One Weibull component, on the scale of the fit's bins (0..n_bins-1)."""

    weight: float = describe_field("Share of the samples.")
    scale: float = describe_field("Scale parameter, in bins.")
    shape: float = describe_field("Shape parameter.")
    mean: float = describe_field("Mean within the bins.")


@dataclass(frozen=True, slots=True)
class Threshold:
    """The cut: samples with metric <= `value` are kept."""

    rule: Rule = describe_field("The rule that made the cut.")
    value: float | None = describe_field("Largest metric that is kept.")
    cut: int | None = describe_field(
        "The same as the last bin that is kept; -1: no bin, null: no histogram was fitted."
    )


@dataclass(frozen=True, slots=True)
class ClassCut:
    """Selection within one class, where the options ask for it."""

    label: int = describe_field("The class.")
    scored: int = describe_field("Its samples that were judged.")
    kept: int = describe_field("The kept samples among them.")
    cut: int | None = describe_field("Last bin that is kept; -1: no bin, null: no histogram was fitted.")
    noise_rate: float | None = describe_field(
        "Of the class's own fit; null without one, or where the verdict is not `separable`."
    )
    floored: bool = describe_field("The floor keeps samples that the rule would have dropped.")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Histogram of the scores, as it was fitted.

    Attributes
    ----------
    origin, width
        Bin ``j`` holds the scores in ``(origin + width * (j - 1), origin + width * j]``.
    counts
        Shape (n_bins,), number of scored samples in every bin.
    """

    origin: float
    width: float
    counts: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MemberOverlap:
    """Overlap of a set with the members of its round."""

    agreement: float = describe_field("Share of the judged samples that are both kept and members, or neither.")
    by_chance: float = describe_field("The same share where being kept had nothing to do with being a member.")


@dataclass(frozen=True, slots=True)
class CutMeasured:
    """Quality of a cut by the audit; a quantity that is not defined is null."""

    precision: float | None = describe_field("Share of the kept that are clean.")
    recall: float | None = describe_field("Share of the clean that are kept.")
    f1: float | None = describe_field("Harmonic mean of the two.")


@dataclass(frozen=True, slots=True)
class Measured(CutMeasured):
    """Quality of a set on the audited samples; a quantity that is not defined is null."""

    auc: float | None = describe_field(
        "Probability that a clean sample scores lower than a mislabelled one, ties counted half."
    )
    known: int = describe_field("Audited samples, on which all of this rests.")
    basis: str = describe_field("Whether these samples were chosen by somebody or drawn at random, in words.")


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a random audit says of a set, whatever the noise, the network and the scores."""

    alpha: float | None = describe_field("The share that was asked for; null for another rule than `fdr`.")
    drawn: int = describe_field("Judged samples that were drawn at random and checked.")
    kept_of_drawn: int = describe_field("The drawn samples that the cut keeps.")
    wrong_of_drawn: int = describe_field("The kept ones among them whose label is wrong.")
    upper: float | None = describe_field(
        "90% upper bound of the share of wrong labels among the kept samples that were not drawn; null where the "
        "audit has changed the scores."
    )
    holds: bool = describe_field("Whether the promise of the rule holds; false where it makes none.")
    reason: str = describe_field("The promise, or why there is none, in one sentence.")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a random audit bounds, whatever the noise; all of it holds for every cut at once."""

    noise_rate: Estimate = describe_field(
        "Wrong labels among the judged samples: share of the drawn, with an exact 90% interval."
    )
    precision: float = describe_field("Lower bound of the share of the kept that are clean, at 95%.")
    recall: float = describe_field(
        "Lower bound of the share of the clean that are kept; at 90% together with `precision`."
    )
    basis: str = describe_field("What these bounds rest on, in words.")


@dataclass(frozen=True, slots=True, eq=False)
class BoundCurves:
    """Lower bounds of every cut.

    Attributes
    ----------
    precision, recall
        Shape (n_bins,), where bins ``0..position`` are kept.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """A selection without its arrays, as it is returned in JSON."""

    num_samples: int = describe_field("Samples of the run.")
    num_selected: int = describe_field("Samples kept.")
    metric: Metric = describe_field("Per-sample score; low is clean.")
    fit: Fit = describe_field("How the mixture was fitted.")
    evidence: Evidence = describe_field("Rounds that counted.")
    threshold: Threshold = describe_field("The cut.")
    components: list[Component] = describe_field("Clean first; empty where nothing was fitted.")
    verdict: Verdict = describe_field("What was done, and why, is in `reasons`.")
    reasons: list[str] = describe_field("One sentence each.")
    fitted: Mapping[str, Estimate | None] = describe_field(
        "`noise_rate`, `precision`, `recall` under the fit; null where they are not identified."
    )
    epochs: int = describe_field("Epochs that counted.")
    unobserved: int = describe_field(
        "Samples seen in under half of the epochs in which they should have been; never kept."
    )
    planted: int = describe_field(
        "Samples whose own label was never judged, since it was broken on purpose; never kept."
    )
    member_overlap: MemberOverlap | None = declare_field(
        None, "How far the set overlaps with the members of its round; null where every sample is a member."
    )
    guarantee: Guarantee | None = declare_field(
        None, "What a random audit says of the set; null without one that is complete."
    )
    bounds: Bounds | None = declare_field(
        None, "Bounds by a random audit; null without one that is complete, or where it has changed the scores."
    )
    classes: list[ClassCut] | None = declare_field(
        None, "With `per_class` or `min_keep_class`: every class, by its label."
    )


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The clean set after one or more rounds, with the cut, the fit, the verdict and the estimates of quality.

    Attributes
    ----------
    options
        Options of the selection, validated.
    n_samples
        Number of samples of the run.
    bitmap
        Shape (n_bytes,), the kept samples.
    cut_bitmap
        Shape (n_bytes,), the samples that the cut keeps. Differs from `bitmap` where audited samples are kept or
        dropped by their mark (option ``audit="fit"``).
    bins
        Shape (n_samples,), bin of every sample in the histogram; the largest number of the type for one that is not
        scored.
    details
        The scores of the samples, which are computed when they are asked for.
    threshold
        The cut.
    components
        The fitted components, clean first; empty if nothing was fitted.
    verdict, reasons
        Whether the fit separates clean from mislabelled samples, and why, one sentence each.
    fitted
        Estimates of ``noise_rate``, ``precision`` and ``recall``; None for a quantity that the fit does not identify.
    epochs
        Number of epochs of the rounds that counted.
    early
        How often every round was cut to its first quarter, since mislabelled samples are memorised late; 0 if all
        epochs counted.
    unobserved
        Number of samples that were observed in less than half of their expected epochs; these are never kept.
    planted
        Number of samples that are not judged because their label was changed on purpose in every round that observed
        them; these are never kept.
    histogram
        Histogram of the scores.
    densities
        Shape (2, n_bins), expected counts of the clean and of the noisy component; None if nothing was fitted.
    curves
        Estimates for every cut; None if the fit does not identify them, or classes have cuts of their own.
    classes
        Cut and counts of every class by ascending label; empty unless the options ask for classes.
    member_overlap
        Overlap with the members of the last round; None if all or none of the scored samples are members.
    guarantee, bounds
        What a complete random audit says of the set; None without one.
    bound_curves
        Bounds of precision and recall for every cut; None without `bounds`, or if classes have cuts of their own.
    follows_marks
        Whether checked samples (with ``audit="fit"``), or drawn ones (if the draw made the cut), are kept or dropped by
        their mark.
    """

    options: SelectionOptions
    n_samples: int
    bitmap: Bitmap
    cut_bitmap: Bitmap
    bins: NDArray[np.unsignedinteger]
    details: "SampleScores"
    threshold: Threshold
    components: tuple[Component, ...]
    verdict: Verdict
    reasons: tuple[str, ...]
    fitted: Mapping[str, Estimate | None]
    epochs: int
    early: int
    unobserved: int
    planted: int
    histogram: Histogram | None
    densities: NDArray[np.float64] | None
    curves: Curves | None = None
    classes: tuple[ClassCut, ...] = ()
    member_overlap: MemberOverlap | None = None
    guarantee: Guarantee | None = None
    bounds: Bounds | None = None
    bound_curves: BoundCurves | None = None
    follows_marks: bool = False

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Samples that were observed often enough to be judged, shape (n_samples,); the others are never kept."""
        scored: NDArray[np.bool_] = self.bins < np.iinfo(self.bins.dtype).max
        return scored

    @property
    def scores(self) -> NDArray[np.float32]:
        """The metric, shape (n_samples,); NaN where a sample was never observed."""
        return self.details.values

    @property
    def noisy_posterior(self) -> NDArray[np.float32]:
        """Probability of being mislabelled under the fit, shape (n_samples,).

        NaN for a sample that is not scored, and for all samples if nothing was fitted.
        """
        return self.details.noisy_posterior

    @property
    def audited_bitmap(self) -> Bitmap:
        """The set to evaluate on an audit, shape (n_bytes,): `cut_bitmap` where marks are followed, else `bitmap`."""
        return self.cut_bitmap if self.follows_marks else self.bitmap

    @property
    def identified_posterior(self) -> NDArray[np.float32]:
        """Shape (n_samples,), `noisy_posterior` as far as the fit identifies it: NaN where `is_identified` is false."""
        return self.noisy_posterior if is_identified(self.verdict) else np.full_like(self.noisy_posterior, np.nan)

    @property
    def n_selected(self) -> int:
        """Number of kept samples."""
        return bitmap.popcount(self.bitmap)

    @property
    def indices(self) -> NDArray[np.int64]:
        """Sorted indices of the kept samples."""
        return bitmap.to_indices(self.bitmap, self.n_samples)

    def __str__(self) -> str:
        """Return what is known of the set and the verdict in sentences, without figures of checked labels."""
        from mild_core.statements import describe_selection  # loads scipy, which results do not need

        return "\n".join(describe_selection(self.summary()))

    def summary(self) -> dict[str, Any]:
        """Return the `SelectionSummary` as JSON values, without ``classes`` unless the options ask for classes."""
        summary = SelectionSummary(
            num_samples=self.n_samples,
            num_selected=self.n_selected,
            metric=self.options.metric,
            fit=self.options.fit,
            evidence=self.options.evidence,
            threshold=self.threshold,
            components=list(self.components),
            verdict=self.verdict,
            reasons=list(self.reasons),
            fitted=dict(self.fitted),
            epochs=self.epochs,
            unobserved=self.unobserved,
            planted=self.planted,
            member_overlap=self.member_overlap,
            guarantee=self.guarantee,
            bounds=self.bounds,
            classes=list(self.classes) if self.options.needs_labels else None,
        )
        return {name: value for name, value in asdict(summary).items() if name != "classes" or value is not None}


def serialize_fit(selected: Selection) -> dict[str, Any]:
    """Return the fit of a selection by field, with arrays."""
    summary = selected.summary()
    return {
        "histogram": selected.histogram and asdict(selected.histogram),
        "densities": selected.densities,
        "curves": selected.curves and asdict(selected.curves),
        "early": selected.early,
        "levels": selected.details.levels,
        **{name: summary[name] for name in ("metric", "components", "threshold", "verdict", "reasons", "fitted")},
    }
