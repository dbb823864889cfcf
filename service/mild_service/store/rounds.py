"""The steps inside a run: epochs committed, members set, rounds finished, attempts begun."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import orjson

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import EpochBits
from mild_service.errors import EpochConflict, EpochKind, MembersFrozen, MetricsConflict
from mild_service.state import Commitment, Epoch, Kind, Round, Run, SetRef
from mild_service.store import chunks, records
from mild_service.store.bits import Bits
from mild_service.store.faults import translated
from mild_service.store.keys import epoch_field, set_field
from mild_service.store.link import Link, refused, run_not_found
from mild_service.store.replies import table
from mild_service.store.scripts import Argument


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
    """

    digest: str
    planes: int
    n_correct: int
    n_observed: int | None
    values: Sequence[bytes]

    @classmethod
    def of(cls, bits: EpochBits, kind: Kind = "whole") -> Self:
        """Pack `bits`: hashing and counting that for a large run belongs into a worker thread.

        Equal bits of another kind have another digest: what was merged away may be deleted, and must then be nobody
        else's.
        """
        planes = [bits.correct] if bits.observed is None else [bits.observed, bits.correct]
        return cls(
            digest=hashlib.sha256((b"" if kind == "whole" else b"logs") + bits.to_body()).hexdigest()[:32],
            planes=len(planes),
            n_correct=bitmap.popcount(bits.correct),
            n_observed=None if bits.observed is None else bitmap.popcount(bits.observed),
            values=chunks.split(planes),
        )


class Rounds:
    """Verbs on a run's rounds."""

    def __init__(self, link: Link, bits: Bits) -> None:
        self._link = link
        self._bits = bits

    async def get(self, run: Run, numbers: range) -> list[Round]:
        """Rounds as they stand, all of one instant.

        Raises
        ------
        RunNotFound
            If the run has gone meanwhile.
        """
        keys = self._link.keys
        with translated():
            pipeline = self._link.redis.pipeline(transaction=True)
            for number in numbers:
                pipeline.hgetall(keys.round(run.run_id, run.uid, number))
                pipeline.hgetall(keys.epochs(run.run_id, run.uid, number))
                pipeline.hgetall(keys.metrics(run.run_id, run.uid, number))
            found = await pipeline.execute()
        if not all(found[::3]):
            raise run_not_found(run.run_id)
        return [
            records.read_round(number, *(table(reply) for reply in found[3 * position : 3 * position + 3]))
            for position, number in enumerate(numbers)
        ]

    async def resume(self, run: Run, round_: int, epoch: int) -> int:
        """Drop the open round's epochs from `epoch` on and return the new attempt.

        Raises
        ------
        RoundFinished, RoundNotOpen
            If `round_` is not the open one.
        """
        keys, now = self._link.keys, self._link.now()
        names = [
            keys.run(run.run_id),
            keys.round(run.run_id, run.uid, round_),
            keys.epochs(run.run_id, run.uid, round_),
            keys.chunk(run.run_id, run.uid, round_, 0),
            keys.metrics(run.run_id, run.uid, round_),
        ]
        with translated():
            answer = await self._link.scripts.run("resume", names, [run.uid, round_, now, epoch])
        if answer[0] != "resumed":
            raise refused(answer, run.run_id, round_, None)
        return int(answer[1])

    async def commit(
        self,
        run: Run,
        round_: int,
        number: int,
        packed: PackedEpoch,
        attempt: int,
        replace: bool,
        checked_members: SetRef | Literal["unchecked"] | None = "unchecked",
    ) -> tuple[Commitment | Literal["moved"], Epoch]:
        """Commit an epoch, all of it or nothing.

        `checked_members` are those that the bits were checked against; when the round has other members by now,
        nothing is written and the commitment is ``moved``.

        Raises
        ------
        EpochConflict, EpochKind
            If the epoch holds other content, or is written by logs, and is not to be replaced.
        StaleAttempt, RoundFinished, RoundNotOpen, RunNotFound
            If the run does not take this write.
        """
        epoch = Epoch(number, attempt, packed.digest, packed.planes, packed.n_correct, packed.n_observed)
        field = epoch_field(number, attempt, packed.digest)
        arguments: list[Argument] = [
            run.uid,
            attempt,
            round_,
            self._link.now(),
            number,
            packed.digest,
            records.write_epoch(epoch),
            int(replace),
            "*" if checked_members == "unchecked" else records.write_set(checked_members),
        ]
        names = self._names(run, round_)
        answer = await self._write("commit", names, arguments, run, round_, field, packed.values)
        match answer[0]:
            case "committed" | "replaced" | "moved":
                return answer[0], epoch
            case "same":
                return "same", records.read_epoch(number, answer[1].encode())
            case "kind":
                raise EpochKind(
                    f"epoch {number} of round {round_} is written by logs, got a whole body; "
                    "post the other records as logs, or replace the epoch with ?replace=true"
                )
            case "conflict":
                held = records.read_epoch(number, answer[1].encode())
                raise EpochConflict(
                    f"epoch {number} of round {round_} holds other content (sha-256 {held.digest[:12]}…, attempt "
                    f"{held.attempt}), got {packed.digest[:12]}…; send the same bits, or replace with ?replace=true"
                )
        raise refused(answer, run.run_id, round_, attempt)

    async def merge(
        self,
        run: Run,
        round_: int,
        number: int,
        packed: PackedEpoch,
        kind: Kind,
        attempt: int,
        old: Epoch | None,
        members: SetRef | None,
    ) -> bool:
        """Put what logs say so far in the place of `old`, all of it or nothing.

        Return False, with nothing changed, when the epoch is not `old` any more, or the members are others.

        Raises
        ------
        StaleAttempt, RoundFinished, RoundNotOpen, RunNotFound
            If the run does not take this write.
        """
        epoch = Epoch(number, attempt, packed.digest, packed.planes, packed.n_correct, packed.n_observed, kind)
        field = epoch_field(number, attempt, packed.digest)
        arguments: list[Argument] = [
            run.uid,
            attempt,
            round_,
            self._link.now(),
            number,
            "" if old is None else records.write_epoch(old),
            records.write_epoch(epoch),
            records.write_set(members),
        ]
        names = self._names(run, round_)
        answer = await self._write("merge", names, arguments, run, round_, field, packed.values)
        if answer[0] not in ("merged", "moved"):
            raise refused(answer, run.run_id, round_, attempt)
        if answer[0] == "merged" and old is not None:
            superseded = epoch_field(number, old.attempt, old.digest)
            if superseded != field:
                await self._bits.drop_tail(run, round_, superseded)
        return answer[0] == "merged"

    async def put_members(self, run: Run, round_: int, members: Bitmap, attempt: int | None) -> tuple[bool, int]:
        """Set the members of the open round; return whether that changed anything, and how many they are.

        Raises
        ------
        MembersFrozen
            If the round has epochs and other members.
        StaleAttempt, RoundFinished, RoundNotOpen, RunNotFound
            If the run does not take this write.
        """
        ref = _set_ref(round_, members)
        everyone = ref.n_members == run.config.n_samples
        record = "" if everyone else records.write_set(ref)
        values = [b""] if everyone else chunks.split([members])
        arguments: list[Argument] = [run.uid, _said(attempt), round_, self._link.now(), record]
        names = self._names(run, round_)
        answer = await self._write("members", names, arguments, run, round_, set_field(ref.digest), values)
        match answer[0]:
            case "set" | "same":
                return answer[0] == "set", ref.n_members
            case "frozen":
                raise MembersFrozen(
                    f"round {round_} has {answer[1]} epochs already, so its members are fixed, got other ones; "
                    "set members before the round's first epoch, or drop the epochs with resume_from"
                )
        raise refused(answer, run.run_id, round_, attempt)

    async def put_metrics(
        self, run: Run, round_: int, epoch: int, metrics: Mapping[str, float], attempt: int | None, replace: bool
    ) -> Commitment:
        """Store an epoch's scalars.

        Raises
        ------
        MetricsConflict
            If the epoch has others and they are not to be replaced.
        StaleAttempt, RoundFinished, RoundNotOpen, RunNotFound
            If the run does not take this write.
        """
        keys = self._link.keys
        names = [keys.run(run.run_id), keys.metrics(run.run_id, run.uid, round_)]
        value = records.canonical(metrics)
        arguments: list[Argument] = [run.uid, _said(attempt), round_, self._link.now(), epoch, value, int(replace)]
        with translated():
            answer = await self._link.scripts.run("metrics", names, arguments)
        match answer[0]:
            case "committed" | "same" | "replaced":
                return answer[0]
            case "conflict":
                raise MetricsConflict(
                    f"epoch {epoch} of round {round_} has the metrics {answer[1]}, got {value.decode()}; "
                    "send the same, or replace them with ?replace=true"
                )
        raise refused(answer, run.run_id, round_, attempt)

    async def finish(
        self,
        run: Run,
        round_: Round,
        selected: Bitmap,
        selection: Mapping[str, Any],
        fit: Mapping[str, Any],
        attempt: int | None,
    ) -> bool:
        """Freeze a round with its set and open the next.

        Return False, with nothing changed, when the round is not as it was read in `round_`.

        Raises
        ------
        StaleAttempt, RoundFinished, RoundNotOpen, RunNotFound
            If the run does not take this write.
        """
        keys, number = self._link.keys, round_.number
        ref = _set_ref(number, selected)
        names = [
            keys.run(run.run_id),
            keys.round(run.run_id, run.uid, number),
            keys.chunk(run.run_id, run.uid, number, 0),
            keys.round(run.run_id, run.uid, number + 1),
            keys.epochs(run.run_id, run.uid, number),
        ]
        arguments: list[Argument] = [
            run.uid,
            _said(attempt),
            number,
            self._link.now(),
            round_.version,
            records.write_set(ref),
            orjson.dumps(dict(selection)),
            orjson.dumps(dict(fit)),
            number + 1,
            "" if ref.n_members == run.config.n_samples else records.write_set(ref),
        ]
        field, values = set_field(ref.digest), chunks.split([selected])
        answer = await self._write("finish", names, arguments, run, number, field, values)
        if answer[0] not in ("set", "moved"):
            raise refused(answer, run.run_id, number, attempt)
        return answer[0] == "set"

    async def _write(
        self,
        script: str,
        names: Sequence[str],
        arguments: Sequence[Argument],
        run: Run,
        round_: int,
        field: str,
        values: Sequence[bytes],
    ) -> list[str]:
        """Run a script that writes a field, and return its answer.

        Chunks >= 1 lie in other slots, so they go first. The script is asked before whether it would take them: a
        refused write must not leave them behind.
        """
        with translated():
            if len(values) > 1:
                answer = await self._link.scripts.run(script, names, arguments)
                if answer[0] != "clear":
                    return answer
                await self._bits.write_tail(run, round_, field, values)
            answer = await self._link.scripts.run(script, names, [*arguments, field, values[0]])
        if len(values) > 1 and answer[0] == "gone":
            await self._bits.unlink_tail(run, round_)
        if len(values) > 1 and answer[0] == "finished":  # and cleaned up, perhaps before these were written
            await self._bits.collect_garbage(run, *await self.get(run, range(round_, round_ + 1)))
        return answer

    def _names(self, run: Run, round_: int) -> list[str]:
        keys = self._link.keys
        return [
            keys.run(run.run_id),
            keys.round(run.run_id, run.uid, round_),
            keys.epochs(run.run_id, run.uid, round_),
            keys.chunk(run.run_id, run.uid, round_, 0),
        ]


def _said(attempt: int | None) -> Argument:
    """An attempt as the guard takes it: empty when the caller does not say."""
    return "" if attempt is None else attempt


def _set_ref(round_: int, members: Bitmap) -> SetRef:
    """What a set is referred to by."""
    return SetRef(round_, hashlib.sha256(members.tobytes()).hexdigest()[:32], bitmap.popcount(members))
