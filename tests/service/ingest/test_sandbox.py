import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from mild_core.errors import MildError
from mild_core.log_columns import FIELDS
from mild_service.errors import DeadlineExceeded, MalformedBody, Overloaded
from mild_service.ingest import read_batches
from mild_service.ingest.columns import LogLimits
from mild_service.ingest.sandbox import Sandbox
from tests.service.ingest.logs import ARROW, PARQUET, aborting
from tests.waiting import wait_until

COLUMNS = {name: name for name in FIELDS}

N_ROWS = 300_000
"""More than fit into what lies between two processes."""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with closing(Sandbox(2**27, 60)) as sandbox:
        yield sandbox


@contextmanager
def spooled(body: bytes) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        yield file


def long_body() -> bytes:
    out, zeros = io.BytesIO(), np.zeros(N_ROWS, dtype=np.int64)
    parquet.write_table(pyarrow.table({"epoch": zeros, "sample": zeros, "correct": zeros}), out)
    return out.getvalue()


def n_rows(sandbox: Sandbox, body: bytes) -> int:
    with spooled(body) as file:
        return sum(block.n_rows for block in sandbox.read_blocks("parquet", file, COLUMNS))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_file_that_crashes_pyarrow_is_malformed(sandbox: Sandbox) -> None:
    with pytest.raises(MalformedBody, match=r"not a valid Parquet file|crashed the process"):
        n_rows(sandbox, aborting())
    assert n_rows(sandbox, long_body()) == N_ROWS


@pytest.mark.parametrize(
    ("signum", "error"),
    [
        (signal.SIGABRT, MalformedBody),
        (signal.SIGSEGV, MalformedBody),
        (signal.SIGKILL, Overloaded),
        (signal.SIGALRM, DeadlineExceeded),
    ],
)
def test_a_process_that_ends_in_the_middle_of_a_body_is_noticed(
    sandbox: Sandbox, signum: signal.Signals, error: type[MildError]
) -> None:
    with spooled(long_body()) as file, closing(sandbox.read_blocks("parquet", file, COLUMNS)) as blocks:
        next(blocks)
        (reader,) = children(sandbox.pid)
        os.kill(reader, signum)
        with pytest.raises(error, match="; "):
            list(blocks)
    assert n_rows(sandbox, long_body()) == N_ROWS


def test_a_body_that_takes_too_long_is_given_up() -> None:
    with (
        closing(Sandbox(2**27, seconds=1)) as sandbox,
        spooled(long_body()) as file,
        closing(sandbox.read_blocks("parquet", file, COLUMNS)) as blocks,
    ):
        next(blocks)
        wait_until(lambda: not children(sandbox.pid))  # as nobody takes what it has to say
        with pytest.raises(DeadlineExceeded, match=r"for 1 s.*MILD_REQUEST_SECONDS"):
            list(blocks)


def test_a_worker_that_has_ended_is_started_again(sandbox: Sandbox) -> None:
    assert n_rows(sandbox, long_body()) == N_ROWS
    first = sandbox.pid
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert n_rows(sandbox, long_body()) == N_ROWS
    assert sandbox.pid != first


def test_a_body_whose_worker_ends_is_to_be_sent_again(sandbox: Sandbox) -> None:
    with spooled(long_body()) as file, closing(sandbox.read_blocks("parquet", file, COLUMNS)) as blocks:
        next(blocks)
        (reader,) = children(sandbox.pid)
        os.kill(sandbox.pid, signal.SIGKILL)
        os.kill(reader, signal.SIGKILL)
        with pytest.raises(Overloaded, match="send the same again"):
            list(blocks)


def test_the_worker_has_no_threads_and_receives_no_interrupt(sandbox: Sandbox) -> None:
    assert n_rows(sandbox, long_body()) == N_ROWS
    assert len(list(Path(f"/proc/{sandbox.pid}/task").iterdir())) == 1
    assert os.getsid(sandbox.pid) == sandbox.pid  # ctrl-C goes to the terminal's session


def test_a_helper_ends_with_its_service_however_that_ends(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(long_body())
    script = (
        "import sys; from mild_service.ingest.sandbox import Sandbox\n"
        "sandbox = Sandbox(2**27, 60)\n"  # once nobody holds it any more, it ends
        f"blocks = sandbox.read_blocks('parquet', open({str(tmp_path / 'log')!r}, 'rb'), {{'epoch': 'epoch'}})\n"
        "next(blocks); print('read', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"read\n"
        (sandbox,) = children(service.pid)
        (reader,) = children(sandbox)
        service.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in (sandbox, reader)))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_closing_a_read_does_not_wait(sandbox: Sandbox) -> None:
    with spooled(long_body()) as file:
        blocks = sandbox.read_blocks("parquet", file, COLUMNS)
        next(blocks)
        os.kill(children(sandbox.pid)[0], signal.SIGSTOP)
        blocks.close()
        os.kill(children(sandbox.pid)[0], signal.SIGCONT)
        wait_until(lambda: not children(sandbox.pid))


LIMITS = LogLimits(10, 1, 10, 100, 100, 1000)


@pytest.mark.parametrize("media_type", [ARROW, PARQUET])
def test_without_a_folder_for_it_a_body_is_to_be_sent_later(
    media_type: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with tempfile.SpooledTemporaryFile(2**20) as file:
        file.write(b"of no format")
        with pytest.raises(Overloaded, match=r"temporary folder .*TMPDIR"):
            list(read_batches(media_type, file, LIMITS, sandbox))


def test_a_body_that_finds_no_room_is_to_be_sent_later(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w+b", buffering=0)  # noqa: SIM115  # closed by the spooled file
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with tempfile.SpooledTemporaryFile(2**20) as file:
        file.write(bytes(2**20))
        with pytest.raises(Overloaded, match="No space left on device"):
            list(read_batches(PARQUET, file, LIMITS, sandbox))


def test_a_worker_that_cannot_be_started_is_reported(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(Overloaded, match="no process can be started"):
        n_rows(sandbox, long_body())
