import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from mild_service.errors import ConfigurationError
from mild_service.store import socket_dir
from mild_service.store.embedded import EmbeddedServer
from mild_service.store.socket_dir import SocketDir


@pytest.fixture
def runtime_dirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Folders that are taken for those of what lasts as long as a process: one is missing, one is there."""
    with tempfile.TemporaryDirectory(prefix="run") as folder:  # with a short path
        folders = [Path(folder) / "missing", Path(folder) / "run"]
        folders[1].mkdir()
        monkeypatch.setattr(socket_dir, "_get_runtime_dirs", lambda: iter(folders))
        yield folders


@pytest.fixture
def long_dir(tmp_path: Path) -> Path:
    """Folder with a path that is too long for a socket."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["plain", "a b'c\"d%20e?f#g@h", "é"])
def test_a_socket_is_in_the_data_folder_whatever_its_name(name: str, tmp_path: Path, runtime_dirs: list[Path]) -> None:
    with EmbeddedServer(tmp_path / name) as server, Redis.from_url(server.url) as redis:
        assert redis.ping()
        assert (tmp_path / name / "store.sock").is_socket()
        assert not list(runtime_dirs[1].iterdir())
    assert not (tmp_path / name / "store.sock").exists()


def test_a_data_folder_with_a_long_path_has_its_socket_in_the_runtime_folder(
    long_dir: Path, runtime_dirs: list[Path]
) -> None:
    with EmbeddedServer(long_dir) as server, Redis.from_url(server.url) as redis:
        assert redis.ping()
        (folder,) = runtime_dirs[1].iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(runtime_dirs[1].iterdir())


def test_without_a_folder_for_a_socket_the_error_names_all_and_the_way_on(
    long_dir: Path, runtime_dirs: list[Path]
) -> None:
    shutil.rmtree(runtime_dirs[1])
    with pytest.raises(ConfigurationError, match=r"run \(No such file or directory\); .*TMPDIR") as error:
        EmbeddedServer(long_dir).start()
    assert f"{long_dir} (AF_UNIX path too long)" in str(error.value)
    runtime_dirs[1].mkdir()
    with EmbeddedServer(long_dir):  # the locks are free again
        pass


def test_folders_of_killed_services_are_removed_and_others_stay(
    long_dir: Path, runtime_dirs: list[Path], tmp_path: Path
) -> None:
    code = (
        "import sys, os; from pathlib import Path; from mild_service.store import socket_dir\n"
        "socket_dir._get_runtime_dirs = lambda: iter([Path(sys.argv[2])])\n"
        "socket_dir.SocketDir(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(long_dir), str(runtime_dirs[1])], check=False)
    (stale,) = runtime_dirs[1].iterdir()
    live = SocketDir(long_dir)
    assert not stale.exists()
    (runtime_dirs[1] / "mild-socket-file").write_text("of something else")
    other = SocketDir(tmp_path)
    assert live.path.exists()
    assert other.path == tmp_path
    assert (runtime_dirs[1] / "mild-socket-file").exists()
    live.close()
    assert not live.path.exists()


def test_a_folder_that_was_removed_is_created_again_and_locked(long_dir: Path, runtime_dirs: list[Path]) -> None:
    folder = SocketDir(long_dir)
    folder.restore()
    shutil.rmtree(folder.path)
    folder.restore()
    SocketDir(runtime_dirs[1])  # removes stale folders
    assert folder.path.exists()
    shutil.rmtree(folder.path)
    folder.path.write_text("of another user")
    with pytest.raises(OSError, match="directory"):
        folder.restore()
    folder.close()
