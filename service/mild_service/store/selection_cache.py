"""Cache of computed selections, and the lock by which only one replica computes a selection."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import numpy as np
import orjson

from mild_core import bitmap
from mild_service.errors import StoreDamaged, StoreError
from mild_service.models import ComputedSelection, Run
from mild_service.store import codec
from mild_service.store.context import StoreContext, StorePart
from mild_service.store.values import seal, unseal_all

_LOCK_MS = 5_000
"""Lifetime of a lock that is not renewed."""


class SelectionCache(StorePart):
    """Cache of computed selections, by run and digest of all inputs; entries expire after `seconds`."""

    def __init__(self, context: StoreContext, seconds: int) -> None:
        super().__init__(context)
        self._seconds = seconds

    async def get(self, run: Run, digest: str) -> ComputedSelection | None:
        """Return the cached selection with this digest of its inputs; None if it is not cached, or damaged."""
        key = self._context.keys_of(run).cached_selection(digest)
        n_samples = run.spec.num_samples
        names = [f"bits:{chunk}" for chunk in range(codec.count_chunks(n_samples))]
        members = np.empty(bitmap.n_bytes(n_samples), dtype=np.uint8)
        try:
            summary, fit = map(orjson.loads, await self._read_fields(key, ["summary", "fit"]))
            for group in codec.group_by_size([codec.CHUNK_BYTES] * len(names)):
                contents = await self._read_fields(key, [names[position] for position in group])
                for position, content in zip(group, contents, strict=True):
                    members[codec.chunk_slice(position, n_samples)] = np.frombuffer(content, dtype=np.uint8)
        except StoreDamaged:  # or not there, or expired just now
            return None
        return ComputedSelection(digest, summary, fit, members)

    async def _read_fields(self, key: str, fields: list[str]) -> list[memoryview]:
        """Read fields of a cached selection; raise `StoreDamaged` if one is missing or damaged."""
        return unseal_all(key, fields, await self._context.read_fields(key, fields))

    async def put(self, run: Run, computed: ComputedSelection) -> None:
        """Add a computed selection to the cache, unless the run was deleted."""
        keys = self._context.keys_of(run)
        key = keys.cached_selection(computed.digest)
        values = codec.split_chunks([computed.bitmap])
        groups = codec.group_by_size([len(value) for value in values])
        parts = [{f"bits:{chunk}": values[chunk] for chunk in group} for group in groups]
        # Last: an entry with a summary is complete.
        parts.append({"summary": orjson.dumps(dict(computed.summary)), "fit": orjson.dumps(dict(computed.fit))})
        for part in parts:
            pairs = [word for field, content in part.items() for word in (field, seal(key, field, content))]
            arguments = [self._seconds, computed.digest, run.uid, *pairs]
            await self._context.run_script("cache_selection", [key, keys.cached_digests, keys.run], arguments)

    @asynccontextmanager
    async def lock(self, run: Run, digest: str) -> AsyncIterator[bool]:
        """Context manager that takes the lock of a computation, and yields whether this process has the lock.

        The lock is renewed until the block ends, and expires if this process dies. It only saves work: a selection that
        two processes compute at the same time is the same.

        Parameters
        ----------
        run, digest
            The run, and the digest of all inputs of the computation.
        """
        key = self._context.keys_of(run).selection_lock(digest)
        owner = secrets.token_hex(8)
        if not await self._acquire_lock(key, owner):
            yield False
            return
        released = asyncio.Event()
        renewal = asyncio.create_task(self._keep_renewing(key, owner, released))
        try:
            yield True
        finally:
            released.set()
            await renewal
            await self.renew(key, owner, milliseconds=0)

    async def renew(self, key: str, owner: str, milliseconds: int = _LOCK_MS) -> None:
        """Extend a lock if `owner` still has the lock; 0 milliseconds release it. Errors of the store are ignored."""
        with suppress(StoreError):
            await self._context.run_script("renew_lock", [key], [owner, milliseconds])

    async def _acquire_lock(self, key: str, owner: str) -> bool:
        """Take a lock that is free; return whether `owner` may compute."""
        try:
            return bool(await self._context.call("SET", key, owner, "NX", "PX", _LOCK_MS))
        except StoreError:
            return True  # in a full or read-only store, compute without the lock

    async def _keep_renewing(self, key: str, owner: str, released: asyncio.Event) -> None:
        """Renew a lock periodically until `released` is set."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(released.wait(), _LOCK_MS / 3000)
                return
            await self.renew(key, owner)
