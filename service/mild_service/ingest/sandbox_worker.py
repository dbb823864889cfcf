"""``python -m mild_service.ingest.sandbox_worker``: the sandbox's worker, which forks a process to read each body.

The worker receives three file descriptors at a time (a body, a channel for its columns, and a channel for the exit code
of the reading process) until the service ends.
"""

import mmap
import os
import resource
import select
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from typing import Any

import pyarrow
import pyarrow.parquet

from mild_core.errors import MildError
from mild_service.config import NICENESS
from mild_service.errors import LimitExceeded
from mild_service.ingest.arrow_tables import read_blocks
from mild_service.ingest.column_ipc import receive_header, send_block, send_error, send_header


def main() -> None:
    """Run the worker: fork a process for every log body until the service ends."""
    with suppress(OSError):  # a filter of system calls may forbid it
        os.nice(NICENESS)
    control = socket.socket(fileno=int(sys.argv[1]))
    _warm_up()
    wakeup, wakeup_sender = socket.socketpair()
    wakeup_sender.setblocking(False)
    signal.set_wakeup_fd(wakeup_sender.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # the wakeup descriptor works only with a handler
    exit_channels: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([control, wakeup], [], [])
        if wakeup in ready:
            wakeup.recv(4096)
            _send_exit_codes(exit_channels)
        if control in ready:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 3)
            if not message:
                signal.set_wakeup_fd(-1)  # processes may end after its socket is closed
                return
            body, channel, exit_channel = descriptors
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for endpoint in (control, wakeup, wakeup_sender, *exit_channels.values()):
                    endpoint.close()
                os.close(exit_channel)
                _read_and_exit(body, channel)
            os.close(body)
            os.close(channel)
            exit_channels[pid] = socket.socket(fileno=exit_channel)


def send_blocks(body: int, channel: socket.socket, job: dict[str, Any]) -> None:
    """Read a body and send its rows, or the error if it cannot be read.

    Parameters
    ----------
    body
        Descriptor of the file with the body.
    channel
        Receives the blocks.
    job
        Header that `Sandbox.read_blocks` has sent: the format, the fields of the columns, those that may hold texts,
        and the limits.
    """
    try:
        for n_rows, columns in read_blocks(_map_body(body), job["form"], job["fields"], job["texts"]):
            send_block(channel, n_rows, columns)
    except MildError as error:
        send_error(channel, error)
    except MemoryError:
        send_error(
            channel,
            LimitExceeded(
                f"reading the body takes more than {job['n_bytes']} bytes of memory, which is the limit; write it in "
                "smaller batches or pages, or have MILD_LOG_READER_BYTES raised"
            ),
        )
    else:
        send_header(channel, {})


def _warm_up() -> None:
    """Initialise pyarrow before forking: otherwise each process spends 0.1 s on it.

    The table is made from buffers, since making it from Python values imports pandas if it is installed, and forking
    then takes three times as long.
    """
    numbers = pyarrow.Array.from_buffers(pyarrow.int64(), 1, [None, pyarrow.py_buffer(bytes(8))])
    table = pyarrow.Table.from_arrays([numbers, numbers.cast(pyarrow.string())], ["epoch", "sample"])
    with tempfile.TemporaryFile() as file:
        pyarrow.parquet.write_table(table, file)
        file.flush()
        list(read_blocks(_map_body(file.fileno()), "parquet", {"epoch": "epoch", "sample": "sample"}, ("sample",)))


def _map_body(body: int) -> Any:
    """Map the file of a body into memory, so that no memory is allocated for lengths that a header claims falsely."""
    if os.fstat(body).st_size == 0:
        return pyarrow.BufferReader(b"")
    return pyarrow.BufferReader(pyarrow.py_buffer(mmap.mmap(body, 0, access=mmap.ACCESS_READ)))


def _read_and_exit(body: int, number: int) -> None:
    """Send the rows of one body over the channel with descriptor `number`, and exit this process."""
    code = 1
    try:
        channel = socket.socket(fileno=number)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)  # a sender could fill the log with messages of a failing library
        job = receive_header(channel.makefile("rb"))
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])  # its signal ends the process
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (job["n_bytes"], job["n_bytes"]))
        send_blocks(body, channel, job)
        code = 0
    finally:
        os._exit(code)


def _send_exit_codes(exit_channels: dict[int, socket.socket]) -> None:
    """Send the exit code of each process that has ended."""
    while exit_channels:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with exit_channels.pop(pid) as exit_channel, suppress(OSError):  # the service may have closed it
            exit_channel.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main()
