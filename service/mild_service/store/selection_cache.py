"""Cache of computed selections, and the lock by which only one replica computes a selection."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import numpy as np
import orjson

from mild_core import bitmap
from mild_service.errors import StoreError, StoreFull
from mild_service.models import ComputedSelection, Run
from mild_service.store import codec
from mild_service.store.context import Argument, StoreContext
from mild_service.store.error_translation import blobs, translated

_LOCK_MS = 5_000


class SelectionCache:
    """Computed selections of runs, by the digest of their inputs."""

    def __init__(self, context: StoreContext, seconds: int) -> None:
        self._context = context
        self._seconds = seconds

    async def get(self, run: Run, digest: str) -> ComputedSelection | None:
        """Return a computed selection; None if it is not cached."""
        key = self._context.keys.cache(run.run_id, run.uid, digest)
        n_samples = run.spec.num_samples
        names = [f"bits:{chunk}" for chunk in range(codec.n_chunks(n_samples))]
        members = np.empty(bitmap.n_bytes(n_samples), dtype=np.uint8)
        with translated():
            summary, fit = blobs(await self._context.redis.hmget(key, ["summary", "fit"]))
            if summary is None or fit is None:
                return None
            for group in codec.group_by_size([codec.CHUNK_BYTES] * len(names)):
                values = blobs(await self._context.redis.hmget(key, [names[position] for position in group]))
                for position, value in zip(group, values, strict=True):
                    if value is None:
                        return None  # expired just now
                    members[codec.chunk_slice(position, n_samples)] = np.frombuffer(value, dtype=np.uint8)
        return ComputedSelection(digest, orjson.loads(summary), orjson.loads(fit), members)

    async def put(self, run: Run, computed: ComputedSelection) -> None:
        """Store a computed selection, unless its run was deleted."""
        key = self._context.keys.cache(run.run_id, run.uid, computed.digest)
        names = [key, self._context.keys.cached(run.run_id, run.uid), self._context.keys.run(run.run_id)]
        values = codec.split_chunks([computed.bitmap])
        groups = codec.group_by_size([len(value) for value in values])
        parts: list[list[Argument]] = [[part for c in group for part in (f"bits:{c}", values[c])] for group in groups]
        # Last: an entry with a summary is complete.
        parts.append(["summary", orjson.dumps(dict(computed.summary)), "fit", orjson.dumps(dict(computed.fit))])
        with translated():
            for part in parts:
                await self._context.scripts.run(
                    "cache_selection", names, [self._seconds, computed.digest, run.uid, *part]
                )

    @asynccontextmanager
    async def lock(self, run: Run, digest: str) -> AsyncIterator[bool]:
        """Context manager that takes the lock of a computation; yields False if another process holds it.

        The lock is renewed while it is held, and expires when its holder dies. If two processes hold it, the only cost
        is repeated work.
        """
        key = self._context.keys.lock(run.run_id, run.uid, digest)
        owner = secrets.token_hex(8)
        if not await self._acquire(key, owner):
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
        """Extend a lock if `owner` still holds it; 0 milliseconds release it. Errors are ignored: the lock expires."""
        with suppress(StoreError), translated():
            await self._context.scripts.run("renew_lock", [key], [owner, milliseconds])

    async def _acquire(self, key: str, owner: str) -> bool:
        try:
            with translated():
                return bool(await self._context.redis.set(key, owner, nx=True, px=_LOCK_MS))
        except StoreFull:
            return True  # in a full store, compute without the lock

    async def _keep_renewing(self, key: str, owner: str, released: asyncio.Event) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(released.wait(), _LOCK_MS / 3000)
                return
            await self.renew(key, owner)
