"""``mild-service keys``: API keys made, listed and revoked, straight in the store."""

import sys
import time
from typing import Annotated

import typer

from mild_service import trail
from mild_service.errors import InvalidRequest
from mild_service.identity import ApiKey, Scope, digest, draw_key, draw_secret
from mild_service.store import Store
from mild_service.store_cli import DataDir, Embedded, in_store, one_line_errors

keys_cli = typer.Typer(no_args_is_help=True, help="API keys: who may use the service.")


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

    with one_line_errors():
        key = in_store(made, embedded, data_dir)
        trail.tell("key-created", key)
        print(f"key {key.key_id} ({_told(key, now)}); it is shown only now:", file=sys.stderr)
        print(secret)


@keys_cli.command("list")
def list_keys(embedded: Embedded = False, data_dir: DataDir = None) -> None:
    """List all keys that were ever made, without their secrets."""

    async def found(store: Store) -> list[ApiKey]:
        return await store.credentials.all()

    with one_line_errors():
        keys, now = in_store(found, embedded, data_dir), time.time()
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

    with one_line_errors():
        key = in_store(revoked, embedded, data_dir)
        trail.tell("key-revoked", key)
        print(f"key {key.key_id} ({key.name}) is revoked")


def _told(key: ApiKey, now: float) -> str:
    runs = f"runs {key.prefix}*" if key.prefix else "all runs"
    ends = "for good" if key.expires_at is None else f"until {_day(key.expires_at)}"
    return f"{key.name}, {key.scope}, {runs}, {ends}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
