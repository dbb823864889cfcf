"""A disk that can be filled and emptied again."""

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_BYTES = 512 * 2**20


class Disk:
    """A folder on a disk that can be filled: a tmpfs where this user may mount one, else a limit on a file's size."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted
        self._largest: int | None = None

    @property
    def kind(self) -> str:
        """Description of the disk."""
        if self.mounted:
            return f"a tmpfs of {DISK_BYTES >> 20} MiB, filled up to its last pages"
        return "a limit on the size of the store's files (RLIMIT_FSIZE), as no tmpfs may be mounted here"

    def fill(self, pid: int, spare: int) -> None:
        """Fill the disk but for `spare` bytes, for the process that writes to it."""
        if not self.mounted:
            self._largest = max(path.stat().st_size for path in self.folder.rglob("*.aof")) + spare
            self.limit(pid)
            return
        self._fill(spare)

    def refill(self) -> None:
        """Fill what has become free since: the store removes old files after it has rewritten them."""
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
                        continue  # the process has written meanwhile
                return

    def free(self, pid: int) -> None:
        """Make room again."""
        self._largest = None
        (self.folder / "filler").unlink(missing_ok=True)
        if not self.mounted:
            self.limit(pid)

    def limit(self, pid: int) -> None:
        """Limit the size of the files that a process writes, where no disk could be mounted."""
        soft = resource.RLIM_INFINITY if self._largest is None else self._largest
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


@contextmanager
def make_disk(folder: Path) -> Iterator[Disk]:
    """Context manager of a disk that can be filled, at `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
