"""The bits of an epoch in the form in which they are stored: hashed, counted and split into chunks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from mild_core import bitmap
from mild_core.types import EpochBits
from mild_core.wrong_predictions import WrongPredictions
from mild_service.models import Epoch, EpochKind
from mild_service.store import codec
from mild_service.store.wrong_prediction_store import pack_wrong_predictions


@dataclass(frozen=True, slots=True)
class PackedEpoch:
    """The bits of an epoch in the form in which they are stored.

    Attributes
    ----------
    digest
        Digest of the content.
    planes, n_correct, n_observed
        Number of bitmaps, of correct and of observed samples, as in `Epoch`.
    values
        Bits of the epoch, one value per chunk.
    wrong_predictions
        One value per chunk; empty if none are known.
    """

    digest: str
    planes: int
    n_correct: int
    n_observed: int | None
    values: Sequence[bytes]
    wrong_predictions: Sequence[bytes] = ()

    @classmethod
    def from_bits(
        cls,
        bits: EpochBits,
        kind: EpochKind = "whole",
        wrong_predictions: WrongPredictions | None = None,
        sha256: str | None = None,
    ) -> Self:
        """Hash, count and split the bits of an epoch.

        Call this in a worker thread if the run is large, since the time is proportional to the number of samples.

        Parameters
        ----------
        bits
            The bits of the epoch.
        kind
            How the epoch is written. It is part of the digest, except for whole epochs, so that fields that a merge
            deletes are not shared with an epoch of another kind.
        wrong_predictions
            Wrong predictions of the epoch; None if none are known.
        sha256
            Digest of the body of a whole epoch in hex; None computes it.
        """
        fields = (
            []
            if wrong_predictions is None or not wrong_predictions.n_predictions
            else pack_wrong_predictions(wrong_predictions)
        )
        planes = [bits.correct] if bits.observed is None else [bits.observed, bits.correct]
        if sha256 is None:
            digest = hashlib.sha256(b"" if kind == "whole" else kind.encode())
            for plane in planes:
                digest.update(np.ascontiguousarray(plane).data)
            for field in fields:
                digest.update(field)
            sha256 = digest.hexdigest()
        return cls(
            digest=sha256[:32],
            planes=len(planes),
            n_correct=bitmap.popcount(bits.correct),
            n_observed=None if bits.observed is None else bitmap.popcount(bits.observed),
            values=codec.split_chunks(planes),
            wrong_predictions=fields,
        )

    def make_record(self, number: int, attempt: int, kind: EpochKind = "whole", partial: bool = False) -> Epoch:
        """Return the commit record of these bits.

        Parameters
        ----------
        number, attempt
            Number of the epoch, and the writer's attempt.
        kind
            How the epoch is written.
        partial
            Whether logs or shards are still being added.
        """
        epoch = Epoch(number, attempt, self.digest, self.planes, self.n_correct, self.n_observed, kind, partial)
        return replace(epoch, has_wrong_predictions=bool(self.wrong_predictions))
