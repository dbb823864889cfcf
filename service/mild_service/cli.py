"""``mild-service``: the service's command line.

Commands that go straight to the store: which one it is, and how they end.

What the commands share: settings are read, and errors told in one line.

``mild-service keys``: API keys made, listed and revoked, straight in the store.

``mild-service export`` and ``import``: a run in one file, to keep it or to move it to another store.

``mild-service doctor``: looks at the store and at the settings, and says what to do.
"""

import asyncio
import json
import logging
import re
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import anyio
import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from mild_core.errors import MildError
from mild_service import __version__, api_keys, observability
from mild_service.api_keys import ApiKey, Scope, generate_key, generate_secret, secret_digest
from mild_service.app import create_app
from mild_service.auth import check_network_exposure
from mild_service.config import Settings
from mild_service.errors import ConfigurationError, InvalidRequest
from mild_service.models import Run
from mild_service.ops import archive, doctor, process
from mild_service.ops.process import Drain, bounded
from mild_service.store import Store, open_store
from mild_service.store.embedded import EmbeddedServer, open_data_dir


def read_settings(**given: Any) -> Settings:
    """Settings from the environment; what is `given`, and not None, wins.

    Raises
    ------
    ConfigurationError
        If one is none.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"the setting {name} (MILD_{name.upper()}) is {first['input']!r}: {first['msg']}; correct it"
        ) from error


def fail(message: str) -> NoReturn:
    """Print what went wrong and end with 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


T = TypeVar("T")

Embedded = Annotated[bool, typer.Option("--embedded", help="Use the store in the data folder, running or not.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded store (MILD_DATA_DIR, mild-data).")]


def in_store(work: Callable[[Store], Awaitable[T]], embedded: bool, data_dir: Path | None) -> T:
    """Do something with the store that the settings name."""
    settings = read_settings(data_dir=data_dir)
    if embedded or data_dir is not None:
        with open_data_dir(settings.data_dir) as url:
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
def one_line_errors() -> Iterator[None]:
    """End with what went wrong on one line."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(name)s: %(message)s")
    try:
        yield
    except MildError as error:
        fail(str(error))


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
    secret, now = generate_secret(), time.time()

    async def made(store: Store) -> ApiKey:
        key = generate_key(name, scope, prefix, now, None if days is None else now + days * 86_400)
        await store.credentials.add(secret_digest(secret), key)
        return key

    with one_line_errors():
        key = in_store(made, embedded, data_dir)
        api_keys.log_audit_event("key-created", key)
        print(f"key {key.key_id} ({_told(key, now)}); it is shown only now:", file=sys.stderr)
        print(secret)


@keys_cli.command("list")
def list_keys(embedded: Embedded = False, data_dir: DataDir = None) -> None:
    """List all keys that were ever made, without their secrets."""

    async def found(store: Store) -> list[ApiKey]:
        return await store.credentials.list_keys()

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
        api_keys.log_audit_event("key-revoked", key)
        print(f"key {key.key_id} ({key.name}) is revoked")


def _told(key: ApiKey, now: float) -> str:
    runs = f"runs {key.prefix}*" if key.prefix else "all runs"
    ends = "for good" if key.expires_at is None else f"until {_day(key.expires_at)}"
    return f"{key.name}, {key.scope}, {runs}, {ends}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def export_run(
    run: Annotated[str, typer.Argument(help="The run's id.")],
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Write a run, with all its rounds, to one file."""

    async def exported(store: Store) -> int:
        return await archive.export(store, run, file)

    with one_line_errors():
        print(f"{file}: run {run}, {in_store(exported, embedded, data_dir)} bytes")


def import_run(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="As `export` has written it.")],
    name: Annotated[str | None, typer.Option("--as", help="The run's id here; without: the one that it had.")] = None,
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Put a file's run into the store; nothing is written unless the whole file is sound."""

    async def imported(store: Store) -> Run:
        return await archive.load(store, file, wanted)

    with one_line_errors():
        wanted = archive.check(file)["run_id"] if name is None else name
        if not _RUN_ID.fullmatch(wanted):
            raise InvalidRequest(f"{wanted!r} is no run id; use letters, digits, '.', '_' and '-', up to 64")
        run = in_store(imported, embedded, data_dir)
        print(f"run {run.run_id}: {run.spec.num_samples} samples, round {run.round} is open")


_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def examine(
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what nothing refers to; safe while writers are at work.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Look at the store and at the settings; ends with 0 where all is well, 1 where something needs a hand."""

    async def examined(store: Store) -> doctor.Report:
        return await doctor.examine(store, read_settings(data_dir=data_dir), repair)

    with one_line_errors():
        report = in_store(examined, embedded, data_dir)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        table = Table("", "where", "what", "what to do")
        for finding in report.findings:
            level = f"[{_COLOURS[finding.level]}]{finding.level}[/]"
            table.add_row(level, finding.where, finding.what, finding.remedy)
        Console(soft_wrap=True).print(table)
    raise typer.Exit(0 if report.is_well else 1)


cli = typer.Typer(no_args_is_help=True, add_completion=False, help="The selection service.")
cli.add_typer(keys_cli, name="keys")
cli.command("export")(export_run)
cli.command("import")(import_run)
cli.command("doctor")(examine)


class _Server(uvicorn.Server):
    """Says where it listens once it does, and announces its end before it closes the port."""

    def __init__(self, config: uvicorn.Config, drain: Drain, drain_seconds: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_seconds = drain_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            print(f"listening on {_address(listener)}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain.begin()
        closes = time.monotonic() + self._drain_seconds
        while time.monotonic() < closes and not self.force_exit:  # noqa: ASYNC110  # set by a signal handler
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


@cli.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@cli.command()
def serve(
    embedded: Annotated[bool, typer.Option("--embedded", help="Run a private store in the data folder.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on (MILD_HOST, 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port, 0 for a free one (MILD_PORT, 8000).")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the embedded store (MILD_DATA_DIR, mild-data).")
    ] = None,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Listen beyond this machine though nobody has to log in.")
    ] = False,
) -> None:
    """Serve until told to stop (SIGTERM, or ctrl-C)."""
    # Without handlers of its own, the signal that uvicorn passes on after its shutdown would kill the process before
    # the embedded store is stopped.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    given = {"host": host, "port": port, "data_dir": data_dir, "allow_anonymous": allow_anonymous or None}
    with ExitStack() as stack:
        try:
            settings = read_settings(**given)
            if embedded:
                server = stack.enter_context(EmbeddedServer(settings.data_dir))
                settings = settings.model_copy(update={"store_url": server.url})
            app = create_app(settings)
            check_network_exposure(settings)
            listener = stack.enter_context(_listen(settings))
        except ConfigurationError as error:
            fail(str(error))
        observability.configure_logging(settings.log_level, settings.log_format)
        process.settle()
        config = uvicorn.Config(
            app,
            http=bounded(settings.head_seconds),
            log_config=None,
            access_log=False,  # the application writes a line per request
            forwarded_allow_ips=settings.trusted_proxies,
            server_header=False,
            timeout_keep_alive=settings.idle_seconds,
            timeout_graceful_shutdown=settings.shutdown_seconds,
        )
        _Server(config, app.state.drain, settings.drain_seconds).run(sockets=[listener])


def main() -> None:
    """Entry point."""
    cli()


def _listen(settings: Settings) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            stack.pop_all()  # bound: it stays open
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {settings.host}:{settings.port}: {error}; choose another --port (0 takes a free one)"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


def _leave(signum: int, _: FrameType | None) -> NoReturn:
    sys.exit(0 if signum == signal.SIGTERM else 130)


if __name__ == "__main__":
    main()
