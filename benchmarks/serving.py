"""A real service for a benchmark: uvicorn in a process of its own, on loopback, and a real store beside it."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from mild_service.store.embedded import EmbeddedServer


@dataclass(frozen=True)
class Served:
    """Where the service listens, its process, and the store's address."""

    url: str
    process: subprocess.Popen[str]
    store_url: str


@contextmanager
def store() -> Iterator[EmbeddedServer]:
    """An embedded store (append-only file, fsynced always) in a folder that goes with it."""
    with TemporaryDirectory(prefix="mild-benchmark-") as folder, EmbeddedServer(Path(folder)) as server:
        yield server


@contextmanager
def service(store_url: str, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """The service in a process of its own, one worker, on a free port.

    Parameters
    ----------
    store_url
        The store.
    environment
        More variables, such as ``MILD_API_KEYS``.
    """
    variables = {"MILD_STORE_URL": store_url, "MILD_LOG_LEVEL": "warning", **(environment or {})}
    with command([sys.executable, "-m", "mild_service.cli", "serve", "--port", "0"], variables) as (url, process):
        yield Served(url, process, store_url)


@contextmanager
def command(
    words: Sequence[str], variables: Mapping[str, str], log: IO[bytes] | None = None
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A server that prints where it listens; terminated at the end.

    Parameters
    ----------
    words
        The command.
    variables
        More variables of the environment.
    log
        File for what it writes to stderr.
    """
    settings = [f"{name}={value}" for name, value in variables.items()]
    process = subprocess.Popen(
        ["env", *settings, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        restore_signals=False,  # past a limit of a file's size, a write is then an error and no signal
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server did not start, it said {line!r}")
        yield line.split()[-1], process
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        finally:
            process.kill()
            process.stdout.close()
