"""Reads each untrusted Arrow or Parquet body in a separate process, so that a hostile body crashes only this process.

A worker starts with the first such body, and forks a process for each. Forking takes a few milliseconds, starting
Python with pyarrow some tenths of a second. The worker has no threads, so forking is safe; it does not read bodies.
"""

import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import IO

from mild_core.errors import MildError
from mild_service.config import build_child_environment
from mild_service.errors import DeadlineExceeded, MalformedBody, Overloaded
from mild_service.ingest.column_ipc import Block, ChannelError, receive_block, send_header
from mild_service.ingest.columns import CLASS_FIELDS, Batch, LogLimits, RowNumbers, make_batch

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

    def read_blocks(
        self, format_name: str, body: IO[bytes], fields: Mapping[str, str], text_fields: Sequence[str] = ()
    ) -> Generator[Block]:
        """Start a process that reads a body, and yield all rows in blocks; closing the generator ends the process.

        Parameters
        ----------
        format_name
            ``arrow`` or ``parquet``.
        body
            The body, in a file of the operating system, or in a `SpooledTemporaryFile`.
        fields
            The field of each column to read.
        text_fields
            The fields that may hold texts.
        """
        with _catch_disk_errors():
            descriptor = body.fileno()  # which moves a small body from memory to the disk
            body.flush()
        channel, theirs = socket.socketpair()
        exit_channel, worker_end = socket.socketpair()
        with channel, exit_channel, channel.makefile("rb") as reader:
            with theirs, worker_end:
                try:
                    # Longer than the process may run: a last resort in case it hangs.
                    channel.settimeout(2 * self._seconds)
                    self._send_to_worker(descriptor, theirs.fileno(), worker_end.fileno())
                    limits = {"n_bytes": self._n_bytes, "seconds": self._seconds}
                    job = {"form": format_name, "fields": dict(fields), "texts": list(text_fields), **limits}
                    send_header(channel, job)
                except OSError as error:
                    raise Overloaded(
                        f"no process can be started to read the body ({error.strerror or error}); try again in a second"
                    ) from error
            try:
                while (block := receive_block(reader)) is not None:
                    yield block
            except ChannelError as error:
                raise self._make_exit_error(exit_channel, error) from error

    def _make_exit_error(self, exit_channel: socket.socket, error: ChannelError) -> MildError:
        """Return the error for a process that ended before it had sent all rows, by its exit code."""
        try:
            exit_channel.settimeout(_EXIT_CODE_SECONDS)
            code = int(exit_channel.recv(16))
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

    def close(self) -> None:
        """Stop the worker, which also stops when this process ends."""
        with self._lock:
            self._stop_worker()

    def _send_to_worker(self, *descriptors: int) -> None:
        """Send file descriptors to the worker, after starting it if it is not running."""
        with self._lock:
            if self._control is not None:
                try:
                    socket.send_fds(self._control, [b"."], descriptors)
                    return
                except OSError:  # it has ended
                    self._stop_worker()
                    logger.warning("the sandbox's worker ended: starting another")
            self._control = self._start_worker()
            socket.send_fds(self._control, [b"."], descriptors)

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


def read_table(format_name: str, content: IO[bytes], limits: LogLimits, sandbox: Sandbox) -> Generator[Batch]:
    """Yield the records of an Arrow or Parquet log. Rows are numbered from 1.

    Parameters
    ----------
    format_name, content
        As for `Sandbox.read_blocks`.
    limits
        Limits of the log.
    sandbox
        Starts the process that reads the content.
    """
    options = limits.options
    text_fields = (
        *(("sample",) if limits.resolver is not None else ()),
        *(CLASS_FIELDS if options.class_names is not None else ()),
    )
    n_read = 0
    with closing(sandbox.read_blocks(format_name, content, options.fields, text_fields)) as blocks:
        for block in blocks:
            rows = RowNumbers.count_from("row", n_read + 1, block.n_rows)
            if block.n_rows:
                yield make_batch(rows, block.fields, limits)
            n_read += block.n_rows


def write_block(file: IO[bytes], block: bytes) -> None:
    """Write a block of a body to its temporary file."""
    with _catch_disk_errors():
        file.write(block)
        file.flush()


@contextmanager
def _catch_disk_errors() -> Iterator[None]:
    """Context manager that raises `Overloaded` if a temporary file cannot be written."""
    try:
        yield
    except OSError as error:
        raise Overloaded(
            f"the body could not be written to the service's temporary folder ({error.strerror or error}); try again "
            "later, send it as application/x-ndjson or text/csv, or have TMPDIR name a folder with more space"
        ) from error
