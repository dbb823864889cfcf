"""An audit: samples whose given label somebody has checked, and what they found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError, InvalidInput


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
