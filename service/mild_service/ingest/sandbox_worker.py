"""``python -m mild_service.ingest.sandbox_worker``: the helper, and what it forks to read one body each.

The helper takes three descriptors at a time (a body, a channel for its columns, and where to tell how the reading
process has ended) until the service is gone.
"""

import mmap
import os
import resource
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pyarrow
import pyarrow.parquet

from mild_core.errors import MildError
from mild_service.errors import LimitExceeded, MalformedBody
from mild_service.ingest import arrow_tables
from mild_service.ingest.arrow_tables import block_of
from mild_service.ingest.column_ipc import BATCH_ROWS, Block, receive_head, send_block, send_head, send_refusal
from mild_service.ingest.columns import Rows
from mild_service.ingest.line_splitter import numbered

Tables = Callable[[Any], Iterator[Any]]

FORMS: dict[str, tuple[str, Tables]] = {
    "arrow_stream": ("Arrow IPC stream", arrow_tables.read_arrow_stream),
    "parquet": ("Parquet file", arrow_tables.read_parquet),
}
"""What a format is called, and what reads it."""


def main() -> None:
    """Fork a process for every body until the service is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _warm_up()
    told, ended = socket.socketpair()
    ended.setblocking(False)
    signal.set_wakeup_fd(ended.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is told
    fates: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([control, told], [], [])
        if told in ready:
            told.recv(4096)
            _tell(fates)
        if control in ready:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 3)
            if not message:
                return
            body, channel, fate = descriptors
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (control, told, ended, *fates.values()):
                    end.close()
                os.close(fate)
                _read_alone(body, channel)
            os.close(body)
            os.close(channel)
            fates[pid] = socket.socket(fileno=fate)


def answer(body: int, channel: socket.socket, job: dict[str, Any]) -> None:
    """Send a body's columns, or why it cannot be read; `job` says what `Helper.read` was asked for."""
    try:
        for block in blocks(body, job["form"], job["ids"]):
            send_block(channel, block)
    except MildError as error:
        send_refusal(channel, error)
    except MemoryError:
        send_refusal(
            channel,
            LimitExceeded(
                f"reading the body takes more than {job['n_bytes']} bytes of memory, which is the limit; write it in "
                "smaller batches or pages, or have MILD_LOG_READER_BYTES raised"
            ),
        )
    else:
        send_head(channel, {})


def blocks(body: int, form: str, ids: bool) -> Iterator[Block]:
    """The rows of a body in a file.

    Raises
    ------
    BadRecord, MalformedBody
        If it cannot be used.
    """
    name, tables = FORMS[form]
    n_read = 0
    try:
        for table in tables(_source(body)):
            table.validate()
            for start in range(0, table.num_rows, BATCH_ROWS):
                part = table.slice(start, BATCH_ROWS)
                yield block_of(Rows("row", numbered(n_read + 1, part.num_rows)), part, ids)
                n_read += part.num_rows
    except (MildError, MemoryError):
        raise
    except Exception as error:  # whatever a library raises, the body made it do so
        raise MalformedBody(f"the body is no {name} ({error}), behind row {n_read}; write it again") from error


def _warm_up() -> None:
    """Have pyarrow set up what it sets up when it is first used: else every process does so anew, in 0.1 s.

    The table is made of bytes, as making it of Python's values would import pandas, where there is one: forking what
    that takes would take three times as long.
    """
    numbers = pyarrow.Array.from_buffers(pyarrow.int64(), 1, [None, pyarrow.py_buffer(bytes(8))])
    table = pyarrow.Table.from_arrays([numbers, numbers.cast(pyarrow.string())], ["epoch", "sample"])
    with tempfile.TemporaryFile() as file:
        pyarrow.parquet.write_table(table, file)
        file.flush()
        list(blocks(file.fileno(), "parquet", ids=True))


def _source(body: int) -> Any:
    """The file's bytes where they lie: nothing is allocated for what a header only claims."""
    if os.fstat(body).st_size == 0:
        return pyarrow.BufferReader(b"")
    return pyarrow.BufferReader(pyarrow.py_buffer(mmap.mmap(body, 0, access=mmap.ACCESS_READ)))


def _read_alone(body: int, number: int) -> None:
    """Read one body in this process, and end it."""
    code = 1
    try:
        channel = socket.socket(fileno=number)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)  # a library that gives up says so at length, and a sender could have it
        job = receive_head(channel)
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])  # whose signal ends the process, whatever it is doing
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (job["n_bytes"], job["n_bytes"]))
        answer(body, channel, job)
        code = 0
    finally:
        os._exit(code)


def _tell(fates: dict[int, socket.socket]) -> None:
    """Tell of each process that has ended, how."""
    while fates:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with fates.pop(pid) as fate, suppress(OSError):  # nobody may want to know any more
            fate.send(str(os.waitstatus_to_exitcode(status)).encode())


if __name__ == "__main__":
    main()
