"""The folder of the embedded server's socket: the data folder, or one of its own where that cannot hold a socket.

A socket's path is limited to about 100 characters, and some file systems have no sockets. A folder of its own is in the
user's runtime folder or among the temporary files. Its lock shows that it is in use, so that those of killed services
can be removed.
"""

import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from mild_core.errors import get_reason
from mild_service.errors import ConfigurationError

_SOCKET = "store.sock"
_PREFIX = "mild-socket-"


class SocketDir:
    """A folder that takes a Unix socket, whose other users are kept out by the socket's mode.

    Parameters
    ----------
    data_dir
        Data folder, which this process has locked.
    """

    def __init__(self, data_dir: Path) -> None:
        self._lock: int | None = None
        self._is_private = False
        _remove_stale_dirs()
        self.path = self._choose(data_dir)

    @property
    def socket(self) -> Path:
        """Path of the socket."""
        return self.path / _SOCKET

    @property
    def url(self) -> str:
        """URL of the socket for clients."""
        return f"unix://{quote(str(self.socket))}"

    def restore(self) -> None:
        """Create and lock the folder again if it was removed."""
        if not self._is_private or (self._lock is not None and _is_open_dir(self._lock, self.path)):
            return
        with suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        self._unlock()
        self._lock = _lock_dir(self.path)

    def close(self) -> None:
        """Remove the socket, and the folder if it is one of its own."""
        with suppress(OSError):
            self.socket.unlink()
        if self._is_private:
            shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _choose(self, data_dir: Path) -> Path:
        reasons = []
        if (reason := _try_socket(data_dir)) is None:
            return data_dir
        reasons.append(f"{data_dir} ({reason})")
        for parent in _get_runtime_dirs():
            try:
                path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
                self._lock = _lock_dir(path)
            except OSError as error:
                reasons.append(f"{parent} ({get_reason(error)})")
                continue
            if (reason := _try_socket(path)) is None:
                self._is_private = True
                return path
            reasons.append(f"{path} ({reason})")
            shutil.rmtree(path, ignore_errors=True)
            self._unlock()
        raise ConfigurationError(
            f"no folder takes the socket of the embedded store: {', '.join(reasons)}; give a data folder with a path "
            "below 90 characters on a local disk (--data-dir or MILD_DATA_DIR), or set TMPDIR to such a folder"
        )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _get_runtime_dirs() -> Iterator[Path]:
    """Yield folders for what lasts as long as a process; they may be missing or not writable."""
    yield Path(f"/run/user/{os.getuid()}")  # the value of XDG_RUNTIME_DIR
    with suppress(FileNotFoundError):
        yield Path(tempfile.gettempdir())
    yield Path("/tmp")  # where the path of TMPDIR is too long


def _try_socket(folder: Path) -> str | None:
    """Return why a folder does not take the socket, and None if it does; a socket of an ended server is removed."""
    path = folder / _SOCKET
    try:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(str(path))
        path.unlink()
        str(path).encode()
    except OSError as error:
        return get_reason(error)
    except UnicodeEncodeError:
        return "its path is not UTF-8"
    return None


def _remove_stale_dirs() -> None:
    """Remove the folders of this user's services that were killed."""
    for parent in set(_get_runtime_dirs()):
        for path in parent.glob(f"{_PREFIX}*"):
            try:
                lock = _lock_dir(path)
            except OSError:  # in use, or of another user
                continue
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _lock_dir(path: Path) -> int:
    """Lock a folder of this user, and return its descriptor; an OSError if it is in use, or of another user."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(folder).st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(path))
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_open_dir(folder, path):
            raise FileNotFoundError(errno.ENOENT, "it was removed before it was locked", str(path))
    except OSError:
        os.close(folder)
        raise
    return folder


def _is_open_dir(folder: int, path: Path) -> bool:
    """Return whether a descriptor is that of the folder at a path."""
    try:
        return os.path.samestat(os.fstat(folder), path.lstat())
    except OSError:
        return False
