"""A store and a service that are real processes, and are started again at once whenever they end.

As the compose file's restart policy does it.
"""

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from benchmarks.disks import Disk
from benchmarks.links import Link
from mild_service.store.embedded import find_server


class Restarted:
    """A process that is started again whenever it ends.

    Parameters
    ----------
    log
        File that all its lives write to.
    """

    def __init__(self, log: Path) -> None:
        self.n_starts = 0
        self._log_path = log
        self._log = log.open("ab")
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        self._process = self._spawn()
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        while self._keeper.is_alive():  # one that is just being started, too
            self._process.kill()
            self._keeper.join(0.05)
        self._log.close()

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        return self._process.pid

    def kill(self) -> None:
        """``kill -9``."""
        self._process.kill()

    def log(self, n_lines: int = 100) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-n_lines:])

    def command(self) -> Sequence[str | Path]:
        """What to start."""
        raise NotImplementedError

    def came_up(self, process: "subprocess.Popen[bytes]") -> None:
        """Look at a process that has just been started."""

    def _spawn(self) -> "subprocess.Popen[bytes]":
        # What this process ignores, its children go on ignoring: a write past the limit of a file's size is then an
        # error and no signal.
        process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            restore_signals=False,
        )
        self.n_starts += 1
        return process

    def _keep(self) -> None:
        while True:
            self.came_up(self._process)
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            if self._stopping.wait(0.05):  # as a restart policy pauses
                return
            self._process = self._spawn()


class StoreProcess(Restarted):
    """A Valkey or Redis as the compose file has it, on a socket; its append-only file is rewritten often."""

    def __init__(self, disk: Disk, folder: Path) -> None:
        super().__init__(folder / "store.log")
        self.socket = folder / "store.sock"
        self._disk = disk

    @property
    def url(self) -> str:
        """Address that leads straight to it."""
        return f"unix://{self.socket}"

    def command(self) -> Sequence[str | Path]:
        """What to start."""
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

    def came_up(self, process: "subprocess.Popen[bytes]") -> None:
        """Limit it, where the disk is full."""
        self._disk.limit(process.pid)

    def answers(self) -> bool:
        """Whether it does."""
        try:
            with Redis(unix_socket_path=str(self.socket), socket_timeout=1.0, retry=Retry(NoBackoff(), 0)) as redis:
                return bool(redis.ping())
        except RedisError:
            return False


class ServiceProcess(Restarted):
    """``mild-service serve`` on a port of its own each time, to which `link` leads."""

    def __init__(self, store_url: str, link: Link, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(folder / "service.log")
        self._settings = {"MILD_STORE_URL": store_url, **settings}
        self._link = link

    def command(self) -> Sequence[str | Path]:
        """What to start."""
        settings = (f"{name}={value}" for name, value in self._settings.items())
        return ["env", *settings, sys.executable, "-m", "mild_service.cli", "serve", "--port", "0"]

    def came_up(self, process: "subprocess.Popen[bytes]") -> None:
        """Have the link lead to it."""
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if line.startswith("listening on "):  # else it ended before, and is started again
            self._link.lead_to(int(line.rpartition(":")[2]))
