"""An audit: samples whose given label somebody has checked, and what they found.

What is known of a run's samples beside their bits.

A clean set and its scores against an audit. Only checked samples count; what they do not define is None.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError, InvalidInput, ParameterError
from mild_core.types import SelectionOptions


@dataclass(frozen=True, slots=True, eq=False)
class Audit:
    """Checked labels, packed.

    Attributes
    ----------
    n_samples
        Samples of the run.
    known
        Shape (n_bytes,), whose label was checked.
    clean
        Shape (n_bytes,), who of them has the true label.
    """

    n_samples: int
    known: Bitmap
    clean: Bitmap

    @classmethod
    def empty(cls, n_samples: int) -> Self:
        """Nobody checked."""
        none = np.zeros(bitmap.n_bytes(n_samples), dtype=np.uint8)
        return cls(n_samples, none, none)

    @classmethod
    def from_marks(cls, indices: Sequence[int], clean: Sequence[bool], n_samples: int) -> Self:
        """Read a mark per checked sample.

        Parameters
        ----------
        indices
            The samples, in any order; repeats count once.
        clean
            For each of them, whether its given label is true.
        n_samples
            Samples of the run.

        Raises
        ------
        SampleIndexError
            If an index lies outside ``0..n_samples-1``.
        InvalidInput
            If there is not one mark per index, or a repeated index is marked both ways.
        """
        if len(indices) != len(clean):
            raise InvalidInput(
                f"an audit has {len(indices)} indices and {len(clean)} marks; give one mark (true: the label is right) "
                "per index"
            )
        true = [index for index, right in zip(indices, clean, strict=True) if right]
        false = [index for index, right in zip(indices, clean, strict=True) if not right]
        known = bitmap.from_indices(indices, n_samples)
        right, wrong = bitmap.from_indices(true, n_samples), bitmap.from_indices(false, n_samples)
        if (both := right & wrong).any():
            first = int(bitmap.to_indices(both, n_samples)[0])
            raise InvalidInput(
                f"{bitmap.popcount(both)} samples are marked both clean and mislabelled, the first is sample {first}; "
                "give one mark per sample"
            )
        return cls(n_samples, known, right)

    @classmethod
    def from_body(cls, body: bytes, n_samples: int) -> Self:
        """Read two bitmaps in a row: known, then clean.

        Raises
        ------
        BitmapLengthError, TrailingBitsError
            If they are no two bitmaps of `n_samples` samples.
        InvalidInput
            If a sample is clean without being known.
        """
        size = bitmap.n_bytes(n_samples)
        if len(body) != 2 * size:
            raise BitmapLengthError(
                f"an audit of {n_samples} samples takes {2 * size} bytes (known, then clean), got {len(body)}; "
                "pack one bit per sample of the whole data set, twice"
            )
        known = bitmap.check(body[:size], n_samples, "known bitmap")
        clean = bitmap.check(body[size:], n_samples, "clean bitmap")
        if (stray := clean & ~known).any():
            first = int(bitmap.to_indices(stray, n_samples)[0])
            raise InvalidInput(
                f"{bitmap.popcount(stray)} samples are clean but not known, the first is sample {first}; "
                "send the bitmap of those that were checked first, then that of the clean ones among them"
            )
        return cls(n_samples, known, clean)

    def to_body(self) -> bytes:
        """Two bitmaps in a row: known, then clean."""
        return self.known.tobytes() + self.clean.tobytes()

    def updated(self, newer: "Audit") -> Self:
        """Both together; where they contradict each other, `newer` is right."""
        return type(self)(self.n_samples, self.known | newer.known, (self.clean & ~newer.known) | newer.clean)

    def without(self, forgotten: Bitmap) -> Self:
        """All marks but those of some samples, shape (n_bytes,)."""
        return type(self)(self.n_samples, self.known & ~forgotten, self.clean & ~forgotten)

    def contradicted(self, newer: "Audit") -> int:
        """Samples that both know and judge differently."""
        return bitmap.popcount(self.known & newer.known & (self.clean ^ newer.clean))

    def mark(self, index: int) -> bool | None:
        """Whether a sample's label was found to be true; None if it was not checked."""
        known, clean = (bool(bitmap.of_sample(plane, index)) for plane in (self.known, self.clean))
        return clean if known else None

    @property
    def n_known(self) -> int:
        """Samples that were checked."""
        return bitmap.popcount(self.known)

    @property
    def n_clean(self) -> int:
        """Samples among them whose label is true."""
        return bitmap.popcount(self.clean)

    @property
    def masks(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Known and clean as booleans, shape (n_samples,) each."""
        return bitmap.unpack(self.known, self.n_samples), bitmap.unpack(self.clean, self.n_samples)


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """A change of an audit.

    Attributes
    ----------
    audit
        What was found.
    forgotten
        Shape (n_bytes,), whose mark is taken back.
    """

    audit: Audit
    forgotten: Bitmap

    @classmethod
    def of(cls, indices: Sequence[int], clean: Sequence[bool | None], n_samples: int) -> Self:
        """Read a mark per checked sample, as `Audit.from_marks` does; None takes an earlier one back.

        Raises
        ------
        SampleIndexError, InvalidInput
            As there, or if a sample's mark is given and taken back.
        """
        if len(indices) != len(clean):
            raise InvalidInput(
                f"an audit has {len(indices)} indices and {len(clean)} marks; give one mark (true: the label is right) "
                "per index"
            )
        told = [(index, right) for index, right in zip(indices, clean, strict=True) if right is not None]
        audit = Audit.from_marks([index for index, _ in told], [right for _, right in told], n_samples)
        forgotten = bitmap.from_indices(
            [index for index, right in zip(indices, clean, strict=True) if right is None], n_samples
        )
        if (both := audit.known & forgotten).any():
            first = int(bitmap.to_indices(both, n_samples)[0])
            raise InvalidInput(
                f"the marks of {bitmap.popcount(both)} samples are both given and taken back, the first is sample "
                f"{first}; give one mark per sample"
            )
        return cls(audit, forgotten)

    @classmethod
    def adding(cls, audit: Audit) -> Self:
        """Marks to add, with none to take back."""
        return cls(audit, np.zeros_like(audit.known))

    @property
    def n_samples_named(self) -> int:
        """Samples that it says something of."""
        return self.audit.n_known + bitmap.popcount(self.forgotten)


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """What is known beside the bits; a selection uses the part of it that its options ask for.

    Attributes
    ----------
    labels
        The given ones, shape (n_samples,).
    audit
        Labels that somebody has checked.
    """

    labels: NDArray[np.integer] | None = None
    audit: Audit | None = None

    def checked(self, n_samples: int, options: SelectionOptions) -> "Annotations":
        """Return the part of it that `options` ask for.

        Raises
        ------
        ParameterError
            If labels are asked for and missing, or what is there belongs to another number of samples.
        """
        labels = self.labels if options.by_class else None
        audit = self.audit if options.audit == "fit" else None
        if options.by_class and labels is None:
            name = "per_class" if options.per_class else "min_keep_class"
            raise ParameterError(f"{name} needs the given labels, and there are none; give one label per sample")
        if labels is not None and labels.shape != (n_samples,):
            raise ParameterError(f"labels have the shape {labels.shape}; give one for each of {n_samples} samples")
        if audit is not None and audit.n_samples != n_samples:
            raise ParameterError(f"the audit is of {audit.n_samples} samples; give one of {n_samples}")
        return Annotations(labels, audit)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a set is on the checked samples.

    Attributes
    ----------
    known, clean
        Checked samples, and those among them whose label is true.
    kept, kept_clean
        Checked samples in the set, and those among them whose label is true.
    auc
        Probability that a clean sample has a lower score than a mislabelled one, ties counted half, among the checked
        samples that have a score; None without one of each.
    """

    known: int
    clean: int
    kept: int
    kept_clean: int
    auc: float | None

    @property
    def precision(self) -> float | None:
        """Share of the kept that are clean; None if nobody checked was kept."""
        return self.kept_clean / self.kept if self.kept else None

    @property
    def recall(self) -> float | None:
        """Share of the clean that are kept; None if nobody checked is clean."""
        return self.kept_clean / self.clean if self.clean else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None if nobody checked is kept or clean."""
        either = self.kept + self.clean
        return 2 * self.kept_clean / either if either else None

    def measured(self) -> dict[str, float | int | None]:
        """The figures as JSON values, with the number of samples that they rest on."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "auc": self.auc,
            "known": self.known,
        }


def evaluate(selected: Bitmap, scores: NDArray[np.floating] | None, audit: Audit) -> Evaluation:
    """Judge a clean set by an audit.

    Parameters
    ----------
    selected
        Shape (n_bytes,), the kept samples.
    scores
        Shape (n_samples,), low is clean; NaN where a sample has none. None leaves the AUC out.
    audit
        Of the same samples.
    """
    return Evaluation(
        known=audit.n_known,
        clean=audit.n_clean,
        kept=bitmap.popcount(selected & audit.known),
        kept_clean=bitmap.popcount(selected & audit.clean),
        auc=None if scores is None else _auc(scores, audit),
    )


def _auc(scores: NDArray[np.floating], audit: Audit) -> float | None:
    known, clean = audit.masks
    scored = ~np.isnan(scores)
    return auc(scores[scored & clean], scores[scored & known & ~clean])


def auc(clean: NDArray[np.floating], noisy: NDArray[np.floating]) -> float | None:
    """Probability that one of `clean` is lower than one of `noisy`, ties counted half; None if either is empty."""
    if not clean.size or not noisy.size:
        return None
    ordered = np.sort(noisy)
    at_most = np.searchsorted(ordered, clean, side="right")
    below = np.searchsorted(ordered, clean, side="left")
    return float(1.0 - (at_most + below).mean() / (2 * noisy.size))
