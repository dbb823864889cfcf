"""API keys as they are stored: the digest of the secret, never the secret.

Sessions of the dashboard: which key one was begun with, under the digest of the session's id.

Which runs each API key has created, so that they can be counted.
"""

from dataclasses import asdict, replace
from typing import Literal, cast

import orjson

from mild_service.api_keys import ApiKey
from mild_service.store.context import StoreContext
from mild_service.store.error_translation import blob, table, translated, words


class CredentialStore:
    """Verbs on API keys. A key that is revoked stays, marked: a service that had keys never looks as if it had none."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def has_any(self) -> bool:
        """Whether a key was ever made, though it be revoked or expired by now."""
        with translated():
            return bool(await self._context.redis.exists(self._context.keys.credentials))

    async def add(self, digest: str, key: ApiKey) -> None:
        """Store a key under its secret's digest."""
        with translated():
            stored = self._context.keys.credentials
            await self._context.writer.send((stored, ("HSET", stored, digest, _written(key))))

    async def get(self, digest: str) -> ApiKey | None:
        """The key whose secret has this digest."""
        with translated():
            found = await self._context.redis.hget(self._context.keys.credentials, digest)
        return None if found is None else _read(blob(found))

    async def list_keys(self) -> list[ApiKey]:
        """All keys ever made with when they were last used, oldest first."""
        with translated():
            used = table(await self._context.redis.hgetall(self._context.keys.credentials_used))
        found = [
            replace(key, used_at=int(used[name]) / 1000) if (name := key.key_id.encode()) in used else key
            for key in (await self._by_digest()).values()
        ]
        return sorted(found, key=lambda key: (key.created_at, key.key_id))

    async def revoke(self, key_id: str) -> ApiKey | None:
        """Mark a key as revoked and return it; None if there is none. A second time changes nothing."""
        for digest, key in (await self._by_digest()).items():
            if key.key_id == key_id:
                revoked = key if key.revoked_at else replace(key, revoked_at=self._context.clock())
                await self.add(digest, revoked)
                return revoked
        return None

    async def mark_used(self, key_id: str) -> None:
        """Note that a key is used now."""
        with translated():
            await self._context.redis.hset(self._context.keys.credentials_used, key_id, str(self._context.now()))

    async def _by_digest(self) -> dict[str, ApiKey]:
        with translated():
            stored = table(await self._context.redis.hgetall(self._context.keys.credentials))
        return {digest.decode(): _read(value) for digest, value in stored.items()}


def _written(key: ApiKey) -> bytes:
    return orjson.dumps(asdict(replace(key, used_at=None)))


def _read(value: bytes) -> ApiKey:
    return ApiKey(**orjson.loads(value))


class SessionStore:
    """Verbs on sessions."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def create(self, digest: str, key_digest: str, seconds: int) -> None:
        """Store a session that ends by itself."""
        with translated():
            await self._context.redis.set(self._context.keys.session(digest), key_digest, ex=seconds)

    async def get_key_digest(self, digest: str) -> str | None:
        """Digest of the key that a session was begun with; None once it has ended."""
        with translated():
            found = await self._context.redis.get(self._context.keys.session(digest))
        return None if found is None else blob(found).decode()

    async def delete(self, digest: str) -> None:
        """End a session."""
        with translated():
            await self._context.redis.unlink(self._context.keys.session(digest))


_FRESH_MS = 60_000
"""A run that was entered this recently may still be on its way into the store."""
_BATCH = 500


class QuotaStore:
    """Verbs on places. A run that is deleted or expires leaves its place; that is noticed once all are taken."""

    def __init__(self, context: StoreContext) -> None:
        self._context = context

    async def reserve(self, key_id: str, run_id: str, limit: int) -> Literal["taken", "held", "full"]:
        """Enter a run that is about to be created among the `limit` of a key.

        The place is taken before it is counted, so that requests at the same time never get past the limit.
        """
        redis, places = self._context.redis, self._context.keys.quota(key_id)
        with translated():
            if not await redis.zadd(places, {run_id: self._context.now()}, nx=True):
                return "held"
            if await redis.zcard(places) > limit:
                await self._forget_gone(places)
                if await redis.zcard(places) > limit:
                    await redis.zrem(places, run_id)
                    return "full"
        return "taken"

    async def release(self, key_id: str, run_id: str) -> None:
        """Give a place back."""
        with translated():
            await self._context.redis.zrem(self._context.keys.quota(key_id), run_id)

    async def _forget_gone(self, places: str) -> None:
        redis, now = self._context.redis, self._context.now()
        found = await redis.zrangebyscore(places, "-inf", now - _FRESH_MS)
        held = words(cast("list[bytes]", found))  # without scores, which the client's type allows for
        for start in range(0, len(held), _BATCH):
            names = held[start : start + _BATCH]
            pipeline = redis.pipeline(transaction=False)
            for name in names:
                pipeline.hmget(self._context.keys.run(name), "deleting", "expires")
            records = zip(names, await pipeline.execute(), strict=True)
            gone = [name for name, (deleting, expires) in records if deleting or expires is None or int(expires) <= now]
            if gone:
                await redis.zrem(places, *gone)
