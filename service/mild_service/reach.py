"""Whether a service may be reached from other machines: only if it asks for keys, or its owner says so."""

import ipaddress

import anyio

from mild_service.access import Gate
from mild_service.command_errors import ConfigurationError
from mild_service.config import Settings
from mild_service.errors import StoreError
from mild_service.store import open_store


def check_reach(settings: Settings) -> None:
    """Refuse to serve the network without a login, unless told to; `settings` name a store.

    Raises
    ------
    ConfigurationError
        If nobody has to log in, or that cannot be found out.
    """
    if settings.allow_anonymous or is_loopback(settings.host):
        return
    try:
        if anyio.run(_is_closed, settings):
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


async def _is_closed(settings: Settings) -> bool:
    assert settings.store_url is not None
    store = open_store(settings, settings.store_url)
    try:
        return await Gate(store, settings).is_closed()
    finally:
        await store.aclose()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
