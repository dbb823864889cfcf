import signal
import socket
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from mild_service import __version__, cli


async def no_signals(self: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
    self.should_exit = True  # leave as soon as it is up
    await self._serve(sockets)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, list(arguments))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MILD_STORE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # handlers belong to the test run


def test_the_version_is_printed() -> None:
    assert run("version").output.strip() == __version__


def test_without_a_store_both_remedies_are_named() -> None:
    result = run("serve", "--port", "0")
    assert result.exit_code == 2
    assert "MILD_STORE_URL" in result.output
    assert "--embedded" in result.output


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com"])
def test_the_network_is_not_served_without_being_told_to(host: str) -> None:
    result = run("serve", "--embedded", "--host", host)
    assert result.exit_code == 2
    assert host in result.output
    assert "--allow-anonymous" in result.output


@pytest.mark.parametrize("setting", ["MILD_AUTH=required", f"MILD_API_KEYS={'k' * 20}", "a key in the store"])
def test_the_network_is_served_to_whoever_has_a_key(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    if "=" in setting:
        monkeypatch.setenv(*setting.split("="))
    else:
        assert run("keys", "create", "ci", "--embedded").exit_code == 0
    monkeypatch.setattr(uvicorn.Server, "serve", no_signals)
    result = run("serve", "--embedded", "--port", "0", "--host", "0.0.0.0")
    assert (result.exit_code, "listening on http://0.0.0.0:" in result.output) == (0, True), result.output


def test_the_network_is_not_served_while_it_is_not_known_whether_there_are_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MILD_STORE_URL", f"unix://{tmp_path}/none.sock")
    result = run("serve", "--host", "0.0.0.0", "--port", "0")
    assert result.exit_code == 2
    assert "MILD_AUTH=required" in result.output


@pytest.mark.parametrize("keys", ["short", f"ci:all::{'k' * 20}"])
def test_static_keys_that_are_none_are_not_shown(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("MILD_API_KEYS", keys)
    result = run("serve", "--embedded", "--port", "0")
    assert result.exit_code == 2
    assert "MILD_API_KEYS" in result.output
    assert keys not in result.output


def test_a_port_that_is_taken_is_an_error_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", "--embedded", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "--port" in result.output


def test_a_setting_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILD_MAX_SAMPLES", "many")
    result = run("serve", "--embedded")
    assert result.exit_code == 2
    assert "MILD_MAX_SAMPLES" in result.output
    assert "many" in result.output


def test_a_corrupt_data_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    result = run("serve", "--embedded", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert result.exit_code == 2
    assert "--data-dir" in result.output


@pytest.mark.parametrize(
    ("host", "flags", "address"),
    [
        ("127.0.0.1", [], "http://127.0.0.1:"),
        ("localhost", [], "http://"),
        ("::1", [], "http://[::1]:"),
        ("0.0.0.0", ["--allow-anonymous"], "http://0.0.0.0:"),
    ],
)
def test_it_says_where_it_listens(host: str, flags: list[str], address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn.Server, "serve", no_signals)
    result = run("serve", "--embedded", "--port", "0", "--host", host, *flags)
    assert result.exit_code == 0, result.output
    assert f"listening on {address}" in result.output


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signals_end_the_process_the_usual_way(signum: signal.Signals, code: int) -> None:
    with pytest.raises(SystemExit) as left:
        cli._exit_on_signal(signum, None)
    assert left.value.code == code


def test_the_entry_point_shows_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mild-service", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "serve" in capsys.readouterr().out
