"""``mild-service``: the service's command line."""

import asyncio
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import anyio
import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from mild_core.errors import MildError, describe_os_error, get_reason
from mild_core.types import validate_run_id
from mild_service import __version__, api_keys, observability
from mild_service.api_keys import ApiKey, Scope, generate_key, generate_secret, hash_secret
from mild_service.app import create_app
from mild_service.auth import check_network_exposure
from mild_service.config import Settings
from mild_service.errors import ConfigurationError, InvalidRequest
from mild_service.ops import archive, doctor, process
from mild_service.ops.process import Drain, make_protocol
from mild_service.store import Store
from mild_service.store.embedded import EmbeddedServer, open_data_dir


def read_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment, over which `overrides` that are not None take precedence."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # of settings that do not fit together; the input holds all of them
            raise ConfigurationError(str(first["ctx"]["error"])) from error
        name = "_".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"the setting {name} (MILD_{name.upper()}) is {first['input']!r}: {first['msg']}; correct it"
        ) from error


def exit_with_error(message: str) -> NoReturn:
    """Print an error message, and exit with status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


T = TypeVar("T")

Embedded = Annotated[bool, typer.Option("--embedded", help="Use the store in the data folder, running or not.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded store (MILD_DATA_DIR, mild-data).")]


def run_in_store(action: Callable[[Store], Awaitable[T]], embedded: bool, data_dir: Path | None) -> T:
    """Open a store, and return the result of `action` on it.

    Parameters
    ----------
    action
        Takes the store.
    embedded
        Whether to open the store in the data folder instead of the one that the settings name.
    data_dir
        The data folder, which implies `embedded`; None for that of the settings.
    """
    settings = read_settings(data_dir=data_dir)
    if embedded or data_dir is not None:
        with open_data_dir(settings.data_dir) as url:
            return anyio.run(_run_action, settings, url, action)
    if settings.store_url is None:
        raise ConfigurationError(
            "no store is named; set MILD_STORE_URL (such as redis://localhost:6379/0), or give --embedded"
        )
    return anyio.run(_run_action, settings, settings.store_url, action)


async def _run_action(settings: Settings, url: str, action: Callable[[Store], Awaitable[T]]) -> T:
    """Return the result of `action` on the store at `url`, which is closed afterwards."""
    async with aclosing(Store(settings, url)) as store:
        return await action(store)


@contextmanager
def report_errors() -> Iterator[None]:
    """Configure logging, print a `MildError` or OSError of the block as one line, and exit with status 2."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(name)s: %(message)s")
    try:
        yield
    except MildError as error:
        exit_with_error(str(error))
    except OSError as error:
        exit_with_error(describe_os_error(error))


keys_cli = typer.Typer(no_args_is_help=True, help="API keys: who may use the service.")


@keys_cli.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what uses it, for people.")],
    scope: Annotated[Scope, typer.Option(help="What it may do; each includes those before it.")] = "write",
    prefix: Annotated[str, typer.Option(help="It may access runs whose ids start with this; empty: all.")] = "",
    days: Annotated[
        float | None, typer.Option(min=0.001, max=36_500, help="Days until it expires; by default never.")
    ] = None,
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it. It is printed only once, since only its digest is stored."""
    secret, now = generate_secret(), time.time()
    with report_errors():
        key = generate_key(name, scope, prefix, now, None if days is None else now + days * 86_400)
        run_in_store(lambda store: store.credentials.add(hash_secret(secret), key), embedded, data_dir)
        api_keys.log_audit_event("key-created", key)
        print(f"key {key.key_id} ({_describe_key(key)}); it is shown only now:", file=sys.stderr)
        print(secret)


@keys_cli.command("list")
def list_keys(embedded: Embedded = False, data_dir: DataDir = None) -> None:
    """List all keys, revoked and expired ones too, without their secrets."""
    with report_errors():
        keys, now = run_in_store(lambda store: store.credentials.list_keys(), embedded, data_dir), time.time()
        for key in keys:
            used = "never used" if key.used_at is None else f"last used {_format_time(key.used_at)}"
            created = _format_time(key.created_at)
            print(f"{key.key_id}  {key.state(now):7}  {_describe_key(key)}, made {created}, {used}")


@keys_cli.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")],
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Revoke a key. Within five seconds it is refused, and its logins end."""
    with report_errors():
        key = run_in_store(lambda store: store.credentials.revoke(key_id), embedded, data_dir)
        if key is None:
            raise InvalidRequest(f"there is no key {key_id!r}; see mild-service keys list")
        api_keys.log_audit_event("key-revoked", key)
        print(f"key {key.key_id} ({key.name}) is revoked")


def _describe_key(key: ApiKey) -> str:
    """Return the name, the scope, the runs and the expiry of a key as one line."""
    runs = f"runs {key.prefix}*" if key.prefix else "all runs"
    expiry = "for good" if key.expires_at is None else f"until {_format_time(key.expires_at)}"
    return f"{key.name}, {key.scope}, {runs}, {expiry}"


def _format_time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def export_run(
    run: Annotated[str, typer.Argument(help="The run's id.")],
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Write a run, with all its rounds, to one file."""
    with report_errors():
        validate_run_id(run)
        n_bytes = run_in_store(lambda store: archive.export_run(store, run, file), embedded, data_dir)
        print(f"{file}: run {run}, {n_bytes} bytes")


def import_run(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A file written by `export`.")],
    name: Annotated[str | None, typer.Option("--as", help="The run's new id; by default its old one.")] = None,
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Write a file's run to the store; nothing is written if any of the file is damaged."""
    with report_errors():
        run = run_in_store(lambda store: archive.import_run(store, file, name), embedded, data_dir)
        print(f"run {run.run_id}: {run.spec.num_samples} samples, round {run.round} is open")


_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def examine(
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove keys that nothing refers to; safe while others write.")
    ] = False,
    bits: Annotated[
        bool, typer.Option("--bits", help="Read all bits, labels and ids, and compare them with their checksums.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Check the store and the settings. Exits with 0 if all is well, with 1 if something needs attention."""
    with report_errors():
        settings = read_settings(data_dir=data_dir)
        report = run_in_store(lambda store: doctor.examine(store, settings, repair, bits), embedded, data_dir)
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


_ACCEPTORS = 16
"""Handles of the listening socket: uvloop accepts one connection per handle in each cycle, so with a single one a
client waits for as many cycles as others have opened connections before it."""


class _Server(uvicorn.Server):
    """uvicorn server that prints its address, and refuses new work for a while before it closes the port.

    It ends when its embedded store is not started again.
    """

    def __init__(
        self, config: uvicorn.Config, drain: Drain, drain_seconds: float, embedded_store: EmbeddedServer | None
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_seconds = drain_seconds
        self._embedded_store = embedded_store

    async def on_tick(self, counter: int) -> bool:
        has_failed = self._embedded_store is not None and self._embedded_store.failure is not None
        return await super().on_tick(counter) or has_failed

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets:
            print(f"listening on {_format_address(sockets[0])}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain.begin()
        deadline = time.monotonic() + self._drain_seconds
        while time.monotonic() < deadline and not self.force_exit:  # noqa: ASYNC110  # set by a signal handler
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
    data_dir: DataDir = None,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Listen beyond this machine although no key is required.")
    ] = False,
) -> None:
    """Serve until stopped (SIGTERM, or ctrl-C)."""
    # Without these handlers, the signal that uvicorn passes on after its shutdown would kill the process before
    # the embedded store is stopped.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.signal(signal.SIGINT, _exit_on_signal)
    overrides = {"host": host, "port": port, "data_dir": data_dir, "allow_anonymous": allow_anonymous or None}
    with ExitStack() as stack:
        embedded_store = None
        try:
            settings = read_settings(**overrides)
            observability.configure_logging(settings.log_level, settings.log_format)
            if embedded:
                embedded_store = stack.enter_context(EmbeddedServer(settings.data_dir))
                settings = settings.model_copy(update={"store_url": embedded_store.url})
            app = create_app(settings)
            check_network_exposure(settings)
            listener = stack.enter_context(_open_listener(settings))
        except ConfigurationError as error:
            exit_with_error(str(error))
        process.tune_gc()
        config = uvicorn.Config(
            app,
            http=make_protocol(
                settings.head_seconds,
                settings.body_pause_seconds,
                process.find_connection_limit(settings.store_connections),
            ),
            log_config=None,
            access_log=False,  # the application writes a line per request
            forwarded_allow_ips=settings.trusted_proxies,
            server_header=False,
            timeout_keep_alive=settings.idle_seconds,
            timeout_graceful_shutdown=settings.shutdown_seconds,
        )
        listeners = [listener, *(stack.enter_context(listener.dup()) for _ in range(_ACCEPTORS - 1))]
        _Server(config, app.state.drain, settings.drain_seconds, embedded_store).run(sockets=listeners)
        if embedded_store is not None and embedded_store.failure is not None:
            exit_with_error(str(embedded_store.failure))


def main() -> None:
    """Run the command line."""
    cli()


def _open_listener(settings: Settings) -> socket.socket:
    """Return a socket that is bound to the host and port of the settings."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            stack.pop_all()  # bound: it stays open
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {settings.host}:{settings.port}: {get_reason(error)}; choose another --port (0 takes a "
            "free one)"
        ) from error
    return listener


def _format_address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


def _exit_on_signal(signum: int, _: FrameType | None) -> NoReturn:
    """Exit with status 0 after SIGTERM, and with 130 after ctrl-C."""
    sys.exit(0 if signum == signal.SIGTERM else 130)


if __name__ == "__main__":
    main()
