"""External sample ids, stored in pieces of 8,192 lines; an upload is complete before the run's record refers to it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias, cast

from mild_service.models import Run, SampleIdsRef
from mild_service.store import codec
from mild_service.store.context import StorePart
from mild_service.store.keys import piece_field
from mild_service.store.values import read_values, restore_values, write_values

CommitOutcome: TypeAlias = Literal["set", "moved", "frozen"]
"""Outcome of committing an upload; only ``set`` changes data.

``moved`` means that other ids were stored in the meantime, and ``frozen`` that the run has epochs, so that its ids can
no longer change."""


class SampleIdStore(StorePart):
    """Reads and writes external sample ids."""

    async def write_piece(self, run: Run, upload: str, piece: int, ids: Sequence[str]) -> int:
        """Write a piece of an upload, and return the size of the piece in bytes.

        Parameters
        ----------
        run
            The run.
        upload
            Random name of the upload.
        piece
            Number of the piece, from 0.
        ids
            `PIECE_SAMPLES` ids, or the rest in the last piece.
        """
        content = "\n".join(ids).encode()
        await write_values(self._context, piece_field(upload, piece), [(self._chunk_key(run, piece), content)])
        return len(content)

    async def commit(self, run: Run, ref: SampleIdsRef) -> CommitOutcome:
        """Make the run's record refer to a complete upload instead of the ids to which `run` refers."""
        keys = self._context.keys_of(run)
        old = "" if run.ids is None else codec.encode_sample_ids_ref(run.ids)
        arguments = [old, codec.encode_sample_ids_ref(ref)]
        (outcome,) = await self._context.change_run("put_sample_ids", run, [keys.run, keys.epochs(0)], arguments)
        return cast(CommitOutcome, outcome)

    async def restore(self, run: Run, ref: SampleIdsRef, upload: str) -> None:
        """Restore the pieces of stored ids that are missing or damaged from an upload of the same ids."""
        new = replace(ref, upload=upload)
        async for piece, ids in self.read_pieces(run, new, range(-(-run.spec.num_samples // codec.PIECE_SAMPLES))):
            contents = [(self._chunk_key(run, piece), "\n".join(ids).encode())]
            await restore_values(self._context, piece_field(ref.upload, piece), contents)

    async def delete(self, run: Run, upload: str) -> None:
        """Delete an upload to which no record refers."""
        keys = self._context.keys_of(run)
        for chunk in range(keys.n_chunks):
            fields = [piece_field(upload, piece) for piece in codec.list_pieces(chunk, run.spec.num_samples)]
            await self._context.call("HDEL", keys.sample_ids(chunk), *fields)

    async def read_pieces(
        self, run: Run, ref: SampleIdsRef, pieces: Sequence[int]
    ) -> AsyncIterator[tuple[int, list[str]]]:
        """Yield the number and the ids of each piece, ascending by number.

        Several pieces are read at once, up to the maximum size of a reply.

        Parameters
        ----------
        run, ref
            The run, and the reference to its ids.
        pieces
            Numbers of the pieces to read.
        """
        group_size = max(1, codec.REPLY_BYTES // max(1, ref.piece_bytes))
        for group in _group_by_chunk(sorted(pieces), group_size):
            key, fields = self._chunk_key(run, group[0]), [piece_field(ref.upload, piece) for piece in group]
            contents = await read_values(self._context, run, key, fields)
            for piece, content in zip(group, contents, strict=True):
                yield piece, str(content, "utf-8").split("\n")

    def _chunk_key(self, run: Run, piece: int) -> str:
        return self._context.keys_of(run).sample_ids(_find_chunk(piece))


def _find_chunk(piece: int) -> int:
    """Return the number of the chunk with the samples of a piece."""
    return piece * codec.PIECE_SAMPLES // codec.CHUNK_SAMPLES


def _group_by_chunk(pieces: Sequence[int], group_size: int) -> list[list[int]]:
    """Group pieces of the same chunk, at most `group_size` per group."""
    groups: list[list[int]] = []
    for piece in pieces:
        last = groups[-1] if groups else []
        if last and _find_chunk(last[0]) == _find_chunk(piece) and len(last) < group_size:
            last.append(piece)
        else:
            groups.append([piece])
    return groups
