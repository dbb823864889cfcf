"""Estimates of the memory that a selection takes; the tests compare them with measured peaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from mild_core import bitmap
from mild_core.types import RoundBits
from mild_service.selecting.evidence import Evidence
from mild_service.store.codec import CHUNK_BYTES
from mild_service.store.stored_samples import PART_BYTES

_NARROW_BINS = 254
"""Most epochs for which the bin of a sample takes one byte."""
_SMALL_BITS_BYTES = 2 * 1024 * 1024
"""Most bytes of the bitmaps of a small selection, such as 50,000 samples x 200 epochs."""
_PART_COPIES = 2
"""Copies of a part while it is read: as the store sends it, and as bitmaps."""

_PREDICTION_BYTES = 24
"""Most memory while one prediction is counted: its class and its label, as read, joined and compared."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The memory of one selection in bytes, with that of its workers.

    Attributes
    ----------
    n_samples, n_epochs
        Number of samples, and of epochs of all rounds.
    bits_bytes
        Bytes of all bitmaps.
    part_bytes
        Bytes of the bitmaps that the workers read at a time, together.
    """

    n_samples: int
    n_epochs: int
    bits_bytes: int
    part_bytes: int

    @classmethod
    def of_evidence(cls, evidence: Evidence, n_workers: int) -> Self:
        """Return the memory of a selection of a stored run, whose parts are read by `n_workers`."""
        n_bytes = bitmap.n_bytes(evidence.run.spec.num_samples)
        epochs = evidence.epochs
        n_planes = sum(epoch.planes for epoch in epochs)
        part_bytes = max(PART_BYTES, n_planes * CHUNK_BYTES)
        return cls(
            evidence.run.spec.num_samples,
            len(epochs),
            n_planes * n_bytes,
            min(n_workers * part_bytes, n_planes * n_bytes),
        )

    @classmethod
    def of_arrays(cls, rounds: Sequence[RoundBits]) -> Self:
        """Return the memory of a selection from bits that are in memory already, but for a copy for the workers."""
        bits_bytes = sum(
            plane.nbytes for bits in rounds for plane in (bits.correct, bits.observed) if plane is not None
        )
        return cls(rounds[0].n_samples, sum(bits.n_epochs for bits in rounds), bits_bytes, bits_bytes)

    @property
    def is_small(self) -> bool:
        """Whether the selection is soon computed, so that it does not wait for large ones."""
        return self.bits_bytes <= _SMALL_BITS_BYTES

    @property
    def set_bytes(self) -> int:
        """Most memory while a set is computed: up to three arrays of bins, masks, and the parts."""
        bin_bytes = 1 if self.n_epochs <= _NARROW_BINS else 2
        return (3 * bin_bytes + 2) * self.n_samples + _PART_COPIES * self.part_bytes

    @property
    def kept_set_bytes(self) -> int:
        """Memory of a set that was computed: two bitmaps."""
        return 2 * bitmap.n_bytes(self.n_samples)

    @property
    def detail_bytes(self) -> int:
        """Most memory while scores and posteriors are computed."""
        return 26 * self.n_samples + _PART_COPIES * self.part_bytes

    @property
    def kept_detail_bytes(self) -> int:
        """Memory of the scores and posteriors of all samples, their bins and their set."""
        return 11 * self.n_samples

    @property
    def table_bytes(self) -> int:
        """Most memory while a table of the samples is made of the scores, in addition to them."""
        return 104 * self.n_samples + _PART_COPIES * self.bits_bytes

    @property
    def kept_table_bytes(self) -> int:
        """Memory of the table."""
        return 26 * self.n_samples

    @property
    def sample_bytes(self) -> int:
        """Most memory while one sample is read: the part that it is in, and the members."""
        return _PART_COPIES * self.part_bytes + 2 * bitmap.n_bytes(self.n_samples)

    def estimate_page(self, n_dropped: int, n_listed: int, n_predictions: int) -> int:
        """Return the most memory while dropped samples are listed with their predictions.

        Parameters
        ----------
        n_dropped, n_listed
            Number of dropped samples, and of those that are listed.
        n_predictions
            Number of epochs with wrong predictions.
        """
        dropped_bytes = self.n_samples + 8 * n_dropped
        history_bytes = 2 * self.n_epochs + _PREDICTION_BYTES * n_predictions + 80
        return dropped_bytes + _PART_COPIES * self.part_bytes + history_bytes * n_listed
