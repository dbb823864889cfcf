"""Reads each untrusted Arrow or Parquet body in a separate process, so that a hostile body crashes only this process.

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO

from mild_core.errors import MildError
from mild_core.log_columns import FIELDS
from mild_service.config import build_child_environment
from mild_service.errors import DeadlineExceeded, MalformedBody, Overloaded
from mild_service.ingest.column_ipc import Block, ChannelError, TextColumn, receive_block, send_header
from mild_service.ingest.columns import (
    Batch,
    Column,
    LogLimits,
    RowNumbers,
    check_class_numbers,
    make_batch,
    make_class_column,
    make_sample_column,
    resolve_sample_numbers,
)
from mild_service.ingest.line_splitter import line_numbers
from mild_service.ingest.log_options import CLASS_FIELDS

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
    """A body that a separate process is reading.

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

    def read_blocks(self) -> Iterator[Block]:
        """Yield all rows of the body in blocks."""
        try:
            while (block := receive_block(self._channel)) is not None:
                yield block
        except ChannelError as error:
            raise self._make_exit_error(error) from error

    def close(self) -> None:
        """Close the sockets, which ends the process. Another thread may call this while `read_blocks` is running."""
        for endpoint in (self._channel, self._exit_channel):
            with suppress(OSError):
                endpoint.shutdown(socket.SHUT_RDWR)
            endpoint.close()

    def _make_exit_error(self, error: ChannelError) -> MildError:
        """Return the error for a process that ended before it had sent all rows, by its exit code."""
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
    """Reads each body in a separate process with a limit of memory and time.

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

    def start_read(
        self, format_name: str, body: IO[bytes], fields: Mapping[str, str], text_fields: Sequence[str] = ()
    ) -> SandboxedRead:
        """Start a process that reads a body.

        Parameters
        ----------
        format_name
            ``arrow`` or ``parquet``.
        body
            File with the body.
        fields
            The field of each column to read.
        text_fields
            The fields that may hold texts.
        """
        ours, theirs = socket.socketpair()
        exit_channel, worker_end = socket.socketpair()
        with theirs, worker_end:
            try:
                # Longer than the process may run: a last resort in case it hangs.
                ours.settimeout(2 * self._seconds)
                self._send_to_worker(body, theirs, worker_end)
                limits = {"n_bytes": self._n_bytes, "seconds": self._seconds}
                send_header(ours, {"form": format_name, "fields": dict(fields), "texts": list(text_fields), **limits})
            except OSError as error:
                ours.close()
                exit_channel.close()
                raise Overloaded(
                    f"no process can be started to read the body ({error.strerror or error}); try again in a second"
                ) from error
        return SandboxedRead(ours, exit_channel, self._n_bytes, self._seconds)

    def close(self) -> None:
        """Stop the worker, which also stops when this process ends."""
        with self._lock:
            self._stop_worker()

    def _send_to_worker(self, *files: IO[bytes] | socket.socket) -> None:
        """Send file descriptors to the worker, after starting it if it is not running."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                logger.warning(
                    "the sandbox's worker ended with exit code %d: starting another", self._process.returncode
                )
                self._stop_worker()
            if self._control is None:
                self._control = self._start_worker()
            try:
                _send_files(self._control, files)
            except OSError:  # it has just ended
                self._stop_worker()
                self._control = self._start_worker()
                _send_files(self._control, files)

    def _start_worker(self) -> socket.socket:
        """Start the worker, and return the socket over which it receives file descriptors."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "mild_service.ingest.sandbox_worker", str(theirs.fileno())],
                    env=build_child_environment(_ENVIRONMENT),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # ctrl-C goes to the service only, which stops the worker
                )
            except OSError:
                ours.close()
                raise
        return ours

    def _stop_worker(self) -> None:
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
    """Writes a log to a temporary file, which the sandbox reads when it is complete. Rows are numbered from 1.

    Parameters
    ----------
    limits
        Limits of the log.
    format_name
        ``arrow`` or ``parquet``.
    sandbox
        Starts the process that reads the file.
    """

    def __init__(self, limits: LogLimits, format_name: str, sandbox: Sandbox) -> None:
        self._limits = limits
        self._format_name = format_name
        self._sandbox = sandbox
        self._read: SandboxedRead | None = None
        try:
            self._file = tempfile.TemporaryFile(prefix="mild-log-")  # noqa: SIM115  # closed by close
        except OSError as error:
            raise make_disk_error(error) from error

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Write the next bytes of the log to the file, and yield nothing."""
        try:
            self._file.write(data)
        except OSError as error:
            raise make_disk_error(error) from error
        yield from ()

    def end(self) -> Iterator[Batch]:
        """Read the file, and yield all records."""
        try:
            self._file.flush()
        except OSError as error:
            raise make_disk_error(error) from error
        options = self._limits.options
        text_fields = (
            *(("sample",) if self._limits.resolver is not None else ()),
            *(CLASS_FIELDS if options.class_names is not None else ()),
        )
        fields = options.map_columns(FIELDS)
        self._read = self._sandbox.start_read(self._format_name, self._file, fields, text_fields)
        n_read = 0
        for block in self._read.read_blocks():
            rows = RowNumbers("row", line_numbers(n_read + 1, block.n_rows))
            if block.n_rows:
                yield make_batch(rows, _resolve_columns(rows, block, self._limits), self._limits)
            n_read += block.n_rows

    def close(self) -> None:
        """Stop the process that reads the file, and delete the file."""
        if self._read is not None:
            self._read.close()
        with suppress(OSError):  # buffered data may not fit on the disk
            self._file.close()


def make_disk_error(error: OSError) -> Overloaded:
    """Build the error for a body that cannot be written to a temporary file."""
    return Overloaded(
        f"the body could not be written to the service's temporary folder ({error.strerror or error}); try again "
        "later, send it as application/x-ndjson or text/csv, or have TMPDIR name a folder with more space"
    )


def _resolve_columns(rows: RowNumbers, block: Block, limits: LogLimits) -> dict[str, Column]:
    """Return the columns of a block with numbers in place of external ids and of names of classes."""
    resolver, class_names = limits.resolver, limits.options.class_names
    columns = {}
    for name, column in block.columns.items():
        if name in CLASS_FIELDS:
            columns[name] = (
                check_class_numbers(rows, column, name, class_names)
                if isinstance(column, Column)
                else make_class_column(rows, name, _expand_texts(column), class_names)
            )
        elif isinstance(column, Column):
            columns[name] = resolve_sample_numbers(rows, column, resolver) if name == "sample" else column
        else:
            columns[name] = make_sample_column(rows, _expand_texts(column), resolver)
    return columns


def _expand_texts(column: TextColumn) -> list[str | None]:
    """Return the text of each row; None if absent."""
    if column.positions is None:
        return column.texts
    texts = [*column.texts, None]
    return [texts[position] for position in column.positions.tolist()]
