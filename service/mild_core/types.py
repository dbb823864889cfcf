"""Input of a selection: the bits of epochs and rounds, the options of a selection, and the specification of a run."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError, CorrectNotObservedError, ParameterError
from mild_core.fields import check_fields, declare_field, describe, describe_field, get_wire_name

Metric: TypeAlias = Literal["mild-simple", "mild", "forgetting", "first-learned"]
Fit: TypeAlias = Literal["anchored", "tailed", "grouped", "censored", "density"]
Evidence: TypeAlias = Literal["pooled", "latest"]
Rule: TypeAlias = Literal["f1", "bayes", "posterior", "scale", "value", "fraction", "precision", "recall", "fdr"]
Verdict: TypeAlias = Literal["separable", "weak", "unimodal", "learning", "insufficient"]
Observe: TypeAlias = Literal["all", "mixed", "members"]
Pass: TypeAlias = Literal["train", "eval"]
AuditUse: TypeAlias = Literal["measure", "fit"]

RUN_ID_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Pattern of the ids of runs, which stand in paths of files and requests."""


@dataclass(frozen=True, slots=True, eq=False)
class EpochBits:
    """Packed bits of one epoch.

    Attributes
    ----------
    n_samples
        Number of samples of the run.
    correct
        Shape (n_bytes,), samples whose given label the model predicted.
    observed
        Shape (n_bytes,), samples that the epoch observed; None if it observed all samples that the run observes.
    """

    n_samples: int
    correct: Bitmap
    observed: Bitmap | None = None

    @classmethod
    def from_body(cls, body: bytes, n_samples: int) -> Self:
        """Parse an epoch body: the correct bitmap, or the observed bitmap followed by the correct one.

        Raises
        ------
        BitmapLengthError
            If the body has neither the length of one bitmap nor that of two.
        TrailingBitsError
            If a padding bit is set.
        CorrectNotObservedError
            If a sample has its correct bit set, but not its observed bit.
        """
        size = bitmap.n_bytes(n_samples)
        if len(body) not in (size, 2 * size):
            # The reader of a request may have stopped one byte after the largest valid length.
            received = len(body) if len(body) <= 2 * size else f"more than {2 * size}"
            raise BitmapLengthError(
                f"an epoch body of {n_samples} samples takes {size} or {2 * size} bytes (correct; or observed, "
                f"then correct), got {received}; pack one bit per sample of the whole data set"
            )
        *planes, correct = np.frombuffer(body, dtype=np.uint8).reshape(-1, size)
        for observed in planes:
            bitmap.check_padding(observed, n_samples, "observed bitmap")
        bitmap.check_padding(correct, n_samples, "correct bitmap")
        if not planes:
            return cls(n_samples, correct)
        bitmap.check_empty(
            correct & ~observed,
            "{n} samples are correct but not observed",
            "send the observed bitmap first, then the correct one",
            CorrectNotObservedError,
        )
        return cls(n_samples, correct, observed)

    def to_body(self) -> bytes:
        """Serialise as an epoch body: the observed bitmap unless it is None, then the correct bitmap."""
        observed = b"" if self.observed is None else self.observed.tobytes()
        return observed + self.correct.tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class RoundBits:
    """Packed bits of one round.

    Attributes
    ----------
    n_samples
        Number of samples of the run.
    correct
        Shape (n_epochs, n_bytes), samples whose given label the model predicted in each epoch.
    observed
        Shape (n_epochs, n_bytes), samples that each epoch observed; None if every epoch observed all samples.
    members
        Shape (n_bytes,), samples that the model was trained on; None if it was trained on all.
    expects
        Samples that should have been observed in every epoch: ``all``, or the ``members`` only.
    planted
        Shape (n_bytes,), samples whose label was changed on purpose in this round; None if there are none. The bits of
        these samples show how wrong labels are learnt, and say nothing about the samples' own labels.
    """

    n_samples: int
    correct: Bitmap
    observed: Bitmap | None = None
    members: Bitmap | None = None
    expects: Literal["all", "members"] = "all"
    planted: Bitmap | None = None

    @classmethod
    def from_epochs(
        cls,
        n_samples: int,
        correct: Bitmap,
        observed: Bitmap | Sequence[Bitmap | None] | None,
        members: Bitmap | None,
        observe: Observe,
        planted: Bitmap | None = None,
    ) -> Self:
        """Create the bits of a round from the bits of its epochs.

        Parameters
        ----------
        n_samples
            Number of samples of the run.
        correct
            Shape (n_epochs, n_bytes).
        observed
            Shape (n_epochs, n_bytes), or a sequence with one bitmap of shape (n_bytes,) or None per epoch. An epoch of
            None observed all samples that `observe` names; None in place of the sequence means that all epochs did.
        members
            Shape (n_bytes,), or None for all samples.
        observe
            Samples that the run observes: the members of the round with ``members``, else all samples.
        planted
            Shape (n_bytes,), the samples whose label was changed on purpose in this round; None if there are none.
        """
        observes_members = observe == "members"
        expected = members if observes_members else None
        if not isinstance(observed, np.ndarray):
            masks = [None] * len(correct) if observed is None else observed
            if expected is None and all(mask is None for mask in masks):
                observed = None
            else:
                default_mask = bitmap.full(n_samples) if expected is None else expected
                rows = [default_mask if mask is None else mask for mask in masks]
                observed = np.stack(rows) if rows else np.empty_like(correct)
        return cls(n_samples, correct, observed, members, "members" if observes_members else "all", planted)

    def convert(self, n_samples: int, convert_bits: Callable[[Bitmap], Bitmap]) -> Self:
        """Return a round of other samples, whose bitmaps are made by `convert_bits`, shapes (..., n_bytes)."""
        observed, members, planted = (
            None if bits is None else convert_bits(bits) for bits in (self.observed, self.members, self.planted)
        )
        correct = convert_bits(self.correct)
        return replace(self, n_samples=n_samples, correct=correct, observed=observed, members=members, planted=planted)

    def drop_empty_epochs(self) -> Self:
        """Return the round without the epochs in which no sample was observed: nothing is known of them."""
        if self.observed is None:
            return self
        is_recorded = self.observed.any(axis=1)
        return self if is_recorded.all() else self.take_epochs(np.flatnonzero(is_recorded))

    def take_epochs(self, epochs: NDArray[np.integer] | slice) -> Self:
        """Return the round with some of its epochs, by their positions."""
        observed = None if self.observed is None else self.observed[epochs]
        return replace(self, correct=self.correct[epochs], observed=observed)

    @property
    def n_epochs(self) -> int:
        """Number of epochs of the round."""
        return int(self.correct.shape[0])


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Options of a selection, each with a default; `validate` checks the values.

    The options are declared only here. The service's requests, the command line and the checks of the documentation
    read their names, types, defaults, limits and descriptions from this class.
    """

    metric: Metric = declare_field("mild-simple", "Per-sample score; low is clean.")
    fit: Fit = declare_field("tailed", "How the mixture is fitted to the histogram of scores.")
    evidence: Evidence = declare_field(
        "pooled", "pooled: all rounds so far, each with equal weight; latest: the last round alone."
    )
    threshold: Rule = declare_field("f1", "The rule that makes the cut.")
    p: float = declare_field(0.5, "posterior: largest noisy posterior kept.", 0, 1)
    value: float | None = declare_field(None, "value: largest metric kept.", -1e9, 1e9)
    fraction: float | None = declare_field(None, "fraction: share kept; without it the fit's estimate.", 0, 1)
    target: float | None = declare_field(
        None,
        "precision, recall: the estimate that the set is to reach; with a random audit, the bound of precision.",
        0,
        1,
    )
    alpha: float = declare_field(
        0.1,
        "fdr: share of wrong labels among the kept samples, averaged over draws of the random audit.",
        0.001,
        0.5,
    )
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
    def needs_labels(self) -> bool:
        """Whether a selection with these options needs the given labels."""
        return self.per_class or self.min_keep_class > 0

    def validate(self) -> Self:
        """Check the values of all options, and return the options.

        Raises
        ------
        ParameterError
            If a choice is unknown, a number is outside its range, the threshold rule needs a `value` or a `target` that
            is None, or options contradict each other.
        """
        check_fields(self)
        if self.threshold == "value" and self.value is None:
            raise ParameterError("threshold 'value' needs `value`, the largest metric to keep; give one")
        if self.threshold in ("precision", "recall") and self.target is None:
            raise ParameterError(
                f"threshold {self.threshold!r} needs `target`, the {self.threshold} to reach; give one"
            )
        if self.threshold == "fdr" and self.needs_labels:
            name = "per_class" if self.per_class else "min_keep_class"
            raise ParameterError(
                f"threshold 'fdr' makes one cut for all classes, got {name}={getattr(self, name)}; leave {name} out"
            )
        if self.threshold == "fdr" and self.audit == "fit":
            raise ParameterError(
                "threshold 'fdr' holds only for scores that do not depend on the audit, got audit='fit'; leave audit "
                "out: the drawn samples follow their mark anyway"
            )
        return self

    def validate_for_run(self) -> Self:
        """Return self, where every round of a run may be selected with these options.

        Raises
        ------
        ParameterError
            As `validate`, and for ``threshold="fdr"``: labels that were checked before the training ends would reach
            it, and its promise would be lost.
        """
        if self.threshold == "fdr":
            raise ParameterError(
                "threshold 'fdr' cannot be the rule of a run: it needs a random audit, whose answers must not reach "
                "the training; leave it out, and select with threshold=fdr after the last round"
            )
        return self.validate()


def validate_run_id(run_id: str, name: str = "run_id") -> str:
    """Check the id of a run, which `name` stands for in the message, and return it."""
    if not isinstance(run_id, str) or not re.fullmatch(RUN_ID_PATTERN, run_id):
        raise ParameterError(
            f"{name} is {run_id!r:.100}; give 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return run_id


MAX_CLASS_NAMES, MAX_CLASS_NAME_LENGTH = 1000, 100
"""Most names of classes of a run, and most characters of one."""


def check_class_names(names: Sequence[str]) -> None:
    """Check that the names of the classes of a run are neither too many nor too long."""
    if not 1 <= len(names) <= MAX_CLASS_NAMES:
        raise ParameterError(f"class_names has {len(names)} names, 1 to {MAX_CLASS_NAMES} are taken; leave them out")
    for label, name in enumerate(names):
        if not 1 <= len(name) <= MAX_CLASS_NAME_LENGTH:
            raise ParameterError(
                f"the name of class {label} has {len(name)} characters, 1 to {MAX_CLASS_NAME_LENGTH} are taken; give "
                "another one"
            )


def take_class_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names as those of a run; None where there are none, or where a run cannot have them."""
    if names is None:
        return None
    try:
        check_class_names(names)
    except ParameterError:
        return None
    return tuple(names)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Specification with which a run is opened; only fields that are marked `changeable` can change later.

    A run is declared only here. The client sends the specification; the service checks, stores and returns it.
    """

    run_id: str = describe_field("The caller's name for the run.")
    num_samples: int = describe_field("Samples of the data set; a sample's index never changes over a run.")
    num_classes: int | None = declare_field(None, "Classes, where known.", 1, 2**31)
    class_names: tuple[str, ...] | None = declare_field(None, "Name of each class, for pages that show labels.")
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
        """Create a specification from the values that `as_json` returns; a missing field has its default.

        Raises
        ------
        TypeError
            If `values` has an unknown field, or lacks a field without a default.
        """
        field_names = {get_wire_name(field): field.name for field in fields(cls)}
        arguments = {field_names.get(name, name): value for name, value in values.items()}
        names = values.get("class_names")
        arguments |= {"class_names": None if names is None else tuple(names)}
        return cls(**{**arguments, "selection": SelectionOptions(**values.get("selection", {}))})

    def as_json(self) -> dict[str, Any]:
        """Return every field as a JSON value, by the name of the field on the wire."""
        values = {get_wire_name(field): getattr(self, field.name) for field in fields(self)}
        names = None if self.class_names is None else list(self.class_names)
        return {**values, "selection": asdict(self.selection), "tags": dict(self.tags), "class_names": names}

    def get_class_name(self, label: int) -> str:
        """Return the name of a class; its number where it has none."""
        names = self.class_names or ()
        return names[label] if 0 <= label < len(names) else str(label)

    def check_class_names(self) -> None:
        """Check that there is a name for each class, and that names are neither too many nor too long.

        Raises
        ------
        ParameterError
            If that is not so.
        """
        if self.class_names is None:
            return
        check_class_names(self.class_names)
        if self.num_classes not in (None, len(self.class_names)):
            raise ParameterError(
                f"class_names has {len(self.class_names)} names, num_classes is {self.num_classes}; name each class"
            )


CHANGEABLE_FIELDS = tuple(field.name for field in fields(RunSpec) if field.metadata.get("changeable"))
"""Names of the fields that can change when an existing run is opened again."""
