"""External sample ids: checking and storing them in pieces, and looking up ids and indices."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias, TypeVar

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from mild_core.errors import InvalidInput, SampleIdError
from mild_core.sample_ids import IdIndex, find_id_error, hash_ids, is_number
from mild_service.admission import Admission, SharedWork, take_memory, take_memory_now
from mild_service.concurrency import LruCache
from mild_service.errors import NoSampleIds, SampleIdsFrozen, SampleNotFound, StoreError
from mild_service.models import NO_PRECONDITION, Precondition, Run, SampleIdsRef
from mild_service.store import PIECE_SAMPLES, Store

T = TypeVar("T")
Unit: TypeAlias = Literal["line", "row"]
"""Unit in which error messages number the ids of a body."""

_INDEX_BYTES = 52
"""Most memory for the id of one sample while an index is built: 16 bytes of hash, twice, and 20 of the index."""


class ExternalIds:
    """Stores the external ids of samples, and translates between ids and sample indices.

    Parameters
    ----------
    store
        The store.
    cache_bytes
        Maximum size of the cached indexes from ids to samples, in bytes.
    admission
        Grants the memory for indexes.
    """

    def __init__(self, store: Store, cache_bytes: int, admission: Admission) -> None:
        self._store = store
        self._indices: LruCache[IdIndex] = LruCache(cache_bytes)
        admission.memory.add_cache(self._indices)
        self._shared = SharedWork(admission)

    async def put(
        self,
        run: Run,
        unit: Unit,
        batches: AsyncIterator[Sequence[str]],
        precondition: Precondition = NO_PRECONDITION,
    ) -> tuple[Literal["set", "same", "replaced"], str]:
        """Check and store the ids of all samples; return the outcome and the digest of the ids.

        Memory is limited to about one piece of ids, and 36 bytes per sample to detect duplicates.

        Parameters
        ----------
        run
            The current record of the run.
        unit
            Unit in which error messages number the ids.
        batches
            The ids in the order of the sample indices, in batches of any size.
        precondition
            Precondition on the digest of the stored ids.
        """
        precondition.check(
            "sample ids", None if run.ids is None else run.ids.digest
        )  # before the upload, not only after it
        upload = secrets.token_hex(8)
        is_committed = False
        try:
            ref = await self._upload(run, upload, unit, batches)
            outcome, is_committed = await self._commit(run, ref, precondition)
            return outcome, ref.digest
        finally:
            if not is_committed:
                with suppress(StoreError):  # at the latest, it is deleted with the run
                    await self._store.sample_ids.delete(run, upload)

    async def get_index(self, run: Run) -> IdIndex:
        """Return the index from external ids to samples."""
        return await self._read_current(run, self._load_index)

    async def find_index(self, run: Run, sample_id: str) -> int:
        """Return the index of the sample with this external id."""
        index = int((await self.get_index(run)).find_indices([sample_id])[0])
        if index < 0:
            raise SampleNotFound(
                f"none of the {run.spec.num_samples} samples of run {run.run_id!r} has the id {sample_id[:60]!r}; "
                f"GET /runs/{run.run_id}/sample-ids lists all"
            )
        return index

    async def get_ids(self, run: Run, indices: NDArray[np.int64]) -> list[str]:
        """Return the external ids of the samples with these ascending indices, in the same order."""

        async def read_ids(run: Run, ref: SampleIdsRef) -> list[str]:
            pieces = indices // PIECE_SAMPLES
            names: list[str] = []
            async for piece, ids in self._store.sample_ids.read_pieces(run, ref, np.unique(pieces).tolist()):
                offsets = indices[slice(*np.searchsorted(pieces, (piece, piece + 1)))] - piece * PIECE_SAMPLES
                names += map(ids.__getitem__, offsets.tolist())
            return names

        return await self._read_current(run, read_ids)

    async def get_optional_ids(self, run: Run, indices: NDArray[np.int64]) -> Sequence[str | None]:
        """Return the external ids of some samples, as `get_ids`; None for each of them if the run has no ids."""
        return [None] * indices.size if run.ids is None else await self.get_ids(run, indices)

    async def _upload(self, run: Run, upload: str, unit: Unit, batches: AsyncIterator[Sequence[str]]) -> SampleIdsRef:
        """Check the ids and write them in pieces; return the reference to the upload."""
        n_samples, digest = run.spec.num_samples, hashlib.sha256()
        buffer: list[str] = []
        digests: list[NDArray[np.uint64]] = []
        n_ids, n_pieces, piece_bytes = 0, 0, 0
        async for batch in batches:
            n_ids += len(batch)
            take_memory_now(_INDEX_BYTES * len(batch))
            if n_ids > n_samples:
                raise _count_error(run, f"{n_ids} or more")
            digests.append(await anyio.to_thread.run_sync(_check_ids, batch, n_ids - len(batch) + 1, unit, digest))
            buffer += batch
            while len(buffer) >= PIECE_SAMPLES:
                written = await self._store.sample_ids.write_piece(run, upload, n_pieces, buffer[:PIECE_SAMPLES])
                buffer, n_pieces, piece_bytes = buffer[PIECE_SAMPLES:], n_pieces + 1, max(piece_bytes, written)
        if n_ids != n_samples:
            raise _count_error(run, str(n_ids))
        if buffer:
            piece_bytes = max(piece_bytes, await self._store.sample_ids.write_piece(run, upload, n_pieces, buffer))
        index = await anyio.to_thread.run_sync(lambda: IdIndex(np.concatenate(digests)))
        if duplicate := index.find_duplicate():
            first, second = duplicate
            raise sample_id_error(unit, second + 1, f"it is the same id as {unit} {first + 1}, ids are unique")
        return SampleIdsRef(upload, digest.hexdigest()[:32], piece_bytes)

    async def _commit(
        self, run: Run, ref: SampleIdsRef, precondition: Precondition
    ) -> tuple[Literal["set", "same", "replaced"], bool]:
        """Commit an upload; return the outcome, and whether the record of the run refers to the upload now."""
        while True:
            precondition.check("sample ids", None if run.ids is None else run.ids.digest)
            if run.ids is not None and run.ids.digest == ref.digest:
                await self._store.sample_ids.restore(run, run.ids, ref.upload)
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
            run = await self._store.runs.refresh(run)

    async def _load_index(self, run: Run, ref: SampleIdsRef) -> IdIndex:
        """Return the index of an upload from the cache, or build it from the stored ids."""
        if cached := self._indices.get(ref.upload):
            return cached

        async def load() -> IdIndex:
            await take_memory(_INDEX_BYTES * run.spec.num_samples)
            n_pieces = -(-run.spec.num_samples // PIECE_SAMPLES)
            digests, has_numbers = [], False
            async for _, ids in self._store.sample_ids.read_pieces(run, ref, range(n_pieces)):
                digests.append(await anyio.to_thread.run_sync(hash_ids, ids))
                has_numbers = has_numbers or any(map(is_number, ids))
            index = await anyio.to_thread.run_sync(IdIndex, np.concatenate(digests), has_numbers)
            self._indices.put(ref.upload, index, index.n_bytes)
            return index

        return await self._shared.run(ref.upload, load)

    async def _read_current(self, run: Run, read: Callable[[Run, SampleIdsRef], Awaitable[T]]) -> T:
        """Call `read` with the ids to which the run refers; repeat if they were replaced in the meantime."""
        _, value = await self._store.runs.read_current(run, "ids", read)
        if value is None:
            raise no_sample_ids_error(run)
        return value


def no_sample_ids_error(run: Run) -> NoSampleIds:
    """Build the error for a run without external ids."""
    return NoSampleIds(
        f"run {run.run_id!r} has no sample ids; put one per sample with PUT /runs/{run.run_id}/sample-ids"
    )


def sample_id_error(unit: Unit, number: int, reason: str) -> SampleIdError:
    """Build the error for one id of a body.

    Parameters
    ----------
    unit, number
        Unit and number of the id in the body, from 1.
    reason
        Why the id is refused.
    """
    error = SampleIdError(f"{unit} {number}: {reason}; correct it and send all ids again, none was stored")
    error.line = number
    return error


def _check_ids(ids: Sequence[str], first_number: int, unit: Unit, digest: "hashlib._Hash") -> NDArray[np.uint64]:
    """Check a batch of ids, add them to `digest`, and return the hash of each id."""
    for number, sample_id in enumerate(ids, first_number):
        if reason := find_id_error(sample_id):
            raise sample_id_error(unit, number, reason)
    digest.update(("\n".join(ids) + "\n").encode())
    return hash_ids(ids)


def _count_error(run: Run, received: str) -> InvalidInput:
    return InvalidInput(
        f"run {run.run_id!r} has {run.spec.num_samples} samples, got {received} ids; "
        "send one id per sample, in their order"
    )
