"""A store and a service in processes that are started again whenever they end."""

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from benchmarks.disks import Disk
from benchmarks.links import Link
from mild_service.store.embedded import find_server


class RestartingProcess:
    """A process that is started again whenever it ends.

    Parameters
    ----------
    log
        File for the output of all its starts.
    """

    def __init__(self, log: Path) -> None:
        self.n_starts = 0
        self._log_path = log
        self._log = log.open("ab")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._process = self._spawn()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        while self._thread.is_alive():  # also a process that is just being started
            self._process.kill()
            self._thread.join(0.05)
        self._log.close()

    @property
    def pid(self) -> int:
        """Id of the process that runs now, or ran last."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the process with signal 9."""
        self._process.kill()

    def read_log(self, n_lines: int = 100) -> str:
        """Read the last lines of the log."""
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-n_lines:])

    def list_words(self) -> Sequence[str | Path]:
        """List the words of the command to start."""
        raise NotImplementedError

    def on_start(self, process: "subprocess.Popen[bytes]") -> None:
        """Handle a process that has just been started."""

    def _spawn(self) -> "subprocess.Popen[bytes]":
        # Children inherit the signals that this process ignores: a write past the limit of a file's size is then an
        # error instead of a signal.
        process = subprocess.Popen(
            self.list_words(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            restore_signals=False,
        )
        self.n_starts += 1
        return process

    def _run(self) -> None:
        while True:
            self.on_start(self._process)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            if self._stopping.wait(0.05):  # the pause of a restart policy
                return
            self._process = self._spawn()


class StoreProcess(RestartingProcess):
    """A Valkey or Redis with the settings of the compose file, on a socket; its append-only file is rewritten often."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        super().__init__(folder / "store.log")
        self.socket = folder / "store.sock"
        self._disk = disk

    @property
    def url(self) -> str:
        """Address of the store itself."""
        return f"unix://{self.socket}"

    def list_words(self) -> Sequence[str | Path]:
        """List the words of the command to start."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self._disk.folder),
            "logfile": str(self._log_path),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "auto-aof-rewrite-min-size": "8mb",
        }
        return [find_server(), *(part for name, value in options.items() for part in (f"--{name}", value))]

    def on_start(self, process: "subprocess.Popen[bytes]") -> None:
        """Limit its files, where the disk is full."""
        self._disk.limit(process.pid)


class ServiceProcess(RestartingProcess):
    """``mild-service serve`` on a new port at each start, to which `link` forwards."""

    def __init__(self, store_url: str, link: Link, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(folder / "service.log")
        self._settings = {"MILD_STORE_URL": store_url, **settings}
        self._link = link

    def list_words(self) -> Sequence[str | Path]:
        """List the words of the command to start."""
        settings = (f"{name}={value}" for name, value in self._settings.items())
        return ["env", *settings, sys.executable, "-m", "mild_service.cli", "serve", "--port", "0"]

    def on_start(self, process: "subprocess.Popen[bytes]") -> None:
        """Point the link at its port."""
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if line.startswith("listening on "):  # else it has ended already, and is started again
            self._link.lead_to(int(line.rpartition(":")[2]))
