"""API keys for tests, put into a running service's store."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio

from mild_service.api_keys import ApiKey, Scope, generate_key, generate_secret, hash_secret
from mild_service.config import Settings
from mild_service.store import Store
from tests.inprocess import InProcess


class Keyring:
    """Makes keys in `store`, from outside of the service's event loop."""

    def __init__(self, store: Store, transport: InProcess) -> None:
        self._store = store
        self._portal = transport.portal

    def make(self, scope: Scope = "admin", prefix: str = "", lives: float | None = None, revoked: bool = False) -> str:
        """Return the secret of a new key that expires in `lives` seconds."""
        secret, now = generate_secret(), time.time()
        key = generate_key(scope, scope, prefix, now, None if lives is None else now + lives)
        self.add(secret, replace(key, revoked_at=now) if revoked else key)
        return secret

    def add(self, secret: str, key: ApiKey) -> None:
        """Store a key."""
        self._portal.call(self._store.credentials.add, hash_secret(secret), key)

    def revoke(self, secret: str) -> None:
        """Revoke a key."""
        key = self._portal.call(self._store.credentials.get, hash_secret(secret))
        assert key is not None
        self._portal.call(self._store.credentials.revoke, key.key_id)


def bearer(secret: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {secret}"}


def in_store(settings: Settings, work: Callable[[Store], Awaitable[object]]) -> None:
    """Do something in the store of a service that runs in another thread."""

    async def opened() -> None:
        assert settings.store_url is not None
        store = Store(settings, settings.store_url)
        await work(store)
        await store.aclose()

    anyio.run(opened)


def make(settings: Settings, scope: Scope, prefix: str = "") -> tuple[str, Callable[[], None]]:
    """A key's secret, and what revokes it."""
    secret, key = generate_secret(), generate_key(scope, scope, prefix, 0.0, None)
    in_store(settings, lambda store: store.credentials.add(hash_secret(secret), key))
    return secret, lambda: in_store(settings, lambda store: store.credentials.revoke(key.key_id))
