"""API keys and dashboard sessions, stored by the digests of their secrets, and the runs that each key has created."""

from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Literal

import orjson

from mild_service.api_keys import ApiKey
from mild_service.errors import CommandForbidden, StoreDamaged
from mild_service.store import codec
from mild_service.store.context import StoreContext, StorePart, to_texts
from mild_service.store.run_store import is_active

_NEW_RUN_MS = 60_000
"""A run that was reserved this recently may still be in creation."""
_BATCH_SIZE = 500


class CredentialStore(StorePart):
    """Stores API keys. A revoked key is marked and kept, so that a service that once had keys always requires one."""

    async def has_keys(self) -> bool:
        """Return whether a key was ever created, even if all keys are revoked or expired."""
        return bool(await self._context.call("EXISTS", self._context.keys.credentials))

    async def add(self, digest: str, key: ApiKey) -> None:
        """Store a key under the digest of its secret."""
        stored = self._context.keys.credentials
        await self._context.writer.send((stored, ("HSET", stored, digest, _encode_key(key))))

    async def get(self, digest: str) -> ApiKey | None:
        """Return the key whose secret has this digest, also a revoked or expired one; None if there is no such key."""
        value = await self._context.call("HGET", self._context.keys.credentials, digest)
        return None if value is None else _decode_key(value)

    async def list_keys(self) -> list[ApiKey]:
        """Return all keys, also revoked and expired ones, with the times of their last use, oldest first."""
        used = await self._context.read_hash(self._context.keys.credentials_used)
        keys = [
            replace(key, used_at=int(used[name]) / 1000) if (name := key.key_id.encode()) in used else key
            for key in (await self._read_keys_by_digest()).values()
        ]
        return sorted(keys, key=lambda key: (key.created_at, key.key_id))

    async def revoke(self, key_id: str) -> ApiKey | None:
        """Mark a key as revoked and return the key; None if there is no such key. A revoked key stays as it is."""
        for digest, key in (await self._read_keys_by_digest()).items():
            if key.key_id == key_id:
                revoked = key if key.revoked_at else replace(key, revoked_at=await self._context.now() / 1000)
                await self.add(digest, revoked)
                return revoked
        return None

    async def mark_used(self, key_id: str) -> None:
        """Store the current time as the time of a key's last use."""
        await self._context.call("HSET", self._context.keys.credentials_used, key_id, await self._context.now())

    async def _read_keys_by_digest(self) -> dict[str, ApiKey]:
        """Return all keys by the digests of their secrets."""
        stored = await self._context.read_hash(self._context.keys.credentials)
        return {digest.decode(): _decode_key(value) for digest, value in stored.items()}


class SessionStore(StorePart):
    """Stores the sessions of the dashboard."""

    async def create(self, digest: str, key_digest: str, seconds: int) -> None:
        """Store a session that expires after `seconds`.

        Parameters
        ----------
        digest
            Digest of the session's id.
        key_digest
            Digest of the secret of the key with which the session is created.
        seconds
            Lifetime of the session.
        """
        await self._context.call("SET", self._context.keys.session(digest), key_digest, "EX", seconds)

    async def get_key_digest(self, digest: str) -> str | None:
        """Return the digest of the key with which a session was created.

        Returns
        -------
        str or None
            None if the session has ended or never existed.
        """
        value = await self._context.call("GET", self._context.keys.session(digest))
        return None if value is None else value.decode()

    async def delete(self, digest: str) -> None:
        """Delete the session with this digest of its id."""
        await self._context.call("UNLINK", self._context.keys.session(digest))


class QuotaStore(StorePart):
    """Counts the runs that each key has created, and the memory that they take of the store.

    Deleted and expired runs are subtracted once the limit is reached.
    """

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._measured: dict[str, dict[bytes, int]] = {}

    async def reserve(self, key_id: str, run_id: str, limit: int) -> Literal["reserved", "existing", "full"]:
        """Reserve one of the `limit` runs of a key for a run that is about to be created.

        The run is added before the runs are counted, so that concurrent requests never exceed the limit.

        Returns
        -------
        str
            ``reserved`` if the run now counts for the key, ``existing`` if the run counted before, and ``full`` if the
            key has `limit` runs already.
        """
        call, quota_key = self._context.call, self._context.keys.quota(key_id)
        if not await call("ZADD", quota_key, "NX", await self._context.now(), run_id):
            return "existing"
        if await call("ZCARD", quota_key) > limit:
            await self._remove_deleted_runs(quota_key)
            if await call("ZCARD", quota_key) > limit:
                await call("ZREM", quota_key, run_id)
                return "full"
        return "reserved"

    async def release(self, key_id: str, run_id: str) -> None:
        """Release the reservation of a run that was not created."""
        await self._context.call("ZREM", self._context.keys.quota(key_id), run_id)

    async def measure(self, key_id: str) -> tuple[int, int] | None:
        """Measure the runs that a key has created: their number, and the bytes that they take of the store's memory.

        The servers say what each hash of a run takes, from a sample of its fields. A run is measured again once it was
        written to. Computed selections and events are left out.

        Returns
        -------
        tuple or None
            None if the ACL user may not run ``MEMORY USAGE``.
        """
        measured, sizes = self._measured.get(key_id, {}), dict[bytes, int]()
        try:
            async for run_id, fields in self._iterate_runs(key_id):
                version = b":".join(fields.get(name, b"") for name in (b"uid", b"updated", b"events"))
                size = measured.get(version)
                sizes[version] = await self._measure_run(run_id, fields) if size is None else size
        except CommandForbidden:
            return None
        self._measured[key_id] = sizes
        return len(sizes), sum(sizes.values())

    async def _iterate_runs(self, key_id: str) -> AsyncIterator[tuple[str, codec.Fields]]:
        """Yield the ids and the records of the runs that a key has created and that still exist."""
        run_ids = to_texts(await self._context.call("ZRANGE", self._context.keys.quota(key_id), 0, -1))
        for start in range(0, len(run_ids), _BATCH_SIZE):
            names = run_ids[start : start + _BATCH_SIZE]
            records = await self._context.call_all(("HGETALL", self._context.keys.run(name)) for name in names)
            now = await self._context.now()
            for name, fields in zip(names, records, strict=True):
                if is_active(fields, now):
                    yield name, fields

    async def _measure_run(self, run_id: str, fields: codec.Fields) -> int:
        """Measure the hashes of a run, in bytes; 0 for a run whose record is damaged."""
        try:
            run = codec.decode_run(run_id, fields)
        except StoreDamaged:
            return 0
        keys = self._context.keys_of(run)
        hashes = keys.list_hashes(range(run.round + 1))
        sizes = await self._context.call_all(("MEMORY USAGE", key) for key in (keys.run, *hashes))
        return sum(size or 0 for size in sizes)

    async def _remove_deleted_runs(self, quota_key: str) -> None:
        """Remove the runs that no longer exist from the runs of a key."""
        context, now = self._context, await self._context.now()
        run_ids = to_texts(await context.call("ZRANGEBYSCORE", quota_key, "-inf", now - _NEW_RUN_MS))
        for start in range(0, len(run_ids), _BATCH_SIZE):
            names = run_ids[start : start + _BATCH_SIZE]
            records = await context.call_all(("HMGET", context.keys.run(name), "deleting", "expires") for name in names)
            deleted = [
                name
                for name, (deleting, expires) in zip(names, records, strict=True)
                if deleting or expires is None or int(expires) <= now
            ]
            if deleted:
                await context.call("ZREM", quota_key, *deleted)


def _encode_key(key: ApiKey) -> bytes:
    return orjson.dumps(asdict(replace(key, used_at=None)))


def _decode_key(value: bytes) -> ApiKey:
    return ApiKey(**orjson.loads(value))
