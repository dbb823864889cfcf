import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest

from mild_trainer.embedded import EmbeddedService, supervise
from mild_trainer.errors import ServiceStartError
from tests.waiting import PATIENCE, wait_until

SPEAKER = "import sys, time; print('listening on http://127.0.0.1:1', flush=True); time.sleep(600)"


def test_a_command_that_ends_is_reported_with_its_last_line(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('error: no such store; give --data-dir')"]
    said = r"ended before.*: no such store;.*service.log.*--out.*--local"
    with EmbeddedService(tmp_path, command=failing) as service, pytest.raises(ServiceStartError, match=said):
        _ = service.url


def test_a_silent_command_is_given_up_on(tmp_path: Path) -> None:
    silent = [sys.executable, "-c", "import time; time.sleep(600)"]
    said = r"did not say within 0.5 s .*: it wrote nothing"
    with EmbeddedService(tmp_path, 0.5, silent) as service, pytest.raises(ServiceStartError, match=said):
        _ = service.url


def test_a_folder_in_use_is_named(tmp_path: Path) -> None:
    said = "did not say within 0.1 s where it listens: .* is in use by another training; see .* choose another --out"
    with EmbeddedService(tmp_path, command=[sys.executable, "-c", SPEAKER]) as first:
        assert first.url
        with EmbeddedService(tmp_path, timeout=0.1, stop_timeout=0.1) as second:
            wait_until(lambda: "is in use" in (tmp_path / "service.log").read_text())
            with pytest.raises(ServiceStartError, match=said):
                _ = second.url


def test_it_comes_up_while_something_else_is_done(tmp_path: Path) -> None:
    asked = f"open({str(tmp_path / 'pipe')!r}).read(); {SPEAKER}"
    os.mkfifo(tmp_path / "pipe")
    with EmbeddedService(tmp_path, command=[sys.executable, "-c", asked]) as service:
        (tmp_path / "pipe").write_text("now")  # were the block entered only once it listens, nobody would get here
        assert service.url == "http://127.0.0.1:1"
        assert service.url == "http://127.0.0.1:1"


def test_stopping_twice_is_stopping_once(tmp_path: Path) -> None:
    with EmbeddedService(tmp_path, command=[sys.executable, "-c", SPEAKER]) as service:
        service.stop()
        service.stop()


def test_a_service_that_does_not_end_is_killed(tmp_path: Path) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SPEAKER}"
    with EmbeddedService(tmp_path, command=[sys.executable, "-c", stubborn], stop_timeout=0.5) as service:
        assert service.url == "http://127.0.0.1:1"


def test_a_real_service_ends_with_its_trainer_and_with_one_that_is_killed(tmp_path: Path) -> None:
    trainer = (
        "import sys, time; from pathlib import Path; from mild_trainer.embedded import EmbeddedService\n"
        f"with EmbeddedService(Path({str(tmp_path)!r})) as service:\n"
        "    print(service.url, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", trainer], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/ready", timeout=PATIENCE).status_code == 200
        process.send_signal(signal.SIGKILL)
    with EmbeddedService(tmp_path) as successor:  # waits for the one before to let go of the folder
        assert httpx.get(f"{successor.url}/ready", timeout=PATIENCE).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{successor.url}/ready", timeout=PATIENCE)


@pytest.fixture
def lifeline(monkeypatch: pytest.MonkeyPatch) -> Iterator[IO[bytes]]:
    """The other end of this process's standard input."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as standard_input, os.fdopen(writing, "wb") as other_end:
        monkeypatch.setattr("sys.stdin", standard_input)
        yield other_end


def test_a_keeper_returns_what_its_command_returned(tmp_path: Path, lifeline: IO[bytes]) -> None:
    assert supervise(tmp_path / "lock", [sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_a_keeper_ends_its_command_when_its_input_ends(tmp_path: Path, lifeline: IO[bytes]) -> None:
    lifeline.write(b"whatever")
    lifeline.close()
    assert supervise(tmp_path / "lock", [sys.executable, "-c", "import time; time.sleep(600)"]) == -signal.SIGTERM
