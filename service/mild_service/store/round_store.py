"""Rounds of a run: reading, members, planted samples, metrics, resuming and finishing."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service.concurrency import LruCache
from mild_service.errors import MembersFrozen, MetricsConflict, PlantedFrozen
from mild_service.models import CommitOutcome, Round, Run, SetRef
from mild_service.store import codec
from mild_service.store.bitmaps import BitmapWriter, CachedRound, read_rounds
from mild_service.store.context import Argument, StoreContext, encode_attempt, refusal_error
from mild_service.store.error_translation import translate_errors
from mild_service.store.keys import set_field

_CACHE_BYTES = 32 * 2**20
"""Memory for the records of the rounds that were read last."""


class RoundStore:
    """Reads and changes the rounds of a run."""

    def __init__(self, context: StoreContext, writer: BitmapWriter) -> None:
        self._context = context
        self._writer = writer
        self._cache: LruCache[CachedRound] = LruCache(_CACHE_BYTES)

    async def get(self, run: Run, numbers: range) -> list[Round]:
        """Read the rounds with these numbers atomically, ascending."""
        return await read_rounds(self._context, run, numbers, self._cache)

    async def resume(self, run: Run, round_: int, epoch: int) -> int:
        """Delete the open round's epochs from `epoch` on, start a new attempt, and return the number of the attempt."""
        keys = self._context.keys
        *names, events = self._writer.script_keys(run, round_)
        names += [keys.metrics(run.run_id, run.uid, round_), events]
        with translate_errors():
            answer = await self._context.scripts.run(
                "resume_run", names, [run.uid, round_, await self._context.now(), epoch]
            )
        if answer[0] != "resumed":
            raise refusal_error(answer, run.run_id, round_, None)
        return int(answer[1])

    async def put_members(self, run: Run, round_: int, members: Bitmap, attempt: int | None) -> tuple[bool, int]:
        """Set the members of the open round: the samples that the model is trained on.

        Parameters
        ----------
        run, round_
            The run and its open round.
        members
            Shape (n_bytes,), the members as a bitmap.
        attempt
            The writer's attempt; None accepts the current one.

        Returns
        -------
        bool
            False if the round has the same members already.
        int
            Number of members.
        """
        ref = _make_set_ref(round_, members)
        is_full = ref.n_members == run.spec.num_samples
        record = "" if is_full else codec.encode_set_ref(ref)
        values = [b""] if is_full else codec.split_chunks([members])
        arguments: list[Argument] = [run.uid, encode_attempt(attempt), round_, await self._context.now(), record]
        script_keys = self._writer.script_keys(run, round_)
        answer = await self._writer.write(
            "put_members", script_keys, arguments, run, round_, set_field(ref.digest), values
        )
        match answer[0]:
            case "set" | "same":
                if answer[0] == "same" and not is_full:
                    await self._restore(run, round_, ref, values)
                return answer[0] == "set", ref.n_members
            case "finished" if await self._restore(run, round_, ref, values):
                return False, ref.n_members
            case "frozen":
                raise MembersFrozen(
                    f"round {round_} has {answer[1]} epochs already, so its members are fixed, got other ones; "
                    "set members before the round's first epoch, or drop the epochs with resume_from"
                )
        raise refusal_error(answer, run.run_id, round_, attempt)

    async def put_planted(self, run: Run, planted: Bitmap, attempt: int | None) -> tuple[bool, int]:
        """Set the planted samples of round 0: the samples that were mislabelled on purpose.

        The same set is accepted again at any time.

        Parameters
        ----------
        run
            The run.
        planted
            Shape (n_bytes,), the planted samples as a bitmap; an empty set removes them.
        attempt
            The writer's attempt; None accepts the current one.

        Returns
        -------
        bool
            False if round 0 has the same planted samples already.
        int
            Number of planted samples.
        """
        ref = _make_set_ref(0, planted)
        record = codec.encode_set_ref(ref) if ref.n_members else ""
        values = codec.split_chunks([planted]) if ref.n_members else [b""]
        arguments: list[Argument] = [run.uid, encode_attempt(attempt), await self._context.now(), record]
        script_keys = self._writer.script_keys(run, 0)
        answer = await self._writer.write("put_planted", script_keys, arguments, run, 0, set_field(ref.digest), values)
        match answer[0]:
            case "set" | "same":
                if answer[0] == "same":
                    await self._restore(run, 0, ref, values)
                return answer[0] == "set", ref.n_members
            case "frozen":
                raise PlantedFrozen(
                    f"round 0 has {answer[1]} epochs already, so its planted samples are fixed, got other ones; "
                    "put them before the first epoch, or drop the epochs with resume_from"
                )
        raise refusal_error(answer, run.run_id, 0, attempt)

    async def _restore(self, run: Run, round_: int, ref: SetRef, contents: Sequence[bytes]) -> int:
        """Restore damaged values of the members or planted samples of a round, if they are this set."""
        (stored,) = await self.get(run, range(round_, round_ + 1))
        same = [used for used in (stored.members, stored.planted) if used is not None and used.digest == ref.digest]
        return sum([await self._writer.restore(run, used.round, set_field(ref.digest), contents) for used in same])

    async def put_metrics(
        self, run: Run, round_: int, epoch: int, metrics: Mapping[str, float], attempt: int | None, replace: bool
    ) -> CommitOutcome:
        """Store the metrics of an epoch of the open round.

        Parameters
        ----------
        run, round_, epoch
            The run, its open round, and the number of the epoch.
        metrics
            Values by name.
        attempt
            The writer's attempt; None accepts the current one.
        replace
            Whether different stored metrics are replaced.
        """
        keys = self._context.keys
        names = [
            keys.run(run.run_id),
            keys.metrics(run.run_id, run.uid, round_),
            keys.events(run.run_id, run.uid),
        ]
        value = codec.canonical_json(metrics)
        arguments: list[Argument] = [
            run.uid,
            encode_attempt(attempt),
            round_,
            await self._context.now(),
            epoch,
            value,
            int(replace),
            codec.encode_metrics(round_, epoch, metrics),
        ]
        with translate_errors():
            answer = await self._context.scripts.run("put_metrics", names, arguments)
        match answer[0]:
            case "committed" | "same" | "replaced":
                return answer[0]
            case "conflict":
                raise MetricsConflict(
                    f"epoch {epoch} of round {round_} has the metrics {answer[1].partition(' ')[0]}, got "
                    f"{value.decode()}; send the same, or replace them with ?replace=true"
                )
        raise refusal_error(answer, run.run_id, round_, attempt)

    async def finish(
        self,
        run: Run,
        round_: Round,
        selected: Bitmap,
        selection: Mapping[str, Any],
        fit: Mapping[str, Any],
        attempt: int | None,
    ) -> bool:
        """Freeze a round with its selection, and open the next round.

        Parameters
        ----------
        run, round_
            The run, and the record of its open round from which the selection was computed.
        selected
            Shape (n_bytes,), the kept samples as a bitmap. They become the members of the next round.
        selection, fit
            JSON of the selection, and of its fit.
        attempt
            The writer's attempt; None accepts the current one.

        Returns
        -------
        bool
            False, with nothing changed, if the round was changed after `round_` was read.
        """
        keys, number = self._context.keys, round_.number
        ref = _make_set_ref(number, selected)
        script_keys = [
            keys.run(run.run_id),
            keys.round(run.run_id, run.uid, number),
            keys.chunk(run.run_id, run.uid, number, 0),
            keys.round(run.run_id, run.uid, number + 1),
            keys.epochs(run.run_id, run.uid, number),
            keys.events(run.run_id, run.uid),
        ]
        arguments: list[Argument] = [
            run.uid,
            encode_attempt(attempt),
            number,
            await self._context.now(),
            round_.version,
            codec.encode_set_ref(ref),
            orjson.dumps(dict(selection)),
            orjson.dumps(dict(fit)),
            number + 1,
            "" if ref.n_members == run.spec.num_samples else codec.encode_set_ref(ref),
        ]
        field, values = set_field(ref.digest), codec.split_chunks([selected])
        answer = await self._writer.write("finish_round", script_keys, arguments, run, number, field, values)
        if answer[0] not in ("set", "moved"):
            raise refusal_error(answer, run.run_id, number, attempt)
        return answer[0] == "set"


def _make_set_ref(round_: int, members: Bitmap) -> SetRef:
    """Return the reference to a set of samples in the chunks of a round."""
    return SetRef(round_, hashlib.sha256(members.tobytes()).hexdigest()[:32], bitmap.popcount(members))
