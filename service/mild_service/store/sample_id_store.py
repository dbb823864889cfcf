"""External sample ids, stored in pieces of 8,192 lines; an upload is complete before the run's record refers to it."""

from collections.abc import AsyncIterator, Sequence
from typing import Literal, TypeAlias

from mild_service.errors import StoreDamaged
from mild_service.models import Run, SampleIdsRef
from mild_service.store import codec
from mild_service.store.context import StoreContext, refusal_error
from mild_service.store.error_translation import blobs, translated

PIECE_SAMPLES = 8192
"""Ids per piece; a piece has at most 4 MiB, as an id has at most 512 bytes."""

_PIECES_PER_CHUNK = codec.CHUNK_SAMPLES // PIECE_SAMPLES

CommitOutcome: TypeAlias = Literal["set", "moved", "frozen"]
"""``moved``: other ids were stored in the meantime; ``frozen``: an epoch has fixed them. Only ``set`` changes data."""


class SampleIdStore:
    """Reads and writes external sample ids."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def write_piece(self, run: Run, upload: str, piece: int, ids: Sequence[str]) -> int:
        """Write a piece of an upload; return its size in bytes."""
        value = "\n".join(ids).encode()
        with translated():
            key = self._key(run, piece)
            await self._context.writer.send((key, ("HSET", key, f"{upload}:{piece}", value)))
        return len(value)

    async def commit(self, run: Run, ref: SampleIdsRef) -> CommitOutcome:
        """Refer to an upload from the run's record, replacing the ids to which `run` refers."""
        context = self._context
        names = [context.keys.run(run.run_id), context.keys.epochs(run.run_id, run.uid, 0)]
        old = "" if run.ids is None else codec.write_sample_ids_ref(run.ids)
        with translated():
            answer = await context.scripts.run(
                "put_sample_ids", names, [run.uid, context.now(), old, codec.write_sample_ids_ref(ref)]
            )
        match answer[0]:
            case "set" | "moved" | "frozen":
                return answer[0]
        raise refusal_error(answer, run.run_id, run.round, None)

    async def delete(self, run: Run, upload: str) -> None:
        """Delete an upload to which no record refers."""
        n_pieces = -(-run.spec.num_samples // PIECE_SAMPLES)
        with translated():
            for start in range(0, n_pieces, _PIECES_PER_CHUNK):
                pieces = range(start, min(start + _PIECES_PER_CHUNK, n_pieces))
                await self._context.redis.hdel(self._key(run, start), *(f"{upload}:{piece}" for piece in pieces))

    async def read_pieces(
        self, run: Run, ref: SampleIdsRef, pieces: Sequence[int]
    ) -> AsyncIterator[tuple[int, list[str]]]:
        """Yield pieces with their numbers, ascending; several are read at once, up to the maximum size of a reply.

        Raises
        ------
        StoreDamaged
            If a piece is missing.
        """
        group_size = max(1, codec.REPLY_BYTES // max(1, ref.piece_bytes))
        for group in _group_by_chunk(sorted(pieces), group_size):
            key = self._key(run, group[0])
            with translated():
                values = blobs(await self._context.redis.hmget(key, [f"{ref.upload}:{piece}" for piece in group]))
            for piece, value in zip(group, values, strict=True):
                if value is None:
                    raise StoreDamaged(
                        f"{ref.upload}:{piece} is missing in {key}; the store must not evict keys "
                        "(maxmemory-policy noeviction) and must keep its append-only file"
                    )
                yield piece, value.decode().split("\n")

    def _key(self, run: Run, piece: int) -> str:
        return self._context.keys.sample_ids(run.run_id, run.uid, piece // _PIECES_PER_CHUNK)


def _group_by_chunk(pieces: Sequence[int], group_size: int) -> list[list[int]]:
    """Group pieces of the same chunk, at most `group_size` per group."""
    groups: list[list[int]] = []
    for piece in pieces:
        last = groups[-1] if groups else []
        if last and last[0] // _PIECES_PER_CHUNK == piece // _PIECES_PER_CHUNK and len(last) < group_size:
            last.append(piece)
        else:
            groups.append([piece])
    return groups
