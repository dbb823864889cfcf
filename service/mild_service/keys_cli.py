"""``mild-service keys``: API keys made, listed and revoked, straight in the store."""

import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
import typer

from mild_core.errors import MildError
from mild_service import trail
from mild_service.config import Settings
from mild_service.errors import ConfigurationError, InvalidRequest
from mild_service.identity import ApiKey, Scope, digest, draw_key, draw_secret
from mild_service.store import Store, open_store
from mild_service.store.embedded import attached
from mild_service.terminal import fail, read_settings

T = TypeVar("T")

keys_cli = typer.Typer(no_args_is_help=True, help="API keys: who may use the service.")

Embedded = Annotated[bool, typer.Option("--embedded", help="Use the store in the data folder, running or not.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded store (MILD_DATA_DIR, mild-data).")]


@keys_cli.command()
def create(
    name: Annotated[str, typer.Argument(help="For people: who or what uses it.")],
    scope: Annotated[Scope, typer.Option(help="What it may do; each includes those before it.")] = "write",
    prefix: Annotated[str, typer.Option(help="It reaches runs whose ids start with this; empty: all.")] = "",
    days: Annotated[
        float | None, typer.Option(min=0.001, max=36_500, help="Days that it lives; without: for good.")
    ] = None,
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it: this once, as only its digest is stored."""
    secret, now = draw_secret(), time.time()

    async def made(store: Store) -> ApiKey:
        key = draw_key(name, scope, prefix, now, None if days is None else now + days * 86_400)
        await store.credentials.add(digest(secret), key)
        return key

    with _one_line_errors():
        key = _in_store(made, embedded, data_dir)
        trail.tell("key-created", key)
        print(f"key {key.key_id} ({_told(key, now)}); it is shown only now:", file=sys.stderr)
        print(secret)


@keys_cli.command("list")
def list_keys(embedded: Embedded = False, data_dir: DataDir = None) -> None:
    """List all keys that were ever made, without their secrets."""

    async def found(store: Store) -> list[ApiKey]:
        return await store.credentials.all()

    with _one_line_errors():
        keys, now = _in_store(found, embedded, data_dir), time.time()
        for key in keys:
            used = "never used" if key.used_at is None else f"last used {_day(key.used_at)}"
            print(f"{key.key_id}  {key.state(now):7}  {_told(key, now)}, made {_day(key.created_at)}, {used}")


@keys_cli.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")],
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key: within five seconds nobody gets in with it, and the logins that it was used for end."""

    async def revoked(store: Store) -> ApiKey:
        key = await store.credentials.revoke(key_id)
        if key is None:
            raise InvalidRequest(f"there is no key {key_id!r}; see mild-service keys list")
        return key

    with _one_line_errors():
        key = _in_store(revoked, embedded, data_dir)
        trail.tell("key-revoked", key)
        print(f"key {key.key_id} ({key.name}) is revoked")


def _told(key: ApiKey, now: float) -> str:
    runs = f"runs {key.prefix}*" if key.prefix else "all runs"
    ends = "for good" if key.expires_at is None else f"until {_day(key.expires_at)}"
    return f"{key.name}, {key.scope}, {runs}, {ends}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def _in_store(work: Callable[[Store], Awaitable[T]], embedded: bool, data_dir: Path | None) -> T:
    """Do something with the store that the settings name."""
    settings = read_settings(data_dir=data_dir)
    if embedded or data_dir is not None:
        with attached(settings.data_dir) as url:
            return anyio.run(_opened, settings, url, work)
    if settings.store_url is None:
        raise ConfigurationError(
            "no store is named; set MILD_STORE_URL (such as redis://localhost:6379/0), or say --embedded"
        )
    return anyio.run(_opened, settings, settings.store_url, work)


async def _opened(settings: Settings, url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    store = open_store(settings, url)
    try:
        return await work(store)
    finally:
        await store.aclose()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(name)s: %(message)s")
    try:
        yield
    except MildError as error:
        fail(str(error))
