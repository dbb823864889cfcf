"""Records of rounds and shards, and the fields of other hashes that the records of a run name."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from mild_service.concurrency import LruCache
from mild_service.models import AnnotationName, Epoch, Round, Run, ShardRef, run_not_found_error
from mild_service.store import codec
from mild_service.store.context import StoreContext
from mild_service.store.keys import annotation_field, epoch_field, piece_field, set_field, shard_field


@dataclass(frozen=True, slots=True)
class CachedRound:
    """A round as it was read last, with the tag that it had in the store."""

    tag: bytes
    round: Round

    @property
    def n_bytes(self) -> int:
        """Size in memory, about."""
        return 4096 + 512 * (len(self.round.epochs) + len(self.round.partial_epochs)) + 512 * len(self.round.metrics)


async def read_rounds(
    context: StoreContext, run: Run, numbers: range, cache: LruCache[CachedRound] | None = None
) -> list[Round]:
    """Read the rounds with these numbers atomically, ascending.

    Those in `cache` are not read again unless they have changed, by this or any other process.
    """
    keys = context.keys_of(run)
    triples = [[name(number) for name in (keys.round, keys.epochs, keys.metrics)] for number in numbers]
    if not triples:
        return []
    cached = [None if cache is None else cache.get(record) for record, *_ in triples]
    tags = [b"" if entry is None else entry.tag for entry in cached]
    replies = await context.read_script(
        "read_rounds", [keys.run, *(name for triple in triples for name in triple)], tags
    )
    rounds = []
    for number, (record, *_), entry, (tag, *hashes) in zip(numbers, triples, cached, replies, strict=True):
        if hashes and not hashes[0]:
            raise run_not_found_error(run.run_id)
        if hashes or entry is None:
            hashes = [dict(zip(pairs[::2], pairs[1::2], strict=True)) for pairs in hashes]
            entry = CachedRound(tag, codec.decode_round(number, *hashes))
            if cache is not None:
                cache.put(record, entry, entry.n_bytes)
        rounds.append(entry.round)
    return rounds


async def read_shard_refs(context: StoreContext, run: Run, round_: int, epoch: Epoch) -> list[ShardRef] | None:
    """Return references to the stored shards of an epoch; None if the stored record is no longer `epoch`."""
    keys = context.keys_of(run)
    record, *shard_records = await context.read_script(
        "read_shards", [keys.epochs(round_), keys.shards(round_)], [epoch.number, epoch.n_shards or 0]
    )
    if record != codec.encode_epoch(epoch).encode():
        return None
    return [codec.decode_shard(shard, value) for shard, value in enumerate(shard_records) if value is not None]


def list_shard_fields(number: int, refs: Sequence[ShardRef]) -> list[str]:
    """Return the names of the fields that hold the shards of an epoch."""
    return [shard_field(number, ref.shard, ref.name) for ref in refs]


async def list_named_fields(context: StoreContext, run: Run, rounds: Iterable[Round]) -> defaultdict[str, set[str]]:
    """Return the fields that the records of a run, and of some of its rounds, name, by the keys of the hashes."""
    keys, named, bitmaps = context.keys_of(run), defaultdict[str, set[str]](set), defaultdict[int, set[str]](set)
    refs = {name: run.annotation_ref(name) for name in get_args(AnnotationName)}
    annotations = {annotation_field(name, ref) for name, ref in refs.items() if ref is not None}
    named |= dict.fromkeys(keys.list_annotations(), annotations)
    if run.ids is not None:
        for chunk in range(keys.n_chunks):
            pieces = codec.list_pieces(chunk, run.spec.num_samples)
            named[keys.sample_ids(chunk)] = {piece_field(run.ids.upload, piece) for piece in pieces}
    for round_ in rounds:
        for epoch in round_.all_epochs.values():
            if epoch.partial and epoch.kind == "shards":
                shards = await read_shard_refs(context, run, round_.number, epoch)
                bitmaps[round_.number].update(list_shard_fields(epoch.number, shards or ()))
            else:
                bitmaps[round_.number].add(epoch_field(epoch))
        for ref in (round_.members, round_.planted, round_.selected):
            if ref is not None:
                bitmaps[ref.round].add(set_field(ref.digest))
        predicted = {epoch_field(epoch) for epoch in round_.all_epochs.values() if epoch.has_wrong_predictions}
        named |= dict.fromkeys(keys.list_wrong_predictions(round_.number), predicted)
    for number, fields in bitmaps.items():
        named |= dict.fromkeys(keys.list_chunks(number), fields)
    return named
