"""Audits: given labels that a person checked, and the evaluation of a selected set on the checked samples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.draw import DRAW_SIZE, Deviation
from mild_core.errors import BitmapLengthError, InvalidInput, ParameterError
from mild_core.results import Measured
from mild_core.types import SelectionOptions

ANSWERS = {"clean": True, "wrong": False, "unsure": False}
"""What a person who checks a label may answer, and whether the label counts as right."""

MAX_LABEL = 2**31 - 1
"""Largest given label, and ``-MAX_LABEL`` the smallest: samples are counted by label and cell in one 64-bit number."""


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """Marks of checked samples as bitmaps: whether the given label of the sample is true.

    Attributes
    ----------
    n_samples
        Number of samples of the run.
    checked
        Shape (n_bytes,), the checked samples.
    clean
        Shape (n_bytes,), the checked samples whose given label is true.
    random
        Shape (n_bytes,), samples that were drawn uniformly from all that are judged, before any of them was checked;
        None: no sample. The other marked samples were not drawn, and give no guarantee.
    """

    n_samples: int
    checked: Bitmap
    clean: Bitmap
    random: Bitmap | None = None

    @classmethod
    def empty(cls, n_samples: int) -> Self:
        """Create an audit without checked samples."""
        zeros = np.zeros(bitmap.n_bytes(n_samples), dtype=np.uint8)
        return cls(n_samples, zeros, zeros)

    @classmethod
    def from_marks(
        cls, indices: Sequence[int], clean: Sequence[bool], n_samples: int, random: bool | Sequence[bool] = False
    ) -> Self:
        """Create an audit from one mark per checked sample.

        Parameters
        ----------
        indices
            Indices of the checked samples, in any order; a repeated index with the same mark counts once.
        clean
            Whether the given label of each of these samples is true.
        n_samples
            Number of samples of the run.
        random
            Whether the samples were drawn uniformly from all that are judged, before any of them was checked: one
            boolean for all, or one for each.

        Raises
        ------
        SampleIndexError
            If an index lies outside ``0..n_samples-1``.
        InvalidInput
            If the numbers of marks and indices, or of answers and indices, differ, or a sample is marked both clean and
            mislabelled.
        """
        marked = AuditChange.from_marks(indices, [bool(mark) for mark in clean], n_samples).added
        is_drawn = [random] * len(indices) if isinstance(random, bool) else random
        if len(is_drawn) != len(indices):
            raise InvalidInput(
                f"an audit has {len(indices)} indices and {len(is_drawn)} entries of `random`; give one for all, or "
                "one per index (true: the sample was drawn at random)"
            )
        drawn = [index for index, is_of_draw in zip(indices, is_drawn, strict=True) if is_of_draw]
        return cls(n_samples, marked.checked, marked.clean, bitmap.from_indices(drawn, n_samples) if drawn else None)

    @classmethod
    def from_body(cls, body: bytes, n_samples: int) -> Self:
        """Create an audit from two consecutive bitmaps: known, then clean.

        Raises
        ------
        BitmapLengthError, TrailingBitsError
            If `body` is not two bitmaps of `n_samples` samples.
        InvalidInput
            If a sample has its clean bit set, but not its known bit.
        """
        size = bitmap.n_bytes(n_samples)
        if len(body) != 2 * size:
            raise BitmapLengthError(
                f"an audit of {n_samples} samples takes {2 * size} bytes (known, then clean), got {len(body)}; "
                "pack one bit per sample of the whole data set, twice"
            )
        checked = bitmap.validate(body[:size], n_samples, "known bitmap")
        clean = bitmap.validate(body[size:], n_samples, "clean bitmap")
        bitmap.check_empty(
            clean & ~checked,
            "{n} samples are clean but not known",
            "send the bitmap of those that were checked first, then that of the clean ones among them",
        )
        return cls(n_samples, checked, clean)

    def to_body(self) -> bytes:
        """Serialise as two consecutive bitmaps: known, then clean."""
        return self.checked.tobytes() + self.clean.tobytes()

    def take(self, part: slice) -> Self:
        """Return the marks of the samples of a slice of the bitmaps' bytes, which share memory with these."""
        n_samples = min(part.stop * 8, self.n_samples) - part.start * 8
        random = None if self.random is None else self.random[part]
        return type(self)(n_samples, self.checked[part], self.clean[part], random)

    def merge(self, newer: "Audit") -> Self:
        """Return the marks of both audits; marks and draw of `newer` have precedence."""
        drawn = self.random if newer.random is None else newer.random
        checked, clean = self.checked | newer.checked, (self.clean & ~newer.checked) | newer.clean
        return type(self)(self.n_samples, checked, clean, drawn)

    def remove(self, samples: Bitmap) -> Self:
        """Return the audit without the marks of `samples`, a bitmap of shape (n_bytes,)."""
        return type(self)(self.n_samples, self.checked & ~samples, self.clean & ~samples, self.random)

    def restrict_to_draw(self, among: NDArray[np.bool_]) -> Self:
        """Return only the marks of samples that were drawn at random and are in `among`, shape (n_samples,)."""
        drawn = bitmap.pack(among) & self.drawn
        return type(self)(self.n_samples, self.checked & drawn, self.clean & drawn, drawn)

    def count_contradictions(self, other: "Audit") -> int:
        """Count the samples that one audit marks as clean and the other as mislabelled."""
        return bitmap.popcount(self.checked & other.checked & (self.clean ^ other.clean))

    def get_mark(self, index: int) -> bool | None:
        """Return whether the given label of the sample `index` is true; None if the sample was not checked."""
        is_checked, is_clean = (bool(bitmap.get_sample_bits(bits, index)) for bits in (self.checked, self.clean))
        return is_clean if is_checked else None

    @property
    def drawn(self) -> Bitmap:
        """The samples that were drawn at random, shape (n_bytes,)."""
        return np.zeros_like(self.checked) if self.random is None else self.random

    @property
    def n_drawn(self) -> int:
        """Number of samples that were drawn at random."""
        return bitmap.popcount(self.drawn)

    @property
    def n_unanswered(self) -> int:
        """Number of drawn samples that have not been checked yet."""
        return bitmap.popcount(self.drawn & ~self.checked)

    @property
    def n_answered(self) -> int:
        """Number of drawn samples that have been checked."""
        return self.n_drawn - self.n_unanswered

    @property
    def is_complete_draw(self) -> bool:
        """Whether samples were drawn at random and all of them have been checked."""
        return self.n_drawn > 0 and self.n_unanswered == 0

    @property
    def n_checked(self) -> int:
        """Number of checked samples."""
        return bitmap.popcount(self.checked)

    @property
    def n_clean(self) -> int:
        """Number of checked samples whose given label is true."""
        return bitmap.popcount(self.clean)

    @property
    def drawn_wrong(self) -> Bitmap:
        """The drawn and checked samples whose given label is wrong, shape (n_bytes,)."""
        return self.drawn & self.checked & ~self.clean

    @property
    def random_mask(self) -> NDArray[np.bool_]:
        """`drawn` as booleans, shape (n_samples,)."""
        return bitmap.unpack(self.drawn, self.n_samples)

    @property
    def masks(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """`checked` and `clean` as booleans, shape (n_samples,) each."""
        return bitmap.unpack(self.checked, self.n_samples), bitmap.unpack(self.clean, self.n_samples)


@dataclass(frozen=True, slots=True, eq=False)
class AuditChange:
    """Change of an audit: marks to add, and marks to remove.

    Attributes
    ----------
    added
        The marks to add.
    removed
        Shape (n_bytes,), samples whose mark is to be removed.
    """

    added: Audit
    removed: Bitmap

    @classmethod
    def from_marks(cls, indices: Sequence[int], clean: Sequence[bool | None], n_samples: int) -> Self:
        """Create a change from one mark per sample.

        Parameters
        ----------
        indices
            Indices of the samples, in any order.
        clean
            Whether the given label of each of these samples is true; None to remove the mark of the sample.
        n_samples
            Number of samples of the run.
        """
        if len(indices) != len(clean):
            raise InvalidInput(
                f"an audit has {len(indices)} indices and {len(clean)} marks; give one mark (true: the label is right) "
                "per index"
            )
        marked: dict[bool | None, list[int]] = {True: [], False: [], None: []}
        for index, mark in zip(indices, clean, strict=True):
            marked[mark].append(index)
        clean_bits, wrong_bits, removed = (bitmap.from_indices(part, n_samples) for part in marked.values())
        checked, remedy = clean_bits | wrong_bits, "give one mark per sample"
        bitmap.check_empty(clean_bits & wrong_bits, "{n} samples are marked both clean and mislabelled", remedy)
        bitmap.check_empty(checked & removed, "the marks of {n} samples are both given and taken back", remedy)
        return cls(Audit(n_samples, checked, clean_bits), removed)

    @classmethod
    def from_audit(cls, audit: Audit) -> Self:
        """Create a change that adds all marks of an audit and removes none."""
        return cls(audit, np.zeros_like(audit.checked))

    @property
    def n_changed(self) -> int:
        """Number of samples whose mark is added or removed."""
        return self.added.n_checked + bitmap.popcount(self.removed)


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """Given labels and audit of a run; None for what is missing.

    Attributes
    ----------
    labels
        Shape (n_samples,), the given labels.
    audit
        The marks of the checked samples.
    deviation
        How the selection differs from the choice that was recorded with the draw of the audit; None if it does not.
    """

    labels: NDArray[np.integer] | None = None
    audit: Audit | None = None
    deviation: Deviation | None = None

    def restrict_to_options(
        self, n_samples: int, options: SelectionOptions, *, has_labels: bool = False
    ) -> "Annotations":
        """Return only the annotations that a selection with `options` uses.

        With `has_labels` there are labels that are not held here.
        """
        labels = self.labels if options.needs_labels else None
        needs_draw = options.threshold == "fdr"
        has_draw = self.audit is not None and self.audit.is_complete_draw
        audit = self.audit if options.audit == "fit" or has_draw else None
        if needs_draw and not has_draw:
            raise ParameterError(_describe_missing_draw(self.audit, n_samples))
        if options.needs_labels and labels is None and not has_labels:
            name = "per_class" if options.per_class else "min_keep_class"
            raise ParameterError(f"{name} needs the given labels, and there are none; give one label per sample")
        if labels is not None and labels.shape != (n_samples,):
            raise ParameterError(f"labels have the shape {labels.shape}; give one for each of {n_samples} samples")
        if labels is not None and (labels.min() < -MAX_LABEL or labels.max() > MAX_LABEL):
            raise ParameterError(
                f"the labels lie in {labels.min()}..{labels.max()}, numbers in {-MAX_LABEL}..{MAX_LABEL} are needed; "
                "number the classes from 0"
            )
        if audit is not None and audit.n_samples != n_samples:
            raise ParameterError(f"the audit is of {audit.n_samples} samples; give one of {n_samples}")
        return Annotations(labels, audit, self.deviation)


def _describe_missing_draw(audit: Audit | None, n_samples: int) -> str:
    """Return why a rule that needs a random audit has none, and the remedy."""
    if audit is None or not audit.n_drawn:
        n_marks = 0 if audit is None else audit.n_checked
        size = f"{DRAW_SIZE} or more" if n_samples > DRAW_SIZE else "all"
        return (
            f"threshold 'fdr' needs an audit that was drawn at random, got {n_marks} checked samples and 0 drawn "
            f"ones; draw {size} of the judged samples uniformly, check all of their labels, and say which they are"
        )
    return (
        f"threshold 'fdr' needs an answer for each of {audit.n_drawn} drawn samples, {audit.n_unanswered} have none; "
        "check them all, and mark as wrong where the label cannot be told"
    )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Quality of a set on the checked samples; a quantity without samples to measure it on is None.

    Attributes
    ----------
    n_checked
        Number of checked samples.
    n_clean
        Number of checked samples whose given label is true.
    n_kept
        Number of checked samples in the set.
    n_kept_clean
        Number of checked samples in the set whose given label is true.
    auc
        Probability that a clean checked sample has a lower score than a mislabelled one, ties counted half; None
        without scored samples of both kinds.
    n_drawn
        Number of checked samples that were drawn at random.
    """

    n_checked: int
    n_clean: int
    n_kept: int
    n_kept_clean: int
    auc: float | None
    n_drawn: int = 0

    @property
    def precision(self) -> float | None:
        """Share of the kept checked samples that are clean; None if none was kept."""
        return self.n_kept_clean / self.n_kept if self.n_kept else None

    @property
    def recall(self) -> float | None:
        """Share of the clean checked samples that are kept; None if none is clean."""
        return self.n_kept_clean / self.n_clean if self.n_clean else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None if no checked sample is kept or clean."""
        total = self.n_kept + self.n_clean
        return 2 * self.n_kept_clean / total if total else None

    @property
    def basis(self) -> str:
        """How the checked samples were chosen, in words: without a random draw they may be unlike the others."""
        if not self.n_drawn:
            return f"{self.n_checked} audited samples that somebody chose"
        others = self.n_checked - self.n_drawn
        return f"{self.n_drawn} audited samples drawn at random" + (f", {others} that somebody chose" if others else "")

    def summary(self) -> dict[str, float | int | str | None]:
        """Return precision, recall, F1 score, AUC, number and choice of the checked samples as JSON values."""
        return asdict(Measured(self.precision, self.recall, self.f1, self.auc, self.n_checked, self.basis))

    def summary_with_counts(self) -> dict[str, float | int | str | None]:
        """Return `summary` with the counts behind the figures."""
        return {**self.summary(), "clean": self.n_clean, "kept": self.n_kept, "kept_clean": self.n_kept_clean}


def evaluate_selection(selected: Bitmap, scores: NDArray[np.floating] | None, audit: Audit) -> Evaluation:
    """Evaluate a selected set on the checked samples of an audit.

    Parameters
    ----------
    selected
        Shape (n_bytes,), the kept samples.
    scores
        Shape (n_samples,), low is clean; NaN where a sample has no score. Without scores, the AUC is None.
    audit
        Audit of the same samples.
    """
    return Evaluation(
        n_checked=audit.n_checked,
        n_clean=audit.n_clean,
        n_kept=bitmap.popcount(selected & audit.checked),
        n_kept_clean=bitmap.popcount(selected & audit.clean),
        auc=None if scores is None else _compute_audit_auc(scores, audit),
        n_drawn=audit.n_answered,
    )


def compute_auc(clean_scores: NDArray[np.floating], noisy_scores: NDArray[np.floating]) -> float | None:
    """Compute the probability that a clean sample has a lower score than a mislabelled one, ties counted half.

    Parameters
    ----------
    clean_scores, noisy_scores
        Scores of the clean samples, shape (n_clean,), and of the mislabelled ones, shape (n_noisy,).

    Returns
    -------
    float | None
        In 0..1; None if there are no clean or no mislabelled samples.
    """
    if not clean_scores.size or not noisy_scores.size:
        return None
    sorted_noisy = np.sort(noisy_scores)
    n_at_most = np.searchsorted(sorted_noisy, clean_scores, side="right")
    n_below = np.searchsorted(sorted_noisy, clean_scores, side="left")
    return float(1.0 - (n_at_most + n_below).mean() / (2 * noisy_scores.size))


def _compute_audit_auc(scores: NDArray[np.floating], audit: Audit) -> float | None:
    """Compute the AUC of the checked samples that have a score."""
    is_checked, is_clean = audit.masks
    has_score = ~np.isnan(scores)
    return compute_auc(scores[has_score & is_clean], scores[has_score & is_checked & ~is_clean])
