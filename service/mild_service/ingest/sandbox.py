"""Reads untrusted Arrow and Parquet bodies in processes of their own, so that a hostile body crashes only its reader.

A worker starts with the first such body, and forks a process for each. Forking takes a few milliseconds, starting
Python with pyarrow some tenths of a second. The worker has no threads, so forking is safe; it does not read bodies.
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
from mild_service.ingest.column_ipc import Block, ChannelError, TextColumn, receive_block, send_header
from mild_service.ingest.columns import (
    Batch,
    Column,
    LogLimits,
    RowNumbers,
    check_numbers,
    make_batch,
    make_sample_column,
)
from mild_service.ingest.line_splitter import line_numbers
from mild_service.ingest.sample_resolvers import SampleResolver

logger = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
_EXIT_CODE_SECONDS = 10.0
_ENVIRONMENT = {
    # Libraries start no threads: a process with threads is not safe to fork.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Other memory pools reserve more memory than a process may have.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # A new process has no memory mapped yet: it maps large pages, and keeps them.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "67108864",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
}
"""Environment variables of the worker, for its libraries."""


class SandboxedRead:
    """One body that a process is reading.

    Parameters
    ----------
    channel
        Socket to the reading process.
    exit_channel
        Socket on which the worker sends the exit code of that process.
    n_bytes, seconds
        Memory and time limits of that process.
    """

    def __init__(self, channel: socket.socket, exit_channel: socket.socket, n_bytes: int, seconds: float) -> None:
        self._channel = channel
        self._exit_channel = exit_channel
        self._n_bytes = n_bytes
        self._seconds = seconds

    def blocks(self) -> Iterator[Block]:
        """Yield all rows.

        Raises
        ------
        BadRecord, LimitExceeded
            If the body cannot be used.
        MalformedBody
            If it cannot be read, or if it crashed the process that read it.
        DeadlineExceeded
            If it took too long.
        Overloaded
            If the process was killed from outside.
        """
        try:
            while (block := receive_block(self._channel)) is not None:
                yield block
        except ChannelError as error:
            raise self._exit_error(error) from error

    def close(self) -> None:
        """Close the sockets, which ends the process. May be called from another thread while `blocks` is running."""
        for endpoint in (self._channel, self._exit_channel):
            with suppress(OSError):
                endpoint.shutdown(socket.SHUT_RDWR)
            endpoint.close()

    def _exit_error(self, error: ChannelError) -> MildError:
        try:
            self._exit_channel.settimeout(_EXIT_CODE_SECONDS)
            code = int(self._exit_channel.recv(16))
        except (OSError, ValueError):  # the worker itself has ended
            code = -signal.SIGKILL
        if code == -signal.SIGALRM:
            return DeadlineExceeded(
                f"the body was being read for {self._seconds:g} s, which is the limit; send it in parts, "
                "or have MILD_REQUEST_SECONDS raised"
            )
        if code == -signal.SIGKILL:
            return Overloaded(
                "the process that read the body was killed from outside; send the same again, and if it is killed "
                "again, the machine has too little memory: send the log in parts"
            )
        how = signal.Signals(-code).name if code < 0 else f"status {code}, {error}"
        logger.warning("a body crashed the process that read it (%s)", how)
        return MalformedBody(
            f"the body cannot be read: it crashed the process that read it ({how}), so it is damaged, or takes more "
            f"than {self._n_bytes} bytes of memory, which is the limit (MILD_LOG_READER_BYTES); write it again, in "
            "smaller batches or pages"
        )


class Sandbox:
    """Reads bodies, each in a process of its own with a memory and a time limit.

    Parameters
    ----------
    n_bytes
        Most memory of such a process, without the body itself.
    seconds
        Longest time of such a process.
    """

    def __init__(self, n_bytes: int, seconds: float) -> None:
        self._n_bytes = n_bytes
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        assert self._process is not None, "no body has been read"
        return self._process.pid

    def read(self, form: str, body: IO[bytes], ids: bool) -> SandboxedRead:
        """Begin to read a body.

        Parameters
        ----------
        form
            ``arrow_stream`` or ``parquet``.
        body
            The file that holds it.
        ids
            Whether samples may be strings.

        Raises
        ------
        Overloaded
            If no process can be started.
        """
        ours, theirs = socket.socketpair()
        exit_channel, worker_end = socket.socketpair()
        with theirs, worker_end:
            try:
                # Longer than the process may run: a last resort in case it hangs.
                ours.settimeout(2 * self._seconds)
                self._send_to_worker(body, theirs, worker_end)
                send_header(ours, {"form": form, "ids": ids, "n_bytes": self._n_bytes, "seconds": self._seconds})
            except OSError as error:
                ours.close()
                exit_channel.close()
                raise Overloaded(
                    f"no process can be started to read the body ({error.strerror or error}); try again in a second"
                ) from error
        return SandboxedRead(ours, exit_channel, self._n_bytes, self._seconds)

    def close(self) -> None:
        """Stop the worker. It also stops by itself when this process ends."""
        with self._lock:
            self._stop()

    def _send_to_worker(self, *files: IO[bytes] | socket.socket) -> None:
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                logger.warning(
                    "the sandbox's worker ended with exit code %d: starting another", self._process.returncode
                )
                self._stop()
            if self._control is None:
                self._control = self._start()
            try:
                _send_files(self._control, files)
            except OSError:  # it has just ended
                self._stop()
                self._control = self._start()
                _send_files(self._control, files)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "mild_service.ingest.sandbox_worker", str(theirs.fileno())],
                    env=child_environment(_ENVIRONMENT),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # ctrl-C goes to the service only, which stops the worker
                )
            except OSError:
                ours.close()
                raise
        return ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()  # the worker then stops
        if self._process is not None:
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None


def _send_files(control: socket.socket, files: Sequence[IO[bytes] | socket.socket]) -> None:
    socket.send_fds(control, [b"."], [file.fileno() for file in files])


class SandboxReader:
    """Writes a body to a temporary file, and reads it in the sandbox at its end; a record's number is its row, from 1.

    Parameters
    ----------
    limits
        Of the log.
    form
        The format, as `Sandbox.read` knows it.
    sandbox
        Reads the file.

    Raises
    ------
    Overloaded
        If the file cannot be written.
    """

    def __init__(self, limits: LogLimits, form: str, sandbox: Sandbox) -> None:
        self._limits = limits
        self._form = form
        self._sandbox = sandbox
        self._read: SandboxedRead | None = None
        try:
            self._file = tempfile.TemporaryFile(prefix="mild-log-")  # noqa: SIM115  # closed by close
        except OSError as error:
            raise _spool_error(error) from error

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Write `data` to the file; yields nothing."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _spool_error(error) from error
        yield from ()

    def end(self) -> Iterator[Batch]:
        """Yield all records."""
        try:
            self._file.flush()
        except OSError as error:
            raise _spool_error(error) from error
        self._read = self._sandbox.read(self._form, self._file, self._limits.resolver is not None)
        n_read = 0
        for block in self._read.blocks():
            rows = RowNumbers("row", line_numbers(n_read + 1, block.n_rows))
            yield make_batch(rows, _columns(rows, block, self._limits.resolver), self._limits)
            n_read += block.n_rows

    def close(self) -> None:
        """Stop reading, and remove the file."""
        if self._read is not None:
            self._read.close()
        with suppress(OSError):  # buffered data may not fit on the disk
            self._file.close()


def _spool_error(error: OSError) -> Overloaded:
    return Overloaded(
        f"the body could not be written to the service's temporary folder ({error.strerror or error}); try again "
        "later, send it as application/x-ndjson or text/csv, or have TMPDIR name a folder with more space"
    )


def _columns(rows: RowNumbers, block: Block, resolver: SampleResolver | None) -> dict[str, Column]:
    columns = {}
    for name, column in block.columns.items():
        if isinstance(column, Column):
            columns[name] = check_numbers(rows, column, resolver) if name == "sample" else column
        else:
            columns[name] = make_sample_column(rows, _expand(column), resolver)
    return columns


def _expand(column: TextColumn) -> list[str | None]:
    """Return the text of each row."""
    if column.positions is None:
        return column.texts
    texts = [*column.texts, None]
    return [texts[position] for position in column.positions.tolist()]
