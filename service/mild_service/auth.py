"""The authenticator: whether a key is asked for, whose it is, and the sessions that are begun with one.

Whether a service may be reached from other machines: only if it asks for keys, or its owner says so.
"""

import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import anyio

from mild_service.api_keys import ApiKey, parse_static_keys, secret_digest
from mild_service.config import Settings
from mild_service.errors import ConfigurationError, RunNotFound, StoreError
from mild_service.store import Store, open_store, run_not_found_error

_REMEMBERED = 4096
"""Most verified keys that are kept in memory."""
_USED_SECONDS = 60.0
"""A key's last use is written down this often: each time would cost the store a write per request."""


class Authenticator:
    """Knows keys and sessions. Keys made with ``mild-service keys`` are looked up in the store, static ones are not.

    Parameters
    ----------
    store
        Where keys and sessions are.
    settings
        Static keys, and when a key is asked for.
    clock, ticks
        Unix time, and a time that only goes forward, in seconds.

    Raises
    ------
    ConfigurationError
        If the static keys cannot be read, or are set although no key is to be asked for.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._static = parse_static_keys(settings.api_keys.get_secret_value())
        if self._static and settings.auth == "off":
            raise ConfigurationError("MILD_AUTH is off, but MILD_API_KEYS names keys; leave one of the two out")
        self._off = settings.auth == "off"
        self._closed = bool(self._static) or settings.auth == "required"
        self._seconds = settings.key_cache_seconds
        self._session_seconds = settings.session_seconds
        self._clock, self._ticks = clock, ticks
        self._look_again = ticks()
        self._verified: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()

    async def requires_key(self) -> bool:
        """Whether a key is asked for. Once it is, it stays so until the process ends.

        Raises
        ------
        StoreUnavailable
            If that hangs on the store's keys, and the store does not answer: then nobody gets in.
        """
        if not (self._closed or self._off) and self._ticks() >= self._look_again:
            self._closed = await self._store.credentials.has_any()
            self._look_again = self._ticks() + self._seconds
        return self._closed

    async def find_by_secret(self, secret: str) -> ApiKey | None:
        """The key with this secret; None if there is none, or none any more."""
        return await self._by_digest(secret_digest(secret))

    async def find_by_session(self, session: str) -> ApiKey | None:
        """The key that a session was begun with; None once either has ended."""
        found = await self._store.sessions.get_key_digest(secret_digest(session))
        return None if found is None else await self._by_digest(found)

    async def begin_session(self, secret: str) -> str:
        """Begin a session with a key that was just verified; return the session's id."""
        session = secrets.token_urlsafe(32)
        await self._store.sessions.create(secret_digest(session), secret_digest(secret), self._session_seconds)
        return session

    async def end_session(self, session: str) -> None:
        """End a session."""
        await self._store.sessions.delete(secret_digest(session))

    async def _by_digest(self, wanted: str) -> ApiKey | None:
        key = self._static.get(wanted) or self._remembered(wanted)
        if key is None:
            key = await self._store.credentials.get(wanted)
            if key is not None:
                await self._remember(wanted, key)
        return key if key is not None and key.state(self._clock()) == "live" else None

    def _remembered(self, wanted: str) -> ApiKey | None:
        until, key = self._verified.get(wanted, (0.0, None))
        return key if self._ticks() < until else None

    async def _remember(self, wanted: str, key: ApiKey) -> None:
        before = self._verified.pop(wanted, (0.0, key))[1].used_at
        now = self._clock()
        if key.state(now) != "live":
            return
        if before is None or now - before >= _USED_SECONDS:
            before = now
            with suppress(StoreError):  # a store that is full, say, must not shut anybody out
                await self._store.credentials.mark_used(key.key_id)
        self._verified[wanted] = (self._ticks() + self._seconds, replace(key, used_at=before))
        if len(self._verified) > _REMEMBERED:
            self._verified.popitem(last=False)


def hidden_run_error(run_id: str) -> RunNotFound:
    """The error for a run that a key does not reach: the same as for one that is not there."""
    return run_not_found_error(run_id)


def check_network_exposure(settings: Settings) -> None:
    """Refuse to serve the network without a login, unless told to; `settings` name a store.

    Raises
    ------
    ConfigurationError
        If nobody has to log in, or that cannot be found out.
    """
    if settings.allow_anonymous or is_loopback(settings.host):
        return
    try:
        if anyio.run(_requires_key, settings):
            return
    except StoreError as error:
        raise ConfigurationError(
            f"host {settings.host} is reachable from other machines, and whether there are keys only the store knows: "
            f"{error}, or set MILD_AUTH=required"
        ) from error
    raise ConfigurationError(
        f"host {settings.host} is reachable from other machines, and nobody has to log in; make a key "
        "(mild-service keys create, or MILD_API_KEYS), listen on 127.0.0.1, or say --allow-anonymous "
        "(MILD_ALLOW_ANONYMOUS=1) if the network is trusted"
    )


async def _requires_key(settings: Settings) -> bool:
    assert settings.store_url is not None
    store = open_store(settings, settings.store_url)
    try:
        return await Authenticator(store, settings).requires_key()
    finally:
        await store.aclose()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
