"""External sample ids: checked and stored piece by piece, looked up, and put beside indices."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias, TypeVar

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from mild_core.errors import InvalidInput, SampleIdError
from mild_core.sample_ids import IdIndex, find_id_error, hash_ids
from mild_service.concurrency import LruCache
from mild_service.errors import NoSampleIds, SampleIdsFrozen, SampleNotFound, StoreDamaged, StoreError, StoreUnavailable
from mild_service.models import NO_PRECONDITION, Precondition, Run, SampleIdsRef
from mild_service.store import PIECE_SAMPLES, Store

T = TypeVar("T")
Unit: TypeAlias = Literal["line", "row"]

_READS = 20


class ExternalIds:
    """The external ids of runs' samples.

    Parameters
    ----------
    store
        Where they are.
    cache_bytes
        Memory for look-ups of the runs that were used last; ids do not change once a log has used them.
    """

    def __init__(self, store: Store, cache_bytes: int) -> None:
        self._store = store
        self._indices: LruCache[IdIndex] = LruCache(cache_bytes)
        self._loading = asyncio.Lock()

    async def put(
        self,
        run: Run,
        unit: Unit,
        batches: AsyncIterator[Sequence[str]],
        condition: Precondition = NO_PRECONDITION,
    ) -> tuple[Literal["set", "same", "replaced"], str]:
        """Store the ids of all samples, in their order; return also their digest.

        Little more than a piece of them is in memory, and 36 bytes a sample to find out whether one is there twice.
        `unit` is what the body numbers, in errors.

        Raises
        ------
        SampleIdError
            If one cannot be an id, or is there twice.
        InvalidInput
            If they are not one per sample.
        SampleIdsFrozen
            If others are there, and epochs.
        PreconditionFailed
            If those that are there are not as `condition` demands.
        """
        condition.check("sample ids", None if run.ids is None else run.ids.digest)  # before the work, not only after it
        upload = secrets.token_hex(8)
        kept = False
        try:
            ref = await self._upload(run, upload, unit, batches)
            outcome, kept = await self._commit(run, ref, condition)
            return outcome, ref.digest
        finally:
            if not kept:
                with suppress(StoreError):  # goes with the run at last
                    await self._store.sample_ids.delete(run, upload)

    async def get_index(self, run: Run) -> IdIndex:
        """Which sample an id names.

        Raises
        ------
        NoSampleIds
            If the run has none.
        """
        return await self._read(run, self._load)

    async def find_index(self, run: Run, name: str) -> int:
        """The sample that an id names.

        Raises
        ------
        NoSampleIds, SampleNotFound
            If there is none.
        """
        found = int((await self.get_index(run)).find_indices([name])[0])
        if found < 0:
            raise SampleNotFound(
                f"none of the {run.spec.num_samples} samples of run {run.run_id!r} has the id {name[:60]!r}; "
                f"GET /runs/{run.run_id}/sample-ids lists all"
            )
        return found

    async def get_ids(self, run: Run, indices: NDArray[np.int64]) -> list[str]:
        """The ids of samples, in the order of `indices`, which ascend.

        Raises
        ------
        NoSampleIds
            If the run has none.
        """

        async def read(run: Run, ref: SampleIdsRef) -> list[str]:
            pieces = indices // PIECE_SAMPLES
            out: list[str] = []
            async for piece, ids in self._store.sample_ids.read_pieces(run, ref, np.unique(pieces).tolist()):
                places = indices[slice(*np.searchsorted(pieces, (piece, piece + 1)))] - piece * PIECE_SAMPLES
                out += map(ids.__getitem__, places.tolist())
            return out

        return await self._read(run, read)

    async def _upload(self, run: Run, upload: str, unit: Unit, batches: AsyncIterator[Sequence[str]]) -> SampleIdsRef:
        """Write all pieces, and return what will refer to them."""
        n_samples, digest = run.spec.num_samples, hashlib.sha256()
        rest: list[str] = []
        parts: list[NDArray[np.uint64]] = []
        n_ids, n_pieces, piece_bytes = 0, 0, 0
        async for batch in batches:
            n_ids += len(batch)
            if n_ids > n_samples:
                raise _wrong_number(run, f"{n_ids} or more")
            parts.append(await anyio.to_thread.run_sync(_checked, batch, n_ids - len(batch) + 1, unit, digest))
            rest += batch
            while len(rest) >= PIECE_SAMPLES:
                written = await self._store.sample_ids.write_piece(run, upload, n_pieces, rest[:PIECE_SAMPLES])
                rest, n_pieces, piece_bytes = rest[PIECE_SAMPLES:], n_pieces + 1, max(piece_bytes, written)
        if n_ids != n_samples:
            raise _wrong_number(run, str(n_ids))
        if rest:
            piece_bytes = max(piece_bytes, await self._store.sample_ids.write_piece(run, upload, n_pieces, rest))
        index = await anyio.to_thread.run_sync(lambda: IdIndex(np.concatenate(parts)))
        if duplicate := index.find_duplicate():
            first, second = duplicate
            raise sample_id_error(unit, second + 1, f"it is the same id as {unit} {first + 1}, ids are unique")
        return SampleIdsRef(upload, digest.hexdigest()[:32], piece_bytes)

    async def _commit(
        self, run: Run, ref: SampleIdsRef, condition: Precondition
    ) -> tuple[Literal["set", "same", "replaced"], bool]:
        """Make an upload the run's ids; return also whether it is referred to now."""
        while True:
            condition.check("sample ids", None if run.ids is None else run.ids.digest)
            if run.ids is not None and run.ids.digest == ref.digest:
                return "same", False
            outcome = await self._store.sample_ids.commit(run, ref)
            if outcome == "frozen":
                raise SampleIdsFrozen(
                    f"run {run.run_id!r} has epochs and other sample ids; send the same ids, "
                    "or open another run for these"
                )
            if outcome == "set":
                if run.ids is None:
                    return "set", True
                with suppress(StoreError):
                    await self._store.sample_ids.delete(run, run.ids.upload)
                return "replaced", True
            run = await self._refresh(run)

    async def _load(self, run: Run, ref: SampleIdsRef) -> IdIndex:
        async with self._loading:  # one at a time: so the memory is bounded, and nothing is loaded twice
            index = self._indices.get(ref.upload)
            if index is None:
                n_pieces = -(-run.spec.num_samples // PIECE_SAMPLES)
                parts = [
                    await anyio.to_thread.run_sync(hash_ids, ids)
                    async for _, ids in self._store.sample_ids.read_pieces(run, ref, range(n_pieces))
                ]
                index = await anyio.to_thread.run_sync(lambda: IdIndex(np.concatenate(parts)))
                self._indices.put(ref.upload, index)
            return index

    async def _read(self, run: Run, read: Callable[[Run, SampleIdsRef], Awaitable[T]]) -> T:
        """Read the run's ids, again if they are replaced meanwhile."""
        for _ in range(_READS):
            if run.ids is None:
                raise no_sample_ids_error(run)
            try:
                return await read(run, run.ids)
            except StoreDamaged:
                fresh = await self._refresh(run)
                if fresh.ids == run.ids:
                    raise
                run = fresh
        raise StoreUnavailable(
            f"the sample ids of run {run.run_id!r} were replaced while they were read, {_READS} times; ask again"
        )

    async def _refresh(self, run: Run) -> Run:
        """The run's record now; of a run that was opened anew the old one, whose writes and reads find nothing."""
        fresh = await self._store.runs.get(run.run_id)
        return fresh if fresh.uid == run.uid else run


def no_sample_ids_error(run: Run) -> NoSampleIds:
    """The error for a run whose samples have no external ids."""
    return NoSampleIds(
        f"run {run.run_id!r} has no sample ids; put one per sample with PUT /runs/{run.run_id}/sample-ids"
    )


def sample_id_error(unit: Unit, number: int, says: str) -> SampleIdError:
    """The error for one id of a body."""
    error = SampleIdError(f"{unit} {number}: {says}; correct it and send all ids again, none was stored")
    error.line = number
    return error


def _checked(ids: Sequence[str], first: int, unit: Unit, digest: "hashlib._Hash") -> NDArray[np.uint64]:
    """Digests of ids, once they have been checked; `first` is the number of the first."""
    for number, name in enumerate(ids, first):
        if says := find_id_error(name):
            raise sample_id_error(unit, number, says)
    digest.update(("\n".join(ids) + "\n").encode())
    return hash_ids(ids)


def _wrong_number(run: Run, got: str) -> InvalidInput:
    return InvalidInput(
        f"run {run.run_id!r} has {run.spec.num_samples} samples, got {got} ids; send one id per sample, in their order"
    )
