"""What a selection says: the clean set, what it was read off, and what may be believed of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import Rule, SelectionOptions, Verdict


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity with a 90% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Estimates of every cut.

    Attributes
    ----------
    value, low, high
        Shape (3, n_bins + 1), float64: noise rate, precision and recall, each with its 90% interval, where bins
        ``0..position - 1`` are kept.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Component:
    """One Weibull component, on the scale of the fit's bins (0..n_bins-1); `mean` is its mean within them."""

    weight: float
    scale: float
    shape: float
    mean: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """The cut that was made: samples with metric <= `value` are kept.

    `cut` is the same cut in bins of the fit's histogram (-1: nobody, None: no histogram was fitted).
    """

    rule: Rule
    value: float | None
    cut: int | None


@dataclass(frozen=True, slots=True)
class ClassCut:
    """What became of one class, where classes have a say.

    Attributes
    ----------
    label
        The class.
    scored, kept
        Its samples that were judged, and those among them that are kept.
    cut
        Last bin that is kept; -1: nobody, None: no histogram was fitted.
    noise_rate
        Of the class's own fit; None without one, or where the verdict is not ``separable``.
    floored
        Whether the floor of the class keeps samples that the rule would have dropped.
    """

    label: int
    scored: int
    kept: int
    cut: int | None
    noise_rate: float | None
    floored: bool


@dataclass(frozen=True, slots=True)
class Histogram:
    """Scores as the fit saw them: bin ``j`` covers metric ``origin + width * j``."""

    origin: float
    width: float
    counts: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MemberOverlap:
    """How far a set overlaps with the members of its round, among the scored samples.

    Attributes
    ----------
    agreement
        Share of the judged samples that are both kept and members, or neither.
    by_chance
        The same share where being kept had nothing to do with being a member.
    """

    agreement: float
    by_chance: float


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The clean set of one round, and what may be believed of it.

    Attributes
    ----------
    options
        Resolved options.
    n_samples
        Samples of the run.
    bitmap
        Shape (n_bytes,), the kept samples.
    by_cut
        Shape (n_bytes,), those that the cut keeps: the same, but for checked samples that follow their mark.
    scores
        Shape (n_samples,), the metric; NaN where a sample was never observed.
    scored
        Shape (n_samples,), who was seen often enough to be judged: the others are never kept.
    noisy_posterior
        Shape (n_samples,), probability of being mislabelled under the fit; NaN where there is none.
    threshold, components, verdict, reasons
        The cut, the fitted components (clean first; empty when nothing was fitted), and what may be believed.
    estimated
        ``noise_rate``, ``precision``, ``recall``: an Estimate each, or None where not identified.
    epochs
        Epochs that counted.
    early
        Whether these are the first quarter of every round, since mislabelled samples are memorised late.
    unobserved
        Samples seen in under half of the epochs in which they should have been; never kept, always reported.
    planted
        Samples whose own label was never judged, since it was broken on purpose; never kept, always reported.
    histogram, densities
        What was fitted: the histogram, and the two weighted components' expected counts, shape (2, n_bins); or None.
    curves
        The same estimates for every cut; None where they are not identified, or where classes have cuts of their own.
    classes
        Every class by its label, where the options let classes have a say; else empty.
    member_overlap
        Overlap with the members of the last round; None where all or none of the scored samples are members.
    """

    options: SelectionOptions
    n_samples: int
    bitmap: Bitmap
    by_cut: Bitmap
    scores: NDArray[np.float32]
    scored: NDArray[np.bool_]
    noisy_posterior: NDArray[np.float32]
    threshold: Threshold
    components: tuple[Component, ...]
    verdict: Verdict
    reasons: tuple[str, ...]
    estimated: Mapping[str, Estimate | None]
    epochs: int
    early: bool
    unobserved: int
    planted: int
    histogram: Histogram | None
    densities: NDArray[np.float64] | None
    curves: Curves | None = None
    classes: tuple[ClassCut, ...] = ()
    member_overlap: MemberOverlap | None = None

    @property
    def measurable(self) -> Bitmap:
        """The set to hold against an audit, shape (n_bytes,): where checked samples follow their mark, the cut's."""
        return self.by_cut if self.options.audit == "fit" else self.bitmap

    @property
    def n_selected(self) -> int:
        """Samples kept."""
        return bitmap.popcount(self.bitmap)

    @property
    def indices(self) -> NDArray[np.int64]:
        """Sorted indices of the kept samples."""
        return bitmap.to_indices(self.bitmap, self.n_samples)

    def summary(self) -> dict[str, Any]:
        """Everything but the per-sample arrays, as JSON values, in the wire's names."""
        return {
            "num_samples": self.n_samples,
            "num_selected": self.n_selected,
            "metric": self.options.metric,
            "fit": self.options.fit,
            "evidence": self.options.evidence,
            "threshold": {
                "rule": self.threshold.rule,
                "value": self.threshold.value,
                "cut": self.threshold.cut,
            },
            "components": [
                {"weight": c.weight, "scale": c.scale, "shape": c.shape, "mean": c.mean} for c in self.components
            ],
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "estimated": {
                name: None if e is None else {"value": e.value, "low": e.low, "high": e.high}
                for name, e in self.estimated.items()
            },
            "epochs": self.epochs,
            "unobserved": self.unobserved,
            "planted": self.planted,
            "member_overlap": None if self.member_overlap is None else asdict(self.member_overlap),
            **({"classes": [asdict(found) for found in self.classes]} if self.options.by_class else {}),
        }
