"""The embedded service: a process of its own beside the training, for as long as the training runs."""

import os
import queue
import signal
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
        Where its store keeps its data, and the service its log.
    timeout
        Seconds that it may take to come up.
    command
        What to start instead of the service.
    patience
        Seconds that it may take to end before it is killed.

    Raises
    ------
    ServiceStartError
        On entering, if it ends or stays silent instead of saying where it listens.
    """

    def __init__(
        self, folder: Path, timeout: float = 60.0, command: list[str] | None = None, patience: float = 20.0
    ) -> None:
        store = ["serve", "--embedded", "--port", "0", "--data-dir", str(folder / "store")]
        self.url = ""
        self._folder = folder
        self._timeout, self._patience = timeout, patience
        self._command = command or [sys.executable, "-m", "mild_service.cli", *store]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "service.log"
        keeper = [sys.executable, "-m", "mild_trainer.keeper", str(self._folder / "keeper.lock")]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*keeper, *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # ctrl-C is for the training, which then ends the service
            )
        said: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._process.stdout, said), daemon=True).start()
        try:
            self.url = said.get(timeout=self._timeout)
        except queue.Empty:
            self.url = ""
        if not self.url:
            self.stop()
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it wrote nothing"]
            raise ServiceStartError(
                f"the embedded service ended, or did not say within {self._timeout:g} s where it listens: {last[0]}; "
                f"see {log}, or select without a service (--local) or with one that runs already (--url)"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the service end, and wait until it has."""
        process = self._process
        if process is None:
            return
        self._process = None
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=self._patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _listen(lines: IO[str], said: "queue.SimpleQueue[str]") -> None:
    """Pass on the address once it is said, or nothing at the end; keep reading, so that the pipe never fills up."""
    with lines:
        for line in lines:
            if _READY in line:
                said.put(line.partition(_READY)[2].split()[0])
    said.put("")
