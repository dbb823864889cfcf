"""Rounds of a run: reading, members, planted samples, metrics, resuming and finishing."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service.concurrency import LruCache
from mild_service.errors import MembersFrozen, MetricsConflict, PlantedFrozen, RoundFinished
from mild_service.models import CommitOutcome, Round, Run, SetName, SetRef
from mild_service.store import codec
from mild_service.store.context import Argument, StoreContext, StorePart
from mild_service.store.keys import set_field
from mild_service.store.records import CachedRound, read_rounds
from mild_service.store.values import collect_garbage, commit_bitmaps, restore_bitmaps

_CACHE_BYTES = 32 * 2**20
"""Memory for the records of the rounds that were read last."""


class RoundStore(StorePart):
    """Reads and changes the rounds of a run."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._cache: LruCache[CachedRound] = LruCache(_CACHE_BYTES)

    async def get(self, run: Run, numbers: range) -> list[Round]:
        """Read the rounds with these numbers atomically, ascending."""
        return await read_rounds(self._context, run, numbers, self._cache)

    async def resume(self, run: Run, round_: int, epoch: int) -> int:
        """Delete the open round's epochs from `epoch` on, start a new attempt, and return the number of the attempt."""
        keys = self._context.keys_of(run)
        names = [*keys.list_written(round_), keys.metrics(round_)]
        _, attempt, _ = await self._context.change_run("resume_run", run, names, [epoch], round_)
        return int(attempt)

    async def put_set(
        self, run: Run, name: SetName, round_: int, samples: Bitmap, attempt: int | None
    ) -> tuple[bool, int]:
        """Set the members or the planted samples of the open round, before its first epoch.

        The same planted samples are accepted again at any time, and the same members while the round is open. Values of
        the same set that are missing or damaged are restored, in finished rounds too.

        Parameters
        ----------
        run, round_
            The run and its open round. Only round 0 has planted samples.
        name
            ``members``, the samples that the model is trained on, or ``planted``, those mislabelled on purpose.
        samples
            Shape (n_bytes,), the set as a bitmap. All members, or no planted samples, are the same as none set.
        attempt
            The writer's attempt; None accepts the current one.

        Returns
        -------
        bool
            False if the round has the same set already.
        int
            Size of the set.
        """
        ref = _make_set_ref(round_, samples)
        is_default = ref.n_members == (run.spec.num_samples if name == "members" else 0)
        record, contents = ("", [b""]) if is_default else (codec.encode_set_ref(ref), codec.split_chunks([samples]))
        field = set_field(ref.digest)
        try:
            outcome, *n_epochs = await commit_bitmaps(
                self._context, "put_set", run, round_, attempt, [name, record], field, contents
            )
        except RoundFinished:
            if await self._restore(run, round_, ref, contents):
                return False, ref.n_members
            raise
        if outcome == "same":
            await self._restore(run, round_, ref, contents)
        elif outcome == "frozen" and name == "members":
            raise MembersFrozen(
                f"round {round_} has {n_epochs[0]} epochs already, so its members are fixed, got other ones; "
                "set members before the round's first epoch, or drop the epochs with resume_from"
            )
        elif outcome == "frozen":
            raise PlantedFrozen(
                f"round 0 has {n_epochs[0]} epochs already, so its planted samples are fixed, got other ones; "
                "put them before the first epoch, or drop the epochs with resume_from"
            )
        return outcome == "set", ref.n_members

    async def _restore(self, run: Run, round_: int, ref: SetRef, contents: Sequence[bytes]) -> int:
        """Restore damaged values of the members or planted samples of a round, if they are this set."""
        (stored,) = await self.get(run, range(round_, round_ + 1))
        same = [used for used in (stored.members, stored.planted) if used is not None and used.digest == ref.digest]
        field = set_field(ref.digest)
        return sum([await restore_bitmaps(self._context, run, used.round, field, contents) for used in same])

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
        keys = self._context.keys_of(run)
        value = codec.canonical_json(metrics)
        arguments: list[Argument] = [epoch, value, int(replace), codec.encode_metrics(round_, epoch, metrics)]
        names = [keys.run, keys.metrics(round_), keys.events]
        outcome, *stored = await self._context.change_run("put_metrics", run, names, arguments, round_, attempt)
        if outcome == "conflict":
            raise MetricsConflict(
                f"epoch {epoch} of round {round_} has the metrics {stored[0].partition(' ')[0]}, got {value.decode()}; "
                "send the same, or replace them with ?replace=true"
            )
        return cast(CommitOutcome, outcome)

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
        number, next_round = round_.number, self._context.keys_of(run).round(round_.number + 1)
        ref = _make_set_ref(number, selected)
        arguments: list[Argument] = [
            round_.version,
            codec.encode_set_ref(ref),
            orjson.dumps(dict(selection)),
            orjson.dumps(dict(fit)),
            number + 1,
            "" if ref.n_members == run.spec.num_samples else codec.encode_set_ref(ref),
        ]
        field, contents = set_field(ref.digest), codec.split_chunks([selected])
        (outcome,) = await commit_bitmaps(
            self._context, "finish_round", run, number, attempt, arguments, field, contents, [next_round]
        )
        return outcome == "set"

    async def collect_garbage(self, run: Run, number: int) -> int:
        """Delete the data of a finished round to which no record refers; return the number of deleted fields."""
        return await collect_garbage(self._context, run, number)


def _make_set_ref(round_: int, members: Bitmap) -> SetRef:
    """Return the reference to a set of samples in the chunks of a round."""
    return SetRef(round_, hashlib.sha256(members.tobytes()).hexdigest()[:32], bitmap.popcount(members))
