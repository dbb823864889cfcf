"""API keys for tests, put into a running service's store."""

import time
from dataclasses import replace

from mild_service.identity import ApiKey, Scope, digest, draw_key, draw_secret
from mild_service.store import Store
from tests.inprocess import InProcess


class Keyring:
    """Makes keys in `store`, from outside of the service's event loop."""

    def __init__(self, store: Store, transport: InProcess) -> None:
        self._store = store
        self._portal = transport.portal

    def make(self, scope: Scope = "admin", prefix: str = "", lives: float | None = None, revoked: bool = False) -> str:
        """Return the secret of a new key that expires in `lives` seconds."""
        secret, now = draw_secret(), time.time()
        key = draw_key(scope, scope, prefix, now, None if lives is None else now + lives)
        self.add(secret, replace(key, revoked_at=now) if revoked else key)
        return secret

    def add(self, secret: str, key: ApiKey) -> None:
        """Store a key."""
        self._portal.call(self._store.credentials.add, digest(secret), key)

    def revoke(self, secret: str) -> None:
        """Revoke a key."""
        key = self._portal.call(self._store.credentials.get, digest(secret))
        assert key is not None
        self._portal.call(self._store.credentials.revoke, key.key_id)


def bearer(secret: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {secret}"}
