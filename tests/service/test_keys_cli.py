import re
from pathlib import Path

import anyio
import pytest
from typer.testing import CliRunner, Result

from mild_service import cli
from mild_service.api_keys import ApiKey
from mild_service.auth import Authenticator
from mild_service.config import Settings
from mild_service.store import Store
from mild_service.store.embedded import EmbeddedServer


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["keys", *arguments])


def known(url: str, namespace: str, secret: str) -> ApiKey | None:
    async def asked() -> ApiKey | None:
        settings = Settings(store_url=url, store_namespace=namespace)
        store = Store(settings, url)
        try:
            return await Authenticator(store, settings).find_by_secret(secret)
        finally:
            await store.aclose()

    return anyio.run(asked)


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    assert settings.store_url is not None
    monkeypatch.setenv("MILD_STORE_URL", settings.store_url)
    monkeypatch.setenv("MILD_STORE_NAMESPACE", settings.store_namespace)
    return settings


def test_a_key_is_made_listed_and_revoked(environment: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    url = environment.store_url or ""
    assert run("list").stdout == ""
    made = run("create", "ci", "--scope", "read", "--prefix", "ci-", "--days", "1")
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    assert re.fullmatch(r"mild_\S{43}", secret)
    key = known(url, environment.store_namespace, secret)
    assert key is not None
    assert (key.name, key.scope, key.prefix) == ("ci", "read", "ci-")
    listed = run("list").stdout
    assert re.search(rf"{key.key_id}  live .*ci, read, runs ci-\*, until 20", listed)
    assert "last used" in listed
    assert run("revoke", key.key_id).exit_code == 0
    assert known(url, environment.store_namespace, secret) is None
    again = run("list").stdout
    assert f"{key.key_id}  revoked" in again
    told = [vars(record) for record in caplog.records if record.name == "mild_service.audit"]
    assert [(line["event"], line["key"]) for line in told] == [("key-created", key.key_id), ("key-revoked", key.key_id)]
    assert secret not in made.stderr + listed + again + caplog.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "a b"], "the name of a key"),
        (["create", "ci", "--prefix", "*"], "the prefix of a key"),
        (["revoke", "none"], "mild-service keys list"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(environment: Settings, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert says in result.output


def test_a_store_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILD_STORE_URL", raising=False)
    result = run("list")
    assert result.exit_code == 2
    assert "--embedded" in result.output


def test_the_embedded_store_is_reached_whether_its_service_runs_or_not(tmp_path: Path) -> None:
    folder = ("--data-dir", str(tmp_path / "data"))
    first = run("create", "first", *folder).stdout.strip()
    with EmbeddedServer(tmp_path / "data") as server:
        second = run("create", "second", *folder).stdout.strip()
        assert known(server.url, "mild", first)
        assert known(server.url, "mild", second)
    assert [line.split("  ")[1].strip() for line in run("list", *folder).stdout.splitlines()] == ["live", "live"]


def test_a_folder_whose_service_does_not_say_where_its_store_is_can_be_tried_again(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path):
        (tmp_path / "store.url").unlink()
        result = run("list", "--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "try again" in result.output
