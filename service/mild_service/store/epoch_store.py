"""Epochs put: whole ones committed, those that fill up merged."""

from collections.abc import Sequence
from typing import Literal

from mild_service.errors import EpochConflict, EpochKindConflict
from mild_service.models import (
    NO_PRECONDITION,
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
from mild_service.store.bitmaps import BitmapStore, BitmapWriter
from mild_service.store.context import Argument, StoreContext, attempt_argument, refusal_error
from mild_service.store.keys import epoch_field
from mild_service.store.packed_epoch import PackedEpoch
from mild_service.store.wrong_prediction_store import WrongPredictionStore


class EpochStore:
    """Verbs on the epochs of an open round."""

    def __init__(
        self, context: StoreContext, bits: BitmapStore, votes: WrongPredictionStore, writer: BitmapWriter
    ) -> None:
        self._context = context
        self._bits = bits
        self._votes = votes
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
        condition: Precondition = NO_PRECONDITION,
    ) -> tuple[CommitOutcome | Literal["moved"], Epoch]:
        """Commit an epoch, all of it or nothing.

        `checked_members` are those that the bits were checked against; when the round has other members by now,
        nothing is written and the commitment is ``moved``.

        Raises
        ------
        EpochConflict, EpochKindConflict
            If the epoch holds other content, or is written in another way, and is not to be replaced.
        PreconditionFailed
            If the epoch is not as `condition` demands.
        StaleAttempt, RoundFinished, RoundNotOpen, RunNotFound
            If the run does not take this write.
        """
        epoch = packed.record(number, attempt)
        field = epoch_field(number, attempt, packed.digest)
        arguments: list[Argument] = [
            run.uid,
            attempt,
            round_,
            self._context.now(),
            number,
            packed.digest,
            codec.write_epoch(epoch),
            int(replace),
            _checked(checked_members),
            condition.script_argument,
        ]
        names = self._writer.keys(run, round_)
        answer = await self._writer.write("commit_epoch", names, arguments, run, round_, field, packed.values)
        match answer[0]:
            case "committed" | "replaced" | "moved":
                return answer[0], epoch
            case "same":
                return "same", codec.read_epoch(number, answer[1].encode())
            case "unmet":
                held_digest = codec.read_epoch(number, answer[1].encode()).digest if answer[1] else None
                raise precondition_error(f"epoch {number} of round {round_}", condition, held_digest)
            case "kind":
                held = codec.read_epoch(number, answer[1].encode())
                raise EpochKindConflict(
                    f"epoch {number} of round {round_} is written {describe_kind(held.kind)}, got a whole body; "
                    "send the rest of it in the same way, or replace the epoch with ?replace=true"
                )
            case "conflict":
                held = codec.read_epoch(number, answer[1].encode())
                raise EpochConflict(
                    f"epoch {number} of round {round_} holds other content (sha-256 {held.digest[:12]}…, attempt "
                    f"{held.attempt}), got {packed.digest[:12]}…; send the same bits, or replace with ?replace=true"
                )
        raise refusal_error(answer, run.run_id, round_, attempt)

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
    ) -> bool:
        """Put `epoch` in the place of `old`, all of it or nothing.

        `values` are its bits, one per chunk, `wrong_predictions` likewise; `shards` the fields that were
        merged into it, which nobody will ever name again. Return False, with nothing changed, when the epoch is not
        `old` any more, or the members are not those that were checked.

        `ids` are the sample ids by which samples were named, None where they were not.

        Raises
        ------
        EpochConflict
            If the run has other sample ids by now.
        StaleAttempt, RoundFinished, RoundNotOpen, RunNotFound
            If the run does not take this write.
        """
        field = epoch_field(epoch.number, epoch.attempt, epoch.digest)
        merged_away = [*shards] if old is None else [epoch_field(old.number, old.attempt, old.digest), *shards]
        arguments: list[Argument] = [
            run.uid,
            attempt_argument(attempt),
            round_,
            self._context.now(),
            epoch.number,
            "" if old is None else codec.write_epoch(old),
            codec.write_epoch(epoch),
            _checked(checked_members),
            " ".join(merged_away),
            "*" if ids is None else codec.write_sample_ids_ref(ids),
        ]
        names = self._writer.keys(run, round_)
        await self._votes.write(run, round_, epoch, wrong_predictions)
        answer = await self._writer.write("merge_epoch", names, arguments, run, round_, field, values)
        if answer[0] == "renamed":
            raise EpochConflict(
                f"the sample ids of run {run.run_id!r} were replaced while a log was read that names samples by them; "
                "send the log again"
            )
        if answer[0] not in ("merged", "moved"):
            raise refusal_error(answer, run.run_id, round_, attempt)
        if answer[0] == "merged":
            await self._bits.delete_tail(run, round_, [name for name in merged_away if name != field])
            if (
                old is not None
                and old.has_wrong_predictions
                and epoch_field(old.number, old.attempt, old.digest) != field
            ):
                await self._votes.delete(run, round_, old)
        return answer[0] == "merged"


def _checked(members: SetRef | Literal["unchecked"] | None) -> str:
    """The members that something was checked against, as the scripts take them."""
    return "*" if members == "unchecked" else codec.write_set_ref(members)


def describe_kind(kind: EpochKind) -> str:
    """How an epoch is written, in words."""
    return {"whole": "as a whole body", "logs": "by logs", "shards": "in shards"}[kind]
