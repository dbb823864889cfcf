"""The frozen values that cross the wire and the boundaries between packages."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError, CorrectNotObservedError, ParameterError

Metric: TypeAlias = Literal["mild-simple", "mild", "forgetting", "first-learned"]
Fit: TypeAlias = Literal["anchored", "grouped", "censored", "density"]
Evidence: TypeAlias = Literal["pooled", "latest"]
Rule: TypeAlias = Literal["f1", "bayes", "posterior", "scale", "value", "fraction", "precision", "recall"]
Verdict: TypeAlias = Literal["separable", "weak", "unimodal", "insufficient"]
Observe: TypeAlias = Literal["all", "mixed", "members"]
Pass: TypeAlias = Literal["train", "eval"]
AuditUse: TypeAlias = Literal["measure", "fit"]


@dataclass(frozen=True, slots=True, eq=False)
class EpochBits:
    """One epoch's evidence, packed.

    Attributes
    ----------
    n_samples
        Samples of the run.
    correct
        Shape (n_bytes,). Bit set: the model predicted the sample's given label.
    observed
        Shape (n_bytes,), or None when everyone whom the run observes was seen.
    """

    n_samples: int
    correct: Bitmap
    observed: Bitmap | None = None

    @classmethod
    def from_body(cls, body: bytes, n_samples: int) -> Self:
        """Read an epoch body: one bitmap (correct), or two in a row (observed, correct).

        Raises
        ------
        BitmapLengthError
            If the body is neither one nor two bitmaps long.
        TrailingBitsError
            If a padding bit is set.
        CorrectNotObservedError
            If a sample is correct without being observed.
        """
        size = bitmap.n_bytes(n_samples)
        if len(body) not in (size, 2 * size):
            # Whoever reads a body may have stopped behind the last byte that could have been right.
            got = len(body) if len(body) <= 2 * size else f"more than {2 * size}"
            raise BitmapLengthError(
                f"an epoch body of {n_samples} samples takes {size} or {2 * size} bytes (correct; or observed, "
                f"then correct), got {got}; pack one bit per sample of the whole data set"
            )
        if len(body) == size:
            return cls(n_samples, bitmap.check(body, n_samples, "correct bitmap"))
        observed = bitmap.check(body[:size], n_samples, "observed bitmap")
        correct = bitmap.check(body[size:], n_samples, "correct bitmap")
        stray = correct & ~observed
        if stray.any():
            first = int(bitmap.to_indices(stray, n_samples)[0])
            raise CorrectNotObservedError(
                f"{bitmap.popcount(stray)} samples are correct but not observed, the first is sample {first}; "
                "send the observed bitmap first, then the correct one"
            )
        return cls(n_samples, correct, observed)

    def to_body(self) -> bytes:
        """Return the epoch body: observed (where given), then correct."""
        head = b"" if self.observed is None else self.observed.tobytes()
        return head + self.correct.tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class RoundBits:
    """One round's evidence, packed.

    Attributes
    ----------
    n_samples
        Samples of the run.
    correct
        Shape (n_epochs, n_bytes).
    observed
        Shape (n_epochs, n_bytes), or None when everyone was observed in every epoch.
    members
        Shape (n_bytes,), whom the model was trained on; None means everyone.
    expects
        Who should have been observed: everyone, or the members only.
    planted
        Shape (n_bytes,), whose label was broken on purpose in this round: their bits say how broken labels are learnt,
        and nothing of their own one. None: nobody's.
    """

    n_samples: int
    correct: Bitmap
    observed: Bitmap | None = None
    members: Bitmap | None = None
    expects: Literal["all", "members"] = "all"
    planted: Bitmap | None = None

    @classmethod
    def of(
        cls,
        n_samples: int,
        correct: Bitmap,
        observed: Bitmap | Sequence[Bitmap | None] | None,
        members: Bitmap | None,
        observe: Observe,
        planted: Bitmap | None = None,
    ) -> Self:
        """A round's evidence, where an epoch may leave it to `observe` who was observed.

        Parameters
        ----------
        n_samples
            Samples of the run.
        correct
            Shape (n_epochs, n_bytes).
        observed
            Shape (n_epochs, n_bytes), or per epoch a bitmap of shape (n_bytes,) or None: all whom the run observes were
            seen. None stands for None in every epoch.
        members
            Shape (n_bytes,), or None for everyone.
        observe
            ``members``: the run observes the round's members; else everyone.
        planted
            Shape (n_bytes,), whose label was broken on purpose in this round.
        """
        members_only = observe == "members"
        expected = members if members_only else None
        if not isinstance(observed, np.ndarray):
            given = [None] * len(correct) if observed is None else observed
            if expected is None and all(row is None for row in given):
                observed = None
            else:
                whole = bitmap.full(n_samples) if expected is None else expected
                rows = [whole if row is None else row for row in given]
                observed = np.stack(rows) if rows else np.empty_like(correct)
        return cls(n_samples, correct, observed, members, "members" if members_only else "all", planted)

    @property
    def n_epochs(self) -> int:
        """Epochs in the round."""
        return int(self.correct.shape[0])


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """What decides a selection; every field has a default, and `checked` validates them.

    Attributes
    ----------
    metric
        Per-sample score; low is clean.
    fit
        How the mixture is fitted to the histogram of scores.
    evidence
        ``pooled``: all rounds so far, each with equal weight; ``latest``: the last one alone.
    threshold
        The rule that turns the fit into one cut.
    p
        ``posterior``: largest noisy posterior that is kept.
    value
        ``value``: largest metric that is kept.
    fraction
        ``fraction``: share of the samples that is kept; None takes the fit's estimate.
    target
        ``precision``, ``recall``: the estimate that the set is to reach.
    cost_ratio
        ``bayes``: cost of keeping a mislabelled sample over that of dropping a clean one.
    min_keep
        Share of the scored samples that is kept whatever the rule says; a given `value` alone goes below it.
    per_class
        Whether each class has a fit and a cut of its own, the fits partially pooled; needs labels.
    min_keep_class
        The same floor for each class by itself; above 0 it needs labels.
    audit
        ``measure``: what an audit found says how good the set is, and nothing else; ``fit``: it calibrates the fit too,
        and checked samples follow their mark.
    """

    metric: Metric = "mild-simple"
    fit: Fit = "anchored"
    evidence: Evidence = "pooled"
    threshold: Rule = "f1"
    p: float = 0.5
    value: float | None = None
    fraction: float | None = None
    target: float | None = None
    cost_ratio: float = 1.0
    min_keep: float = 0.01
    per_class: bool = False
    min_keep_class: float = 0.0
    audit: AuditUse = "measure"

    @property
    def by_class(self) -> bool:
        """Whether labels have a say."""
        return self.per_class or self.min_keep_class > 0

    def checked(self) -> Self:
        """Return self.

        Raises
        ------
        ParameterError
            If a choice is unknown, a number is outside its range, or a rule lacks its number.
        """
        for name, choices in (
            ("metric", Metric),
            ("fit", Fit),
            ("evidence", Evidence),
            ("threshold", Rule),
            ("audit", AuditUse),
        ):
            known = get_args(choices)
            if getattr(self, name) not in known:
                raise ParameterError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")
        for name, number, low, high in (
            ("p", self.p, 0.0, 1.0),
            ("fraction", self.fraction, 0.0, 1.0),
            ("target", self.target, 0.0, 1.0),
            ("min_keep", self.min_keep, 0.0, 1.0),
            ("min_keep_class", self.min_keep_class, 0.0, 1.0),
            ("cost_ratio", self.cost_ratio, 1e-6, 1e6),
            ("value", self.value, -1e9, 1e9),
        ):
            if number is not None and not low <= number <= high:
                raise ParameterError(f"{name} is {number}; give a number in {low:g}..{high:g}")
        if self.threshold == "value" and self.value is None:
            raise ParameterError("threshold 'value' needs `value`, the largest metric to keep; give one")
        if self.threshold in ("precision", "recall") and self.target is None:
            raise ParameterError(
                f"threshold {self.threshold!r} needs `target`, the {self.threshold} to reach; give one"
            )
        return self


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
class Echo:
    """How far a set repeats its round's members.

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
    echo
        How far the set repeats whom the last round was trained on; None where that was everyone.
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
    unobserved: int
    planted: int
    histogram: Histogram | None
    densities: NDArray[np.float64] | None
    curves: Curves | None = None
    classes: tuple[ClassCut, ...] = ()
    echo: Echo | None = None

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
            "echo": None if self.echo is None else asdict(self.echo),
            **({"classes": [asdict(found) for found in self.classes]} if self.options.by_class else {}),
        }
