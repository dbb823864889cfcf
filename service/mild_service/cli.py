"""``mild-service``: the service's command line."""

import asyncio
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
import uvicorn

from mild_service import __version__, interpreter, logs
from mild_service.app import create_app
from mild_service.archive_cli import export_run, import_run
from mild_service.command_errors import ConfigurationError
from mild_service.config import Settings
from mild_service.doctor_cli import examine
from mild_service.drain import Drain
from mild_service.keys_cli import keys_cli
from mild_service.protocol import bounded
from mild_service.reach import check_reach
from mild_service.store.embedded import EmbeddedServer
from mild_service.terminal import fail, read_settings

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
            check_reach(settings)
            listener = stack.enter_context(_listen(settings))
        except ConfigurationError as error:
            fail(str(error))
        logs.configure(settings.log_level, settings.log_format)
        interpreter.settle()
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
