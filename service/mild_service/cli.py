"""``mild-service``: the service's command line."""

import ipaddress
import logging
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
import uvicorn
from pydantic import ValidationError

from mild_service import __version__
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.errors import ConfigurationError
from mild_service.store.embedded import EmbeddedServer

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="The selection service.")

_GRACE_SECONDS = 5
"""Requests under way get this long after SIGTERM; a long-poll does not hold the service up."""


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            print(f"listening on {_address(listener)}", flush=True)


@cli.callback()
def version_or_command() -> None:
    """Make `serve` a command of its own, though it is the only one."""


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
            settings = _settings(**{name: value for name, value in given.items() if value is not None})
            _check_reach(settings)
            listener = stack.enter_context(_listen(settings))
            if embedded:
                server = stack.enter_context(EmbeddedServer(settings.data_dir))
                settings = settings.model_copy(update={"store_url": server.url})
            app = create_app(settings)
        except ConfigurationError as error:
            _fail(str(error))
        logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s: %(name)s: %(message)s")
        config = uvicorn.Config(
            app,
            log_level=settings.log_level,
            access_log=settings.log_level == "debug",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        _Server(config).run(sockets=[listener])


def main() -> None:
    """Entry point."""
    cli()


def _settings(**given: Any) -> Settings:
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"the setting {name} (MILD_{name.upper()}) is {first['input']!r}: {first['msg']}; correct it"
        ) from error


def _check_reach(settings: Settings) -> None:
    """Refuse to serve the network without a login, unless told to."""
    if settings.allow_anonymous or _is_loopback(settings.host):
        return
    raise ConfigurationError(
        f"host {settings.host} is reachable from other machines, and nobody has to log in; listen on 127.0.0.1, "
        "or say --allow-anonymous (MILD_ALLOW_ANONYMOUS=1) if the network is trusted"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
