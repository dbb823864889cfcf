"""What a selection is made from: bits and options, as they cross the wire and the boundaries between packages."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError, CorrectNotObservedError, ParameterError
from mild_core.fields import check_fields, declare_field, describe, wire_name

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
        Shape (n_bytes,), or None if all samples that the run observes were seen.
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
        Shape (n_epochs, n_bytes), or None if every sample was observed in every epoch.
    members
        Shape (n_bytes,), the samples that the model was trained on; None: all.
    expects
        Samples that should have been observed: all, or the members only.
    planted
        Shape (n_bytes,), the samples whose label was changed on purpose in this round: their bits show how wrong labels
        are learnt, and say nothing about their own label. None: no sample.
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
        """Build a round's evidence from epochs that may leave it to `observe` which samples were observed.

        Parameters
        ----------
        n_samples
            Samples of the run.
        correct
            Shape (n_epochs, n_bytes).
        observed
            Shape (n_epochs, n_bytes), or for each epoch a bitmap of shape (n_bytes,) or None: all samples that the run
            observes were seen. None stands for None in every epoch.
        members
            Shape (n_bytes,), or None for all samples.
        observe
            ``members``: the run observes the round's members; else all samples.
        planted
            Shape (n_bytes,), the samples whose label was changed on purpose in this round.
        """
        members_only = observe == "members"
        expected = members if members_only else None
        if not isinstance(observed, np.ndarray):
            masks = [None] * len(correct) if observed is None else observed
            if expected is None and all(mask is None for mask in masks):
                observed = None
            else:
                default_mask = bitmap.full(n_samples) if expected is None else expected
                rows = [default_mask if mask is None else mask for mask in masks]
                observed = np.stack(rows) if rows else np.empty_like(correct)
        return cls(n_samples, correct, observed, members, "members" if members_only else "all", planted)

    @property
    def n_epochs(self) -> int:
        """Epochs in the round."""
        return int(self.correct.shape[0])


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Options of a selection, each with a default; `checked` validates them.

    This is the one declaration of the options: the service's requests, the command line and the documentation's checks
    read names, types, defaults, limits and descriptions from here.
    """

    metric: Metric = declare_field("mild-simple", "Per-sample score; low is clean.")
    fit: Fit = declare_field("anchored", "How the mixture is fitted to the histogram of scores.")
    evidence: Evidence = declare_field(
        "pooled", "pooled: all rounds so far, each with equal weight; latest: the last round alone."
    )
    threshold: Rule = declare_field("f1", "The rule that makes the cut.")
    p: float = declare_field(0.5, "posterior: largest noisy posterior kept.", 0, 1)
    value: float | None = declare_field(None, "value: largest metric kept.", -1e9, 1e9)
    fraction: float | None = declare_field(None, "fraction: share kept; without it the fit's estimate.", 0, 1)
    target: float | None = declare_field(None, "precision, recall: the estimate that the set is to reach.", 0, 1)
    cost_ratio: float = declare_field(
        1.0, "bayes: cost of keeping a wrong label over that of dropping a right one.", 1e-6, 1e6
    )
    min_keep: float = declare_field(0.01, "Share kept whatever the rule says; only a given value goes below it.", 0, 1)
    per_class: bool = declare_field(
        False, "A fit and a cut for each class, drawn to the fit of all samples; needs labels."
    )
    min_keep_class: float = declare_field(
        0.0, "Share kept of each class whatever the rule says; above 0 it needs labels.", 0, 1
    )
    audit: AuditUse = declare_field(
        "measure",
        "measure: an audit measures the set, nothing else; fit: it calibrates the fit, and checked samples follow "
        "their mark.",
    )

    @property
    def by_class(self) -> bool:
        """Whether the selection depends on the given labels."""
        return self.per_class or self.min_keep_class > 0

    def checked(self) -> Self:
        """Return self.

        Raises
        ------
        ParameterError
            If a choice is unknown, a number is outside its range, or a rule lacks its number.
        """
        check_fields(self)
        if self.threshold == "value" and self.value is None:
            raise ParameterError("threshold 'value' needs `value`, the largest metric to keep; give one")
        if self.threshold in ("precision", "recall") and self.target is None:
            raise ParameterError(
                f"threshold {self.threshold!r} needs `target`, the {self.threshold} to reach; give one"
            )
        return self


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a run is opened with. Its name and what is not marked `changeable` is fixed from then on.

    This is the one declaration of a run: the client sends it, the service checks and stores it, and answers with it.
    """

    run_id: str = field(metadata=describe("The caller's name for the run."))
    num_samples: int = field(metadata=describe("Samples of the data set; a sample's index never changes over a run."))
    num_classes: int | None = declare_field(None, "Classes, where known.", 1, 2**31)
    observe: Observe = declare_field("all", "Which samples an epoch that carries one bitmap has observed.")
    forward_pass: Pass = declare_field("eval", "Which forward pass makes the members' bits.", alias="pass")
    selection: SelectionOptions = field(
        default_factory=SelectionOptions, metadata=describe("How the clean set is selected.")
    )
    expected_epochs: int | None = declare_field(
        None, "Planned epochs of a round, for progress displays.", 1, 2**31, changeable=True
    )
    expected_rounds: int | None = declare_field(
        None, "Planned rounds, for progress displays.", 1, 2**31, changeable=True
    )
    picture_url: str | None = declare_field(
        None,
        "Where the dashboard finds pictures: https://…/{id}.png or …/{index}.png; empty: nowhere.",
        changeable=True,
    )
    tags: Mapping[str, str] = field(
        default_factory=dict, metadata=describe("Free text, for listings.", changeable=True)
    )
    ttl_seconds: int | None = declare_field(
        None,
        "Seconds after the last write at which the run expires; without it the service's own time.",
        60,
        10 * 365 * 24 * 3600,
        changeable=True,
    )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_json` returns; what is left out has its default.

        Raises
        ------
        TypeError
            If a field is unknown.
        """
        names = {wire_name(f): f.name for f in fields(cls)}
        options = SelectionOptions(**values.get("selection", {}))
        return cls(**{**{names.get(name, name): value for name, value in values.items()}, "selection": options})

    def as_json(self) -> dict[str, Any]:
        """Every field as a JSON value, under its name on the wire."""
        values = {wire_name(f): getattr(self, f.name) for f in fields(self)}
        return {**values, "selection": asdict(self.selection), "tags": dict(self.tags)}


CHANGEABLE_FIELDS = tuple(field.name for field in fields(RunSpec) if field.metadata.get("changeable"))
"""Fields that opening a run again may change."""
