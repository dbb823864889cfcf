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

    Entering the block does not wait: the service comes up while the caller does something else, until `url` is read.

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
    """

    def __init__(
        self, folder: Path, timeout: float = 60.0, command: list[str] | None = None, patience: float = 20.0
    ) -> None:
        store = ["serve", "--embedded", "--port", "0", "--data-dir", str(folder / "store")]
        self._url = ""
        self._folder = folder
        self._log = folder / "service.log"
        self._timeout, self._patience = timeout, patience
        self._command = command or [sys.executable, "-m", "mild_service.cli", *store]
        self._process: subprocess.Popen[str] | None = None
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        keeper = [sys.executable, "-m", "mild_trainer.supervisor", str(self._folder / "keeper.lock")]
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                [*keeper, *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # ctrl-C is for the training, which then ends the service
            )
        threading.Thread(target=_listen, args=(self._process.stdout, self._said), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens; waits until it does.

        Raises
        ------
        ServiceStartError
            If it ends or stays silent instead of saying where it listens.
        """
        if not self._url:
            try:
                self._url = self._said.get(timeout=self._timeout)
            except queue.Empty:
                raise self._failure(f"did not say within {self._timeout:g} s where it listens") from None
            if not self._url:
                raise self._failure("ended before it listened")
        return self._url

    def release(self) -> None:
        """Tell the service to end, without waiting until it has."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def stop(self) -> None:
        """Let the service end, and wait until it has."""
        process = self._process
        if process is None:
            return
        self.release()
        self._process = None
        try:
            process.wait(timeout=self._patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _failure(self, what: str) -> ServiceStartError:
        self.stop()
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["it wrote nothing"]
        # Without the remedy behind the semicolon: the service's options are not the training's.
        said = last[0].removeprefix("error: ").partition("; ")[0]
        return ServiceStartError(
            f"the embedded service {what}: {said}; see {self._log}, "
            "or choose another --out, or select without a service (--local) or with one that runs already (--url)"
        )


def _listen(lines: IO[str], said: "queue.SimpleQueue[str]") -> None:
    """Pass on the address once it is said, or nothing at the end; keep reading, so that the pipe never fills up."""
    with lines:
        for line in lines:
            if _READY in line:
                said.put(line.partition(_READY)[2].split()[0])
    said.put("")
