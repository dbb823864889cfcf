import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.waiting import PATIENCE


@dataclass
class Served:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    url: str


class Start(Protocol):
    def __call__(self, data_dir: Path, port: int = 0) -> Served: ...


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services with an embedded store on free ports; whatever still runs at the end is stopped."""
    started: list[subprocess.Popen[str]] = []

    def start(data_dir: Path, port: int = 0) -> Served:
        command = ["serve", "--embedded", "--port", str(port), "--data-dir", str(data_dir)]
        process = subprocess.Popen(
            [sys.executable, "-m", "mild_service.cli", *command], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        return Served(process, line.split()[-1])

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=PATIENCE)
        assert process.stdout is not None
        process.stdout.close()
