"""An epoch's bits in the form that is stored: hashed, counted, cut into chunks."""

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
from mild_service.store.wrong_prediction_store import pack as votes_packed


@dataclass(frozen=True, slots=True)
class PackedEpoch:
    """An epoch's bits as they are stored.

    Attributes
    ----------
    digest
        Of the body.
    planes, n_correct, n_observed
        As in `Epoch`.
    values
        One per chunk.
    votes
        Wrong predictions, one value per chunk; empty where none are known.
    """

    digest: str
    planes: int
    n_correct: int
    n_observed: int | None
    values: Sequence[bytes]
    wrong_predictions: Sequence[bytes] = ()

    @classmethod
    def of(
        cls,
        bits: EpochBits,
        kind: EpochKind = "whole",
        votes: WrongPredictions | None = None,
        sha256: str | None = None,
    ) -> Self:
        """Pack `bits`: hashing and counting that for a large run belongs into a worker thread.

        Equal bits of another kind have another digest: what was merged away may be deleted, and must then be nobody
        else's. That of a whole epoch is its body's; `sha256` is that one, in hex, where it is known already.
        """
        fields = [] if votes is None or not votes.n_predictions else votes_packed(votes)
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

    def record(self, number: int, attempt: int, kind: EpochKind = "whole", partial: bool = False) -> Epoch:
        """The commit record that goes with these bits."""
        epoch = Epoch(number, attempt, self.digest, self.planes, self.n_correct, self.n_observed, kind, partial)
        return replace(epoch, has_wrong_predictions=bool(self.wrong_predictions))
