"""One holder per spool: a lock on a file, which the system lets go of however its holder ends."""

from pathlib import Path

from mild_client.errors import SpoolInUse

try:
    import fcntl
except ImportError:  # Windows: there a run's spool has one writer because its user sees to it
    fcntl = None  # type: ignore[assignment]


class SpoolLock:
    """Holds a folder until it is released.

    Raises
    ------
    SpoolInUse
        If somebody else holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "lock").open("a")
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise SpoolInUse(
                f"{folder} is in use by another process, which sends what is in it; wait until that has ended"
            ) from None

    def release(self) -> None:
        """Let go."""
        self._file.close()
