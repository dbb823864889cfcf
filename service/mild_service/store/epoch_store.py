"""Epochs of open rounds: packing bits, committing whole epochs and merging partial ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

import numpy as np

from mild_core import bitmap
from mild_core.types import EpochBits
from mild_core.wrong_predictions import WrongPredictions
from mild_service.errors import EpochConflict, EpochKindConflict, RoundFinished
from mild_service.models import (
    NO_PRECONDITION,
    AnnotationRef,
    CommitOutcome,
    Epoch,
    EpochKind,
    Precondition,
    Run,
    SampleIdsRef,
    SetRef,
    precondition_error,
)
from mild_service.store import codec
from mild_service.store.bitmaps import BitmapStore
from mild_service.store.context import Argument, StoreContext, StorePart
from mild_service.store.keys import epoch_field
from mild_service.store.records import read_rounds
from mild_service.store.values import commit_bitmaps, restore_bitmaps
from mild_service.store.wrong_prediction_store import WrongPredictionStore, pack_wrong_predictions


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
        counts = (self.planes, self.n_correct, self.n_observed)
        has_wrong_predictions = bool(self.wrong_predictions)
        return Epoch(number, attempt, self.digest, *counts, kind, partial, has_wrong_predictions=has_wrong_predictions)


class EpochStore(StorePart):
    """Commits and merges epochs of an open round."""

    def __init__(self, context: StoreContext, bitmaps: BitmapStore, wrong_predictions: WrongPredictionStore) -> None:
        super().__init__(context)
        self._bitmaps = bitmaps
        self._wrong_predictions = wrong_predictions

    async def commit(
        self,
        run: Run,
        round_: int,
        number: int,
        packed: PackedEpoch,
        attempt: int,
        replace: bool,
        checked_members: SetRef | Literal["unchecked"] | None = "unchecked",
        precondition: Precondition = NO_PRECONDITION,
    ) -> tuple[CommitOutcome | Literal["moved"], Epoch]:
        """Commit a whole epoch atomically; return the outcome and the stored record of the epoch.

        If the epoch is stored with the same content, values of it that are missing or damaged are restored, in finished
        rounds too.

        Parameters
        ----------
        run, round_, number
            The run, its open round, and the number of the epoch.
        packed
            The bits of the epoch.
        attempt
            The writer's attempt.
        replace
            Whether a stored epoch with different content is replaced.
        checked_members
            The members against which the bits were checked. If the round has other members by now, nothing is written
            and the outcome is ``moved``.
        precondition
            Precondition on the digest of the stored epoch.
        """
        epoch = packed.make_record(number, attempt)
        arguments: list[Argument] = [
            number,
            packed.digest,
            codec.encode_epoch(epoch),
            int(replace),
            _encode_members(checked_members),
            codec.encode_precondition(precondition),
        ]
        try:
            outcome, *records = await commit_bitmaps(
                self._context, "commit_epoch", run, round_, attempt, arguments, epoch_field(epoch), packed.values
            )
        except RoundFinished:
            (finished_round,) = await read_rounds(self._context, run, range(round_, round_ + 1))
            finished = finished_round.epochs.get(number)
            if finished and finished.digest == packed.digest and await self._restore(run, round_, finished, packed):
                return "same", finished
            raise
        if not records:
            return cast(CommitOutcome | Literal["moved"], outcome), epoch
        stored = codec.decode_epoch(number, records[0].encode()) if records[0] else None
        if outcome == "unmet" or stored is None:
            digest = None if stored is None else stored.digest
            raise precondition_error(f"epoch {number} of round {round_}", precondition, digest)
        if outcome == "kind":
            raise EpochKindConflict(
                f"epoch {number} of round {round_} is written {describe_kind(stored.kind)}, got a whole body; "
                "send the rest of it in the same way, or replace the epoch with ?replace=true"
            )
        if outcome == "conflict":
            raise EpochConflict(
                f"epoch {number} of round {round_} holds other content (sha-256 {stored.digest[:12]}…, attempt "
                f"{stored.attempt}), got {packed.digest[:12]}…; send the same bits, or replace with ?replace=true"
            )
        await self._restore(run, round_, stored, packed)
        return "same", stored

    async def _restore(self, run: Run, round_: int, stored: Epoch, packed: PackedEpoch) -> int:
        """Restore damaged values of a stored epoch of the same content; return their number."""
        return await restore_bitmaps(self._context, run, round_, epoch_field(stored), packed.values)

    async def merge(
        self,
        run: Run,
        round_: int,
        epoch: Epoch,
        values: Sequence[bytes],
        old: Epoch | None,
        attempt: int | None,
        checked_members: SetRef | Literal["unchecked"] | None = "unchecked",
        shards: Sequence[str] = (),
        wrong_predictions: Sequence[bytes] = (),
        ids: SampleIdsRef | None = None,
        labels: AnnotationRef | Literal["unchecked"] | None = "unchecked",
    ) -> bool:
        """Replace the record and the bits of an epoch atomically, unless the stored record is no longer `old`.

        Parameters
        ----------
        run, round_
            The run and its open round.
        epoch
            The new record.
        values
            Bits of the epoch, one value per chunk.
        old
            The record that is replaced; None if the epoch is not stored yet.
        attempt
            The writer's attempt; None accepts the current one.
        checked_members
            The members against which the bits were checked.
        shards
            Fields that were merged into the epoch and are deleted.
        wrong_predictions
            Wrong predictions, one value per chunk; empty if the epoch has no wrong predictions.
        ids
            The sample ids by which the log names samples; None if the log names samples by number.
        labels
            The labels of the run with which those in the log were compared; None if the run had none.

        Returns
        -------
        bool
            False, with nothing changed, if the stored record is no longer `old`, or members or `labels` have changed.
        """
        field = epoch_field(epoch)
        merged_away = [*shards] if old is None else [epoch_field(old), *shards]
        arguments: list[Argument] = [
            epoch.number,
            "" if old is None else codec.encode_epoch(old),
            codec.encode_epoch(epoch),
            _encode_members(checked_members),
            " ".join(merged_away),
            "*" if ids is None else codec.encode_sample_ids_ref(ids),
            "*" if labels == "unchecked" else codec.encode_annotation_ref(labels),
        ]
        await self._wrong_predictions.write(run, round_, epoch, wrong_predictions)
        (outcome,) = await commit_bitmaps(self._context, "merge_epoch", run, round_, attempt, arguments, field, values)
        if outcome == "renamed":
            raise EpochConflict(
                f"the sample ids of run {run.run_id!r} were replaced while a log was read that names samples by them; "
                "send the log again"
            )
        if outcome == "moved":
            return False
        await self._bitmaps.delete_tail(run, round_, [name for name in merged_away if name != field])
        if old is not None and old.has_wrong_predictions and epoch_field(old) != field:
            await self._wrong_predictions.delete(run, round_, old)
        return True


def _encode_members(members: SetRef | Literal["unchecked"] | None) -> str:
    """Encode the members against which bits were checked as a script argument."""
    return "*" if members == "unchecked" else codec.encode_set_ref(members)


def describe_kind(kind: EpochKind) -> str:
    """Return how an epoch is written in words, for error messages."""
    return {"whole": "as a whole body", "logs": "by logs", "shards": "in shards"}[kind]
