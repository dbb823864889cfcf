"""Authentication by API keys and sessions, and the check that a service without keys is not exposed to the network."""

import secrets
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace

import anyio

from mild_service.api_keys import ApiKey, hash_secret, parse_static_keys
from mild_service.concurrency import LruCache
from mild_service.config import Settings, is_loopback
from mild_service.errors import ConfigurationError, StoreError
from mild_service.store import Store

_MAX_CACHED_KEYS = 4096
"""Maximum number of verified keys in memory."""
_USED_INTERVAL_SECONDS = 60.0
"""Minimum seconds between updates of a key's last use: an update per request would double the writes."""


class Authenticator:
    """Finds the API key that belongs to a secret or a session.

    Static keys are in memory. Keys that were created by ``mild-service keys`` are in the store, and cached for a short
    time.

    Parameters
    ----------
    store
        Store of keys and sessions.
    settings
        Provides the static keys, whether a key is required, and the lifetimes of sessions and of cached keys.
    clock, monotonic
        Functions that return Unix time and monotonic time, in seconds.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._static_keys = parse_static_keys(settings.api_keys.get_secret_value())
        if self._static_keys and settings.auth == "off":
            raise ConfigurationError("MILD_AUTH is off, but MILD_API_KEYS names keys; leave one of the two out")
        self._disabled = settings.auth == "off"
        self._key_required = bool(self._static_keys) or settings.auth == "required"
        self._cache_seconds = settings.key_cache_seconds
        self._session_seconds = settings.session_seconds
        self._clock, self._monotonic = clock, monotonic
        self._next_check = monotonic()
        self._cached_keys: LruCache[tuple[float, ApiKey]] = LruCache(_MAX_CACHED_KEYS)

    async def requires_key(self) -> bool:
        """Return whether requests need a key. After the first True, the answer stays True until the process ends."""
        if not (self._key_required or self._disabled) and self._monotonic() >= self._next_check:
            self._key_required = await self._store.credentials.has_keys()
            self._next_check = self._monotonic() + self._cache_seconds
        return self._key_required

    async def find_by_secret(self, secret: str) -> ApiKey | None:
        """Return the key with this secret; None if no key has it, or the key is revoked or expired."""
        return await self._find_by_digest(hash_secret(secret))

    async def find_by_session(self, session: str) -> ApiKey | None:
        """Return the key with which a session was created; None if the session has ended or the key is not valid."""
        key_digest = await self._store.sessions.get_key_digest(hash_secret(session))
        return None if key_digest is None else await self._find_by_digest(key_digest)

    async def begin_session(self, secret: str) -> str:
        """Create a session for a secret that was verified before; return the id of the session."""
        session = secrets.token_urlsafe(32)
        await self._store.sessions.create(hash_secret(session), hash_secret(secret), self._session_seconds)
        return session

    async def end_session(self, session: str) -> None:
        """End the session with this id."""
        await self._store.sessions.delete(hash_secret(session))

    async def _find_by_digest(self, digest: str) -> ApiKey | None:
        """Return the valid key whose secret has this digest; None if there is no such key."""
        expiry, cached_key = self._cached_keys.get(digest) or (0.0, None)
        key = self._static_keys.get(digest) or (cached_key if self._monotonic() < expiry else None)
        if key is None:
            key = await self._store.credentials.get(digest)
            if key is not None:
                await self._add_to_cache(digest, key)
        return key if key is not None and key.state(self._clock()) == "live" else None

    async def _add_to_cache(self, digest: str, key: ApiKey) -> None:
        """Cache a valid key, and store the time of its use unless a recent time is stored already."""
        used_at = (self._cached_keys.get(digest) or (0.0, key))[1].used_at
        now = self._clock()
        if key.state(now) != "live":
            return
        if used_at is None or now - used_at >= _USED_INTERVAL_SECONDS:
            used_at = now
            with suppress(StoreError):  # a full store, for example, must not deny access
                await self._store.credentials.mark_used(key.key_id)
        self._cached_keys.put(digest, (self._monotonic() + self._cache_seconds, replace(key, used_at=used_at)), 1)


def check_network_exposure(settings: Settings) -> None:
    """Check that a service that other machines can reach requires a key, unless the settings permit anonymous access.

    Parameters
    ----------
    settings
        Settings of the service, with the URL of its store.
    """
    if settings.allow_anonymous or is_loopback(settings.host):
        return
    try:
        if anyio.run(_requires_key, settings):
            return
    except StoreError as error:
        raise ConfigurationError(
            f"host {settings.host} is reachable from other machines, and only the store knows whether keys exist; set "
            f"MILD_AUTH=required, or ask again once it answers ({error})"
        ) from error
    raise ConfigurationError(
        f"host {settings.host} is reachable from other machines, and nobody has to log in; make a key "
        "(mild-service keys create, or MILD_API_KEYS), listen on 127.0.0.1, or say --allow-anonymous "
        "(MILD_ALLOW_ANONYMOUS=1) if the network is trusted"
    )


async def _requires_key(settings: Settings) -> bool:
    """Return whether a service with these settings requires a key."""
    assert settings.store_url is not None
    async with aclosing(Store(settings, settings.store_url)) as store:
        return await Authenticator(store, settings).requires_key()
