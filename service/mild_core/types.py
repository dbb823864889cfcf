"""What a selection is made from: bits and options, as they cross the wire and the boundaries between packages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias, get_args

import numpy as np

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
