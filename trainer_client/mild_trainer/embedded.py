"""`EmbeddedService`, a service in a child process that runs as long as the training.

A killed trainer cannot stop its service. So the service runs under a process of its own, the program of this module:
``python -m mild_trainer.embedded LOCK COMMAND...``. Its standard input closes when the trainer ends, even if it was
killed, and then this process terminates the service. The lock makes the next training wait until the service has
released the folder.
"""

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

_READY_MARK = "listening on "


class EmbeddedService:
    """Runs ``mild-service serve --embedded`` on a free port within a ``with`` block.

    The start of the block does not wait for the service, but reading `url` does.

    Parameters
    ----------
    folder
        Folder for the store and the log of the service.
    timeout
        Seconds that the service may take to start.
    command
        Command to run instead of the service.
    stop_timeout
        Seconds that the service may take to stop before it is killed.
    """

    def __init__(
        self, folder: Path, timeout: float = 60.0, command: list[str] | None = None, stop_timeout: float = 20.0
    ) -> None:
        store = ["serve", "--embedded", "--port", "0", "--data-dir", str(folder / "store")]
        self._url = ""
        self._folder = folder
        self._log = folder / "service.log"
        self._timeout, self._stop_timeout = timeout, stop_timeout
        self._command = command or [sys.executable, "-m", "mild_service.cli", *store]
        self._process: subprocess.Popen[str] | None = None
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        supervisor = [sys.executable, "-m", "mild_trainer.embedded", str(self._folder / "keeper.lock")]
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                [*supervisor, *self._command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # ctrl-C reaches only the training, which then stops the service
            )
        threading.Thread(target=_read_address, args=(self._process.stdout, self._messages), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address of the service; reading it waits until the service listens."""
        if not self._url:
            try:
                self._url = self._messages.get(timeout=self._timeout)
            except queue.Empty:
                raise self._make_start_error(f"did not say within {self._timeout:g} s where it listens") from None
            if not self._url:
                raise self._make_start_error("ended before it listened")
        return self._url

    def request_stop(self) -> None:
        """Ask the service to stop, without waiting for it."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def stop(self) -> None:
        """Stop the service, and wait until it has stopped."""
        process = self._process
        if process is None:
            return
        self.request_stop()
        self._process = None
        try:
            process.wait(timeout=self._stop_timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _make_start_error(self, problem: str) -> ServiceStartError:
        """Stop the service, and make an error of `problem` and the last line of the log."""
        self.stop()
        last_line = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["it wrote nothing"]
        # Without the remedy after the semicolon, which names options of the service.
        message = last_line[0].removeprefix("error: ").partition("; ")[0]
        return ServiceStartError(
            f"the embedded service {problem}: {message}; see {self._log}, "
            "or choose another --out, or select without a service (--local) or with one that runs already (--url)"
        )


def _read_address(lines: IO[str], messages: "queue.SimpleQueue[str]") -> None:
    """Put the address that the service prints into `messages`, and an empty text when its output ends.

    All output is read, so that the pipe never fills.
    """
    with lines:
        for line in lines:
            if _READY_MARK in line:
                messages.put(line.partition(_READY_MARK)[2].split()[0])
    messages.put("")


def supervise(lock_path: Path, command: list[str]) -> int:
    """Run `command` under a lock and return its exit status; terminate it when standard input closes."""
    import fcntl  # Windows has none

    with lock_path.open("a") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"{lock_path.parent} is in use by another training; waiting until that ends",
                file=sys.stderr,
                flush=True,
            )
            fcntl.flock(lock_file, fcntl.LOCK_EX)
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        threading.Thread(target=_terminate_when_input_closes, args=(child,), daemon=True).start()
        return child.wait()


def _terminate_when_input_closes(child: "subprocess.Popen[bytes]") -> None:
    """Read standard input until it closes, and terminate `child`."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    child.terminate()


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1]), sys.argv[2:]))
