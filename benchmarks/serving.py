"""A real service and a real store for a benchmark, in separate processes on loopback."""

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
class RunningService:
    """Address and process of a service, and the address of its store."""

    url: str
    process: subprocess.Popen[str]
    store_url: str


@contextmanager
def start_store() -> Iterator[EmbeddedServer]:
    """Context manager of an embedded store (append-only file, fsynced always) in a temporary folder."""
    with TemporaryDirectory(prefix="mild-benchmark-") as folder, EmbeddedServer(Path(folder)) as server:
        yield server


@contextmanager
def start_service(store_url: str, environment: Mapping[str, str] | None = None) -> Iterator[RunningService]:
    """Context manager of a service with one worker on a free port.

    Parameters
    ----------
    store_url
        Address of the store.
    environment
        Further variables, such as ``MILD_API_KEYS``.
    """
    variables = {"MILD_STORE_URL": store_url, "MILD_LOG_LEVEL": "warning", **(environment or {})}
    with start_server([sys.executable, "-m", "mild_service.cli", "serve", "--port", "0"], variables) as (url, process):
        yield RunningService(url, process, store_url)


@contextmanager
def start_server(
    words: Sequence[str], variables: Mapping[str, str], log: IO[bytes] | None = None
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Context manager of a server that prints its address, which is yielded with its process.

    Parameters
    ----------
    words
        Command line.
    variables
        Further variables of the environment.
    log
        File for its stderr.
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
