"""Epochs of open rounds: committing whole epochs and merging partial ones."""

from collections.abc import Sequence
from typing import Literal

from mild_service.errors import EpochConflict, EpochKindConflict
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
from mild_service.store.bitmaps import BitmapStore, BitmapWriter, read_rounds
from mild_service.store.context import Argument, StoreContext, encode_attempt, refusal_error
from mild_service.store.keys import epoch_field
from mild_service.store.packed_epoch import PackedEpoch
from mild_service.store.wrong_prediction_store import WrongPredictionStore


class EpochStore:
    """Commits and merges epochs of an open round."""

    def __init__(
        self, context: StoreContext, bitmaps: BitmapStore, wrong_predictions: WrongPredictionStore, writer: BitmapWriter
    ) -> None:
        self._context = context
        self._bitmaps = bitmaps
        self._wrong_predictions = wrong_predictions
        self._writer = writer

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
        field = epoch_field(number, attempt, packed.digest)
        arguments: list[Argument] = [
            run.uid,
            attempt,
            round_,
            await self._context.now(),
            number,
            packed.digest,
            codec.encode_epoch(epoch),
            int(replace),
            _encode_members(checked_members),
            precondition.script_argument,
        ]
        script_keys = self._writer.script_keys(run, round_)
        answer = await self._writer.write("commit_epoch", script_keys, arguments, run, round_, field, packed.values)
        match answer[0]:
            case "committed" | "replaced" | "moved":
                return answer[0], epoch
            case "same":
                stored = codec.decode_epoch(number, answer[1].encode())
                await self._restore(run, round_, stored, packed)
                return "same", stored
            case "finished":
                (finished_round,) = await read_rounds(self._context, run, range(round_, round_ + 1))
                finished = finished_round.epochs.get(number)
                is_same = finished is not None and finished.digest == packed.digest
                if finished is not None and is_same and await self._restore(run, round_, finished, packed):
                    return "same", finished
            case "unmet":
                stored_digest = codec.decode_epoch(number, answer[1].encode()).digest if answer[1] else None
                raise precondition_error(f"epoch {number} of round {round_}", precondition, stored_digest)
            case "kind":
                stored = codec.decode_epoch(number, answer[1].encode())
                raise EpochKindConflict(
                    f"epoch {number} of round {round_} is written {describe_kind(stored.kind)}, got a whole body; "
                    "send the rest of it in the same way, or replace the epoch with ?replace=true"
                )
            case "conflict":
                stored = codec.decode_epoch(number, answer[1].encode())
                raise EpochConflict(
                    f"epoch {number} of round {round_} holds other content (sha-256 {stored.digest[:12]}…, attempt "
                    f"{stored.attempt}), got {packed.digest[:12]}…; send the same bits, or replace with ?replace=true"
                )
        raise refusal_error(answer, run.run_id, round_, attempt)

    async def _restore(self, run: Run, round_: int, stored: Epoch, packed: PackedEpoch) -> int:
        """Restore damaged values of a stored epoch of the same content; return their number."""
        field = epoch_field(stored.number, stored.attempt, stored.digest)
        return await self._writer.restore(run, round_, field, packed.values)

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
        field = epoch_field(epoch.number, epoch.attempt, epoch.digest)
        merged_away = [*shards] if old is None else [epoch_field(old.number, old.attempt, old.digest), *shards]
        arguments: list[Argument] = [
            run.uid,
            encode_attempt(attempt),
            round_,
            await self._context.now(),
            epoch.number,
            "" if old is None else codec.encode_epoch(old),
            codec.encode_epoch(epoch),
            _encode_members(checked_members),
            " ".join(merged_away),
            "*" if ids is None else codec.encode_sample_ids_ref(ids),
            "*" if labels == "unchecked" else codec.encode_annotation_ref(labels),
        ]
        script_keys = self._writer.script_keys(run, round_)
        await self._wrong_predictions.write(run, round_, epoch, wrong_predictions)
        answer = await self._writer.write("merge_epoch", script_keys, arguments, run, round_, field, values)
        if answer[0] == "renamed":
            raise EpochConflict(
                f"the sample ids of run {run.run_id!r} were replaced while a log was read that names samples by them; "
                "send the log again"
            )
        if answer[0] not in ("merged", "moved"):
            raise refusal_error(answer, run.run_id, round_, attempt)
        if answer[0] == "merged":
            await self._bitmaps.delete_tail(run, round_, [name for name in merged_away if name != field])
            if (
                old is not None
                and old.has_wrong_predictions
                and epoch_field(old.number, old.attempt, old.digest) != field
            ):
                await self._wrong_predictions.delete(run, round_, old)
        return answer[0] == "merged"


def _encode_members(members: SetRef | Literal["unchecked"] | None) -> str:
    """Encode the members against which bits were checked as a script argument."""
    return "*" if members == "unchecked" else codec.encode_set_ref(members)


def describe_kind(kind: EpochKind) -> str:
    """Return how an epoch is written in words, for error messages."""
    return {"whole": "as a whole body", "logs": "by logs", "shards": "in shards"}[kind]
