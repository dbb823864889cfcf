"""What can be broken: a store, a service and the connections between them, each of them real, and put right again.

As the compose file's restart policy does, whatever ends is started again at once.
"""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from mild_service.store.embedded import find_server

DISK_BYTES = 512 * 2**20
_PATIENCE = 30.0


def until(condition: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> float:
    """Wait for something and return how many seconds that took.

    Raises
    ------
    TimeoutError
        If it does not happen in time.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.005)
    return time.monotonic() - began


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

    def __init__(self, disk: "Disk", folder: Path) -> None:
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

    def __init__(self, store_url: str, link: "Link", folder: Path, settings: Mapping[str, str]) -> None:
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


class Disk:
    """A folder on a disk that can be filled: a tmpfs where this user may mount one, else a limit on a file's size."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted
        self._largest: int | None = None

    @property
    def kind(self) -> str:
        """In words."""
        if self.mounted:
            return f"a tmpfs of {DISK_BYTES >> 20} MiB, filled up to its last pages"
        return "a limit on the size of the store's files (RLIMIT_FSIZE), as no tmpfs may be mounted here"

    def fill(self, pid: int, spare: int) -> None:
        """Leave room for `spare` bytes to the process that writes here."""
        if not self.mounted:
            self._largest = max(path.stat().st_size for path in self.folder.rglob("*.aof")) + spare
            self.limit(pid)
            return
        self._fill(spare)

    def refill(self) -> None:
        """Take what has become free since: the store removes old files when it has rewritten them."""
        if self.mounted:
            self._fill(0)

    def _fill(self, spare: int) -> None:
        with (self.folder / "filler").open("ab") as filler:
            while True:
                state = os.statvfs(self.folder)
                try:
                    pages = max(1, state.f_bavail - spare // state.f_bsize)
                    os.posix_fallocate(filler.fileno(), filler.tell(), pages * state.f_bsize)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    if state.f_bavail:
                        continue  # the other one has written meanwhile
                return

    def free(self, pid: int) -> None:
        """Give the room back."""
        self._largest = None
        (self.folder / "filler").unlink(missing_ok=True)
        if not self.mounted:
            self.limit(pid)

    def limit(self, pid: int) -> None:
        """Let a process write files as long as the disk has room for, where the disk is none of its own."""
        soft = resource.RLIM_INFINITY if self._largest is None else self._largest
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A disk that can be filled, at `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


class Link:
    """Passes TCP connections on to a server, and cuts them: at once, in the middle of what is sent, or for a while."""

    def __init__(self) -> None:
        self.port = 0
        self.n_cuts = 0
        self._target: int | Path | None = None
        self._budget: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = server.result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lead_to(self, target: int | Path) -> None:
        """Pass new connections on to this port, or to this socket."""
        self._target = target

    def cut_after(self, n_bytes: int) -> None:
        """Cut all connections once this many more bytes were passed on towards the server."""
        self._loop.call_soon_threadsafe(setattr, self, "_budget", n_bytes)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        there = None
        try:
            from_there, there = await self._reach()
            self._writers.add(there)
            both = (_pump(reader, there, self._spent), _pump(from_there, writer, lambda n_bytes: n_bytes))
            ways = [asyncio.ensure_future(way) for way in both]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            there.close()
            writer.close()
            await asyncio.wait(ways)
        except OSError:
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    end.close()
                    self._writers.discard(end)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    def _spent(self, n_bytes: int) -> int:
        """How many of these bytes may pass."""
        if self._budget is None:
            return n_bytes
        passing = min(self._budget, n_bytes)
        self._budget -= passing
        if self._budget == 0:
            self._budget = None
            self._loop.call_soon(self._cut)
        return passing

    def _cut(self) -> None:
        self.n_cuts += 1
        for writer in self._writers:
            _reset(writer)

    async def _close(self) -> None:
        self._server.close()
        self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=5)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: Callable[[int], int]) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece[: passing(len(piece))])
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    if end is not None and end.family == socket.AF_INET:
        with contextlib.suppress(OSError):  # gone already
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
