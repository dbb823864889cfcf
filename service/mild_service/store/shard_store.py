"""Epochs that are written in shards, which are merged once all are stored.

Shards are independent, so any number of ranks can write at the same time. Only the merge depends on the stored record:
of several concurrent merges, one succeeds.
"""

import hashlib
import secrets
from collections.abc import Sequence
from typing import cast

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service.errors import EpochConflict, EpochKindConflict, StoreDamaged
from mild_service.models import Epoch, Run, ShardOutcome, ShardRef
from mild_service.store import codec
from mild_service.store.bitmaps import BitmapStore
from mild_service.store.context import Argument, StoreContext, StorePart
from mild_service.store.epoch_store import EpochStore, PackedEpoch, describe_kind
from mild_service.store.keys import shard_field
from mild_service.store.records import list_shard_fields, read_shard_refs
from mild_service.store.values import commit_bitmaps, restore_bitmaps


class ShardStore(StorePart):
    """Stores and merges the shards of epochs of an open round."""

    def __init__(self, context: StoreContext, bitmaps: BitmapStore, epochs: EpochStore) -> None:
        super().__init__(context)
        self._bitmaps = bitmaps
        self._epochs = epochs

    async def put(
        self,
        run: Run,
        round_: int,
        number: int,
        shard: int,
        n_shards: int,
        packed: PackedEpoch,
        attempt: int,
        replace: bool,
    ) -> tuple[ShardOutcome, Epoch]:
        """Store one shard of an epoch, without merging the shards.

        Parameters
        ----------
        run, round_, number
            The run, its open round, and the number of the epoch.
        shard, n_shards
            Number of the shard, from 0, and the total number of shards.
        packed
            Observed and correct samples of the shard.
        attempt
            The writer's attempt.
        replace
            Whether a stored epoch or shard with different content is replaced.

        Returns
        -------
        outcome
            ``same`` if the shard was stored already; values of it that are missing or damaged are then restored.
        epoch
            The record of the epoch, with the number of stored shards.
        """
        assert packed.n_observed is not None, "a shard has an observed bitmap"
        name = secrets.token_hex(8)
        arguments: list[Argument] = [
            number,
            shard,
            n_shards,
            packed.digest,
            packed.n_correct,
            packed.n_observed,
            f"{name}:{packed.digest}:{packed.n_correct}:{packed.n_observed}",
            int(replace),
        ]
        field = shard_field(number, shard, name)
        outcome, record, *shard_records = await commit_bitmaps(
            self._context, "put_shard", run, round_, attempt, arguments, field, packed.values
        )
        epoch = codec.decode_epoch(number, record.encode())
        if outcome == "kind":
            raise _kind_error(round_, epoch, n_shards)
        if outcome == "conflict":
            raise _conflict_error(round_, epoch, shard, packed, shard_records[0])
        if outcome == "same" and epoch.partial:
            await self._restore(run, round_, epoch, shard, packed)
        return cast(ShardOutcome, outcome), epoch

    async def _restore(self, run: Run, round_: int, epoch: Epoch, shard: int, packed: PackedEpoch) -> None:
        """Restore damaged values of a stored shard of the same content, unless its epoch has changed."""
        for ref in await self.read_refs(run, round_, epoch) or ():
            if (ref.shard, ref.digest) == (shard, packed.digest):
                field = shard_field(epoch.number, shard, ref.name)
                await restore_bitmaps(self._context, run, round_, field, packed.values)

    async def read_refs(self, run: Run, round_: int, epoch: Epoch) -> list[ShardRef] | None:
        """Return references to the stored shards of an epoch; None if the stored record is no longer `epoch`."""
        return await read_shard_refs(self._context, run, round_, epoch)

    async def read_bits(self, run: Run, round_: int, number: int, refs: Sequence[ShardRef]) -> tuple[Bitmap, Bitmap]:
        """Read the union of shards of one epoch.

        Returns
        -------
        observed, correct
            Shape (n_bytes,) each.
        """
        return await self._bitmaps.read_union(run, round_, list_shard_fields(number, refs))

    async def merge(self, run: Run, round_: int, epoch: Epoch, attempt: int | None) -> Epoch | None:
        """Commit an epoch as the union of its stored shards.

        Parameters
        ----------
        run, round_
            The run and its open round.
        epoch
            The stored record of the epoch.
        attempt
            The writer's attempt; None accepts the current one.

        Returns
        -------
        Epoch or None
            The new record; None, with nothing changed, if the stored record is no longer `epoch`.
        """
        refs = await self.read_refs(run, round_, epoch)
        if refs is None:
            return None
        try:
            observed, correct = await self.read_bits(run, round_, epoch.number, refs)
        except StoreDamaged:
            if await self.read_refs(run, round_, epoch) is None:
                return None  # a concurrent merge has won
            raise
        merged = Epoch(
            number=epoch.number,
            attempt=run.attempt if attempt is None else attempt,
            digest=_digest_shards(refs),
            planes=2,
            n_correct=bitmap.popcount(correct),
            n_observed=bitmap.popcount(observed),
            kind="shards",
            n_shards=epoch.n_shards,
            n_stored_shards=epoch.n_stored_shards,
        )
        values = codec.split_chunks([observed, correct])
        fields = list_shard_fields(epoch.number, refs)
        replaced = await self._epochs.merge(run, round_, merged, values, epoch, attempt, shards=fields)
        return merged if replaced else None


def _digest_shards(refs: Sequence[ShardRef]) -> str:
    """Return the digest of an epoch that was merged from shards."""
    content = ",".join(f"{ref.shard}:{ref.digest}" for ref in refs)
    return hashlib.sha256(f"shards {content}".encode()).hexdigest()[:32]


def _kind_error(round_: int, epoch: Epoch, n_shards: int) -> EpochKindConflict:
    how = describe_kind(epoch.kind) if epoch.n_shards is None else f"in {epoch.n_shards} shards"
    return EpochKindConflict(
        f"epoch {epoch.number} of round {round_} is written {how}, got a shard of {n_shards}; "
        "send it in the same way, or start it again with ?replace=true"
    )


def _conflict_error(round_: int, epoch: Epoch, shard: int, packed: PackedEpoch, record: str) -> EpochConflict:
    if record:
        stored_shard = codec.decode_shard(shard, record.encode())
        state = f"holds other content (sha-256 {stored_shard.digest[:12]}…), got {packed.digest[:12]}…"
    else:
        state = f"did not come before the epoch was committed with {epoch.n_stored_shards} of {epoch.n_shards} shards"
    return EpochConflict(
        f"shard {shard} of epoch {epoch.number}, round {round_}, {state}; "
        "send the same bits, or replace with ?replace=true"
    )
