"""Sessions of the dashboard: which key one was begun with, under the digest of the session's id."""

from mild_service.store.faults import translated
from mild_service.store.link import Link
from mild_service.store.replies import blob


class Sessions:
    """Verbs on sessions."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def begin(self, digest: str, key_digest: str, seconds: int) -> None:
        """Store a session that ends by itself."""
        with translated():
            await self._link.redis.set(self._link.keys.session(digest), key_digest, ex=seconds)

    async def key_digest(self, digest: str) -> str | None:
        """Digest of the key that a session was begun with; None once it has ended."""
        with translated():
            found = await self._link.redis.get(self._link.keys.session(digest))
        return None if found is None else blob(found).decode()

    async def end(self, digest: str) -> None:
        """End a session."""
        with translated():
            await self._link.redis.unlink(self._link.keys.session(digest))
