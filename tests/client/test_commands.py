import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mild_client.commands import format_command


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this installation's scripts, below the working folder and not on PATH."""
    folder = tmp_path / ".venv" / "bin"
    put_script(folder)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    return folder


def put_script(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "mild").write_text("#!/bin/sh\n")
    (folder / "mild").chmod(0o755)


def test_a_command_that_path_leads_to_has_its_bare_name(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(scripts))
    assert format_command("mild", "sync", Path("runs")) == "mild sync runs"


def test_a_command_of_an_environment_that_is_not_activated_has_its_path(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert format_command("mild", "sync") == ".venv/bin/mild sync"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert format_command("mild", "sync") == f"{scripts / 'mild'} sync"
    monkeypatch.chdir(scripts)  # where the bare name would not be looked for
    assert format_command("mild", "sync") == f"{scripts / 'mild'} sync"


def test_the_command_of_another_installation_is_not_this_one(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_script(tmp_path / "other")
    monkeypatch.setenv("PATH", str(tmp_path / "other"))
    assert format_command("mild", "sync") == ".venv/bin/mild sync"


def test_a_script_elsewhere_on_path_is_taken_where_the_installation_has_none(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_script(tmp_path / "local")
    (scripts / "mild").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "local"))
    assert format_command("mild", "sync") == "mild sync"


@pytest.mark.parametrize("name", ["mild", "mild-service"])
def test_an_installation_without_scripts_runs_the_module(scripts: Path, name: str) -> None:
    (scripts / "mild").unlink()
    line = format_command(name, "--help")
    assert line.startswith(f"{sys.executable} -m ")
    assert subprocess.run(shlex.split(line), capture_output=True, check=False).returncode == 0


def test_what_a_shell_would_take_apart_is_quoted(scripts: Path) -> None:
    assert format_command("mild", "sync", Path("my runs")) == ".venv/bin/mild sync 'my runs'"
