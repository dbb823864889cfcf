"""Bodies read in processes of their own: what a C++ library makes of a hostile one ends its process, and no other.

A helper is started with the first such body, and forks a process for each: a few milliseconds, where a new Python with
pyarrow takes some tenths of a second. It has no threads, so forking is safe; it never looks at a body itself.

A body on disk: for formats that are read from a file, with seeking, in a process of its own.
"""

import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO

from mild_core.errors import MildError
from mild_service.config import child_environment
from mild_service.errors import DeadlineExceeded, MalformedBody, Overloaded
from mild_service.ingest.column_ipc import Block, Broken, Texts, receive_block, send_head
from mild_service.ingest.columns import Batch, Column, Limits, Rows, assemble, numbered_samples, samples_of
from mild_service.ingest.line_splitter import numbered
from mild_service.ingest.sample_names import Names

logger = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
_FATE_SECONDS = 10.0
_LIBRARIES = {
    # None starts a thread: a process with threads is not safe to fork.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Others reserve more memory than they use, past what a process may have.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # A new process has to be given all its memory first: by large pages, and so that it keeps what it has got.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "67108864",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
}
"""How the libraries of a helper are told to behave."""


class Reading:
    """One body that is being read.

    Parameters
    ----------
    channel
        To the process that reads it.
    fate
        Where the helper says how that process has ended.
    n_bytes, seconds
        What it may take.
    """

    def __init__(self, channel: socket.socket, fate: socket.socket, n_bytes: int, seconds: float) -> None:
        self._channel = channel
        self._fate = fate
        self._n_bytes = n_bytes
        self._seconds = seconds

    def blocks(self) -> Iterator[Block]:
        """All rows.

        Raises
        ------
        BadRecord, LimitExceeded
            If the body cannot be used.
        MalformedBody
            If it cannot be read; or if it ended the process that read it.
        DeadlineExceeded
            If it took too long.
        Overloaded
            If the process was ended from outside.
        """
        try:
            while (block := receive_block(self._channel)) is not None:
                yield block
        except Broken as error:
            raise self._ended(error) from error

    def close(self) -> None:
        """Let go: the process ends when it has more to say. May be called from another thread, also while one reads."""
        for end in (self._channel, self._fate):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _ended(self, error: Broken) -> MildError:
        try:
            self._fate.settimeout(_FATE_SECONDS)
            code = int(self._fate.recv(16))
        except (OSError, ValueError):  # the helper itself is gone
            code = -signal.SIGKILL
        if code == -signal.SIGALRM:
            return DeadlineExceeded(
                f"the body was being read for {self._seconds:g} s, which is the limit; send it in parts, "
                "or have MILD_REQUEST_SECONDS raised"
            )
        if code == -signal.SIGKILL:
            return Overloaded(
                "the process that read the body was ended from outside; send the same again, and should it be ended "
                "again, the machine has too little memory: send the log in parts"
            )
        how = signal.Signals(-code).name if code < 0 else f"status {code}, {error}"
        logger.warning("a body ended the process that read it (%s)", how)
        return MalformedBody(
            f"the body cannot be read: it ended the process that read it ({how}), so it is damaged, or takes more than "
            f"the {self._n_bytes} bytes of memory that there are for it (MILD_LOG_READER_BYTES); write it again, in "
            "smaller batches or pages"
        )


class Helper:
    """Has bodies read, each in a process of its own that is ended when it takes too much memory or time.

    Parameters
    ----------
    n_bytes
        Most memory of such a process, without the body itself.
    seconds
        Longest time that it takes.
    """

    def __init__(self, n_bytes: int, seconds: float) -> None:
        self._n_bytes = n_bytes
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int:
        """The helper's process."""
        assert self._process is not None, "no body has been read"
        return self._process.pid

    def read(self, form: str, body: IO[bytes], ids: bool) -> Reading:
        """Begin to read a body.

        Parameters
        ----------
        form
            ``arrow_stream`` or ``parquet``.
        body
            The file that holds it.
        ids
            Samples may be texts.

        Raises
        ------
        Overloaded
            If no process can be started.
        """
        ours, theirs = socket.socketpair()
        fate, told = socket.socketpair()
        with theirs, told:
            try:
                # Waits for as long as a body may take, should everything stand still; the process itself ends before.
                ours.settimeout(2 * self._seconds)
                self._hand_over(body, theirs, told)
                send_head(ours, {"form": form, "ids": ids, "n_bytes": self._n_bytes, "seconds": self._seconds})
            except OSError as error:
                ours.close()
                fate.close()
                raise Overloaded(
                    f"no process can be started to read the body ({error.strerror or error}); try again in a second"
                ) from error
        return Reading(ours, fate, self._n_bytes, self._seconds)

    def close(self) -> None:
        """End the helper. It ends by itself, too, when this process does."""
        with self._lock:
            self._end()

    def _hand_over(self, *files: IO[bytes] | socket.socket) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                logger.warning(
                    "the helper that has bodies read ended with %d: starting another", self._process.returncode
                )
                self._end()
            if self._control is None:
                self._control = self._start()
            try:
                _send_files(self._control, files)
            except OSError:  # it has just ended
                self._end()
                self._control = self._start()
                _send_files(self._control, files)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "mild_service.ingest.sandbox_worker", str(theirs.fileno())],
                    env=child_environment(_LIBRARIES),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # ctrl-C is for the service, and the helper ends with it
                )
            except OSError:
                ours.close()
                raise
        return ours

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()  # which the helper takes as its end
        if self._process is not None:
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None


def _send_files(control: socket.socket, files: Sequence[IO[bytes] | socket.socket]) -> None:
    socket.send_fds(control, [b"."], [file.fileno() for file in files])


class SpoolReader:
    """Writes a body to a temporary file, and has it read when it has ended; a record's number is its row, from 1.

    Parameters
    ----------
    limits
        Of the log.
    form
        The format, as `Helper.read` knows it.
    helper
        Reads the file.

    Raises
    ------
    Overloaded
        If there is no room for the file, or no folder.
    """

    def __init__(self, limits: Limits, form: str, helper: Helper) -> None:
        self._limits = limits
        self._form = form
        self._helper = helper
        self._reading: Reading | None = None
        try:
            self._file = tempfile.TemporaryFile(prefix="mild-log-")  # noqa: SIM115  # closed by close
        except OSError as error:
            raise _no_room(error) from error

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Nothing yet."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _no_room(error) from error
        yield from ()

    def end(self) -> Iterator[Batch]:
        """All records."""
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from error
        self._reading = self._helper.read(self._form, self._file, self._limits.names is not None)
        n_read = 0
        for block in self._reading.blocks():
            rows = Rows("row", numbered(n_read + 1, block.n_rows))
            yield assemble(rows, _columns(rows, block, self._limits.names), self._limits)
            n_read += block.n_rows

    def close(self) -> None:
        """Stop reading, and remove the file."""
        if self._reading is not None:
            self._reading.close()
        with suppress(OSError):  # what is still to be written finds no room
            self._file.close()


def _no_room(error: OSError) -> Overloaded:
    return Overloaded(
        f"the body could not be written to the service's temporary folder ({error.strerror or error}); try again "
        "later, send it as application/x-ndjson or text/csv, or have TMPDIR name a folder with more room"
    )


def _columns(rows: Rows, block: Block, ids: Names | None) -> dict[str, Column]:
    found = {}
    for name, column in block.columns.items():
        if isinstance(column, Column):
            found[name] = numbered_samples(rows, column, ids) if name == "sample" else column
        else:
            found[name] = samples_of(rows, _spelt(column), ids)
    return found


def _spelt(column: Texts) -> list[str | None]:
    if column.places is None:
        return column.texts
    texts = [*column.texts, None]
    return [texts[place] for place in column.places.tolist()]
