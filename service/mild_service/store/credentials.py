"""API keys as they are stored: the digest of the secret, never the secret."""

from dataclasses import asdict, replace

import orjson

from mild_service.identity import ApiKey
from mild_service.store.faults import translated
from mild_service.store.link import Link
from mild_service.store.replies import blob, table


class Credentials:
    """Verbs on API keys. A key that is revoked stays, marked: a service that had keys never looks as if it had none."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def any(self) -> bool:
        """Whether a key was ever made, though it be revoked or expired by now."""
        with translated():
            return bool(await self._link.redis.exists(self._link.keys.credentials))

    async def add(self, digest: str, key: ApiKey) -> None:
        """Store a key under its secret's digest."""
        with translated():
            stored = self._link.keys.credentials
            await self._link.writes.send((stored, ("HSET", stored, digest, _written(key))))

    async def get(self, digest: str) -> ApiKey | None:
        """The key whose secret has this digest."""
        with translated():
            found = await self._link.redis.hget(self._link.keys.credentials, digest)
        return None if found is None else _read(blob(found))

    async def all(self) -> list[ApiKey]:
        """All keys ever made with when they were last used, oldest first."""
        with translated():
            used = table(await self._link.redis.hgetall(self._link.keys.credentials_used))
        found = [
            replace(key, used_at=int(used[name]) / 1000) if (name := key.key_id.encode()) in used else key
            for key in (await self._by_digest()).values()
        ]
        return sorted(found, key=lambda key: (key.created_at, key.key_id))

    async def revoke(self, key_id: str) -> ApiKey | None:
        """Mark a key as revoked and return it; None if there is none. A second time changes nothing."""
        for digest, key in (await self._by_digest()).items():
            if key.key_id == key_id:
                revoked = key if key.revoked_at else replace(key, revoked_at=self._link.clock())
                await self.add(digest, revoked)
                return revoked
        return None

    async def mark_used(self, key_id: str) -> None:
        """Note that a key is used now."""
        with translated():
            await self._link.redis.hset(self._link.keys.credentials_used, key_id, str(self._link.now()))

    async def _by_digest(self) -> dict[str, ApiKey]:
        with translated():
            stored = table(await self._link.redis.hgetall(self._link.keys.credentials))
        return {digest.decode(): _read(value) for digest, value in stored.items()}


def _written(key: ApiKey) -> bytes:
    return orjson.dumps(asdict(replace(key, used_at=None)))


def _read(value: bytes) -> ApiKey:
    return ApiKey(**orjson.loads(value))
