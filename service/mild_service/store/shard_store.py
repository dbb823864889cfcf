"""Epochs in shards: each kept by itself, all of them merged once they are in.

Shards never touch each other, so that any number of ranks may write at once; only the merging compares and swaps, and
whoever loses there finds that somebody else has won.
"""

import hashlib
import secrets
from collections.abc import Sequence

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service.errors import EpochConflict, EpochKindConflict, StoreDamaged
from mild_service.models import Epoch, Run, ShardOutcome, ShardRef
from mild_service.store import codec
from mild_service.store.bitmaps import BitmapStore, BitmapWriter
from mild_service.store.context import Argument, StoreContext, refusal_error
from mild_service.store.epoch_store import EpochStore, describe_kind
from mild_service.store.error_translation import blobs, translated
from mild_service.store.keys import shard_field
from mild_service.store.packed_epoch import PackedEpoch

_TRIES = 50


class ShardStore:
    """Verbs on the shards of an open round's epochs."""

    def __init__(self, context: StoreContext, bitmaps: BitmapStore, writer: BitmapWriter, epochs: EpochStore) -> None:
        self._context = context
        self._bitmaps = bitmaps
        self._writer = writer
        self._epochs = epochs

    async def put(
        self, run: Run, round_: int, number: int, shard: int, of: int, packed: PackedEpoch, attempt: int, replace: bool
    ) -> tuple[ShardOutcome, Epoch]:
        """Keep a shard; return what that did, and the epoch as it then stood, not merged yet.

        Raises
        ------
        EpochConflict, EpochKindConflict
            If the shard or the epoch holds other content, or the epoch is written in another way, and is not to be
            replaced.
        StaleAttempt, RoundFinished, RoundNotOpen, RunNotFound
            If the run does not accept this write.
        """
        assert packed.n_observed is not None, "a shard says who was observed"
        name = secrets.token_hex(8)
        arguments: list[Argument] = [
            run.uid,
            attempt,
            round_,
            self._context.now(),
            number,
            shard,
            of,
            packed.digest,
            packed.n_correct,
            packed.n_observed,
            codec.write_shard(name, packed.digest, packed.n_correct, packed.n_observed),
            int(replace),
        ]
        names, field = self._writer.keys(run, round_), shard_field(number, shard, name)
        answer = await self._writer.write("put_shard", names, arguments, run, round_, field, packed.values)
        match answer[0]:
            case "stored" | "same" | "replaced":
                return answer[0], codec.read_epoch(number, answer[1].encode())
            case "kind":
                raise _other_kind(round_, codec.read_epoch(number, answer[1].encode()), of)
            case "conflict":
                raise _conflict(round_, codec.read_epoch(number, answer[1].encode()), shard, packed, answer[2])
        raise refusal_error(answer, run.run_id, round_, attempt)

    async def read_refs(self, run: Run, round_: int, epoch: Epoch) -> list[ShardRef] | None:
        """The shards that an epoch consists of; None when it is not as it was read in `epoch` any more."""
        keys = self._context.keys
        with translated():
            names = [keys.epochs(run.run_id, run.uid, round_), keys.shards(run.run_id, run.uid, round_)]
            record, *found = await self._context.scripts.read("read_shards", names, [epoch.number, epoch.n_shards or 0])
        if record != codec.write_epoch(epoch).encode():
            return None
        held = enumerate(blobs(found))
        return [codec.read_shard(shard, value) for shard, value in held if value is not None]

    async def read_bits(self, run: Run, round_: int, number: int, refs: Sequence[ShardRef]) -> tuple[Bitmap, Bitmap]:
        """The union of shards: observed and correct, shape (n_bytes,) each.

        Raises
        ------
        StoreDamaged
            If a shard is not there (any more).
        """
        return await self._bitmaps.read_union(run, round_, _fields(number, refs))

    async def merge(self, run: Run, round_: int, epoch: Epoch, attempt: int | None) -> Epoch | None:
        """Commit `epoch` as the union of the shards that are in; None when it is not as it was read any more.

        Raises
        ------
        StaleAttempt, RoundFinished, RoundNotOpen, RunNotFound
            If the run does not accept this write.
        StoreDamaged
            If a shard's bits are missing.
        """
        refs = await self.read_refs(run, round_, epoch)
        if refs is None:
            return None
        try:
            observed, correct = await self.read_bits(run, round_, epoch.number, refs)
        except StoreDamaged:
            if await self.read_refs(run, round_, epoch) is None:
                return None  # merged by somebody else, just now
            raise
        merged = Epoch(
            number=epoch.number,
            attempt=run.attempt if attempt is None else attempt,
            digest=_digest(refs),
            planes=2,
            n_correct=bitmap.popcount(correct),
            n_observed=bitmap.popcount(observed),
            kind="shards",
            n_shards=epoch.n_shards,
            n_stored_shards=epoch.n_stored_shards,
        )
        values = codec.split_chunks([observed, correct])
        fields = _fields(epoch.number, refs)
        came = await self._epochs.merge(run, round_, merged, values, epoch, attempt, shards=fields)
        return merged if came else None


def _fields(number: int, refs: Sequence[ShardRef]) -> list[str]:
    return [shard_field(number, ref.shard, ref.name) for ref in refs]


def _digest(refs: Sequence[ShardRef]) -> str:
    """Of an epoch that was merged from shards."""
    content = ",".join(f"{ref.shard}:{ref.digest}" for ref in refs)
    return hashlib.sha256(f"shards {content}".encode()).hexdigest()[:32]


def _other_kind(round_: int, held: Epoch, of: int) -> EpochKindConflict:
    how = describe_kind(held.kind) if held.n_shards is None else f"in {held.n_shards} shards"
    return EpochKindConflict(
        f"epoch {held.number} of round {round_} is written {how}, got a shard of {of}; "
        "send it in the same way, or begin it anew with ?replace=true"
    )


def _conflict(round_: int, held: Epoch, shard: int, packed: PackedEpoch, record: str) -> EpochConflict:
    if record:
        known = codec.read_shard(shard, record.encode())
        state = f"holds other content (sha-256 {known.digest[:12]}…), got {packed.digest[:12]}…"
    else:
        state = f"did not come before the epoch was committed with {held.n_stored_shards} of {held.n_shards} shards"
    return EpochConflict(
        f"shard {shard} of epoch {held.number}, round {round_}, {state}; "
        "send the same bits, or replace with ?replace=true"
    )
