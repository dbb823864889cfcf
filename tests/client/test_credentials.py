import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from mild_client import MildClient
from mild_core.errors import ParameterError
from mild_trainer.job import BackendOptions, Job
from mild_trainer.settings import TrainSettings
from tests.client.wire import Reply, Server, serving

SECRET = "mild_0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILD_API_KEY", raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Reply(body=b'{"records": 0, "epochs": []}'), version=None) as server:
        yield server


class Connect(Protocol):
    def __call__(self, api_key: str | None = None) -> MildClient: ...


@pytest.fixture
def client(server: Server) -> Iterator[Connect]:
    """Makes clients of the server, and closes them at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda api_key=None: stack.enter_context(MildClient(server.url, api_key=api_key))


def test_a_key_that_is_given_is_sent_with_every_request(client: Connect, server: Server, tmp_path: Path) -> None:
    client(SECRET).get_run("a")
    client(SECRET).finish("a", 0, attempt=3)
    log = tmp_path / "log.csv"
    log.write_text("epoch,sample,correct\n")
    client(f"{SECRET}\n").push("a", log)
    assert [request.header("Authorization") for request in server.sent] == [f"Bearer {SECRET}"] * 4
    assert [request.line.split()[1] for request in server.sent[2:]] == [b"/version", b"/runs/a/predictions"]
    assert (server.sent[1].header("Mild-Attempt"), server.sent[3].header("Content-Type")) == ("3", "text/csv")


def test_a_key_comes_from_the_environment_where_none_is_given(
    client: Connect, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client().get_run("a")
    monkeypatch.setenv("MILD_API_KEY", SECRET)
    client().get_run("a")
    client("another").get_run("a")
    assert [request.header("Authorization") for request in server.sent] == [None, f"Bearer {SECRET}", "Bearer another"]


@pytest.mark.parametrize("key", [f"{SECRET} {SECRET}", f"{SECRET}\r\nX-Other: 1", f"{SECRET}é"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(client: Connect, key: str) -> None:
    with pytest.raises(ParameterError, match="printable ASCII") as refused:
        client(key)
    assert SECRET not in str(refused.value)


def test_a_key_is_in_no_repr(client: Connect) -> None:
    job = Job(TrainSettings(), Path("out"), BackendOptions("http://service", api_key=SECRET), "a", False)
    assert SECRET not in repr(job)
    assert SECRET not in repr(client(SECRET))
