"""Computed selections, kept for a while, and the lock that lets one replica compute what several ask for."""

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
    """Computed selections of a run by the digest of what they were computed from."""

    def __init__(self, context: StoreContext, seconds: int) -> None:
        self._context = context
        self._seconds = seconds

    async def get(self, run: Run, digest: str) -> ComputedSelection | None:
        """A computed selection, or None."""
        key = self._context.keys.cache(run.run_id, run.uid, digest)
        n_samples = run.spec.num_samples
        names = [f"bits:{chunk}" for chunk in range(codec.n_chunks(n_samples))]
        out = np.empty(bitmap.n_bytes(n_samples), dtype=np.uint8)
        with translated():
            summary, fit = blobs(await self._context.redis.hmget(key, ["summary", "fit"]))
            if summary is None or fit is None:
                return None
            for group in codec.group_by_size([codec.CHUNK_BYTES] * len(names)):
                values = blobs(await self._context.redis.hmget(key, [names[position] for position in group]))
                for position, value in zip(group, values, strict=True):
                    if value is None:
                        return None  # expired just now
                    out[codec.chunk_slice(position, n_samples)] = np.frombuffer(value, dtype=np.uint8)
        return ComputedSelection(digest, orjson.loads(summary), orjson.loads(fit), out)

    async def put(self, run: Run, computed: ComputedSelection) -> None:
        """Keep a computed selection, unless its run has gone."""
        key = self._context.keys.cache(run.run_id, run.uid, computed.digest)
        names = [key, self._context.keys.cached(run.run_id, run.uid), self._context.keys.run(run.run_id)]
        values = codec.split_chunks([computed.bitmap])
        groups = codec.group_by_size([len(value) for value in values])
        parts: list[list[Argument]] = [[part for c in group for part in (f"bits:{c}", values[c])] for group in groups]
        # Last: what has a summary is whole.
        parts.append(["summary", orjson.dumps(dict(computed.summary)), "fit", orjson.dumps(dict(computed.fit))])
        with translated():
            for part in parts:
                await self._context.scripts.run(
                    "cache_selection", names, [self._seconds, computed.digest, run.uid, *part]
                )

    @asynccontextmanager
    async def lock(self, run: Run, digest: str) -> AsyncIterator[bool]:
        """Hold the right to compute; yields False when another holds it.

        The lock is renewed while it is held and expires when its holder dies. Two holders would only do the same work
        twice.
        """
        key = self._context.keys.lock(run.run_id, run.uid, digest)
        owner = secrets.token_hex(8)
        if not await self._take(key, owner):
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
        """Extend a lock that is still its owner's; 0 milliseconds release it. What fails here, expiry settles."""
        with suppress(StoreError), translated():
            await self._context.scripts.run("renew_lock", [key], [owner, milliseconds])

    async def _take(self, key: str, owner: str) -> bool:
        try:
            with translated():
                return bool(await self._context.redis.set(key, owner, nx=True, px=_LOCK_MS))
        except StoreFull:
            return True  # an answer is worth more than saving work

    async def _keep_renewing(self, key: str, owner: str, released: asyncio.Event) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(released.wait(), _LOCK_MS / 3000)
                return
            await self.renew(key, owner)
