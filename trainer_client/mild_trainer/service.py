"""The embedded service: a process of its own beside the training, for as long as the training runs."""

import atexit
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from mild_trainer.errors import ServiceStartError

_READY = "listening on "


class EmbeddedService:
    """Starts ``mild-service serve --embedded`` on a free port and stops it at the end of the ``with`` block.

    Parameters
    ----------
    folder
        Where its store keeps its data and the service its log.
    timeout
        Seconds that it may take to come up.
    command
        What to start instead of the service; for tests.

    Raises
    ------
    ServiceStartError
        If it ends or stays silent instead of saying where it listens.
    """

    def __init__(self, folder: Path, timeout: float = 60.0, command: list[str] | None = None) -> None:
        self.folder = folder
        self.url = ""
        self._timeout = timeout
        store = ["serve", "--embedded", "--port", "0", "--data-dir", str(folder / "store")]
        self._command = command or [sys.executable, "-m", "mild_service.cli", *store]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "service.log"
        with log.open("w") as errors:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=errors, text=True)
        atexit.register(self.stop)
        assert self._process.stdout is not None
        address: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_watch, args=(self._process.stdout, address), daemon=True).start()
        try:
            self.url = address.get(timeout=self._timeout)
        except queue.Empty:
            self.url = ""
        if not self.url:
            self.stop()
            raise ServiceStartError(
                f"the embedded service did not say within {self._timeout:g} s where it listens; see {log}, "
                'and check that it is installed: pip install "mild-selection[all]", or use --local or --url'
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask the service to end, and wait until it has."""
        atexit.unregister(self.stop)
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _watch(lines: IO[str], address: "queue.SimpleQueue[str]") -> None:
    """Pass on the address, once it is said (or nothing, at the end), and keep the pipe from filling up."""
    for line in lines:
        if _READY in line:
            address.put(line.partition(_READY)[2].split()[0])
    address.put("")
