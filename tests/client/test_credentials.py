from pathlib import Path

import httpx
import pytest

from mild_client import MildClient
from mild_core.errors import ParameterError
from mild_trainer.job import Job
from mild_trainer.settings import TrainSettings

SECRET = "mild_0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILD_API_KEY", raising=False)


@pytest.fixture
def sent() -> list[httpx.Request]:
    return []


@pytest.fixture
def transport(sent: list[httpx.Request]) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"records": 0, "epochs": []})

    return httpx.MockTransport(answer)


def client(transport: httpx.MockTransport, api_key: str | None = None) -> MildClient:
    return MildClient("http://service", http=httpx.Client(transport=transport), api_key=api_key)


def test_a_key_that_is_given_is_sent_with_every_request(
    transport: httpx.MockTransport, sent: list[httpx.Request], tmp_path: Path
) -> None:
    client(transport, SECRET).get_run("a")
    client(transport, SECRET).finish("a", 0, attempt=3)
    log = tmp_path / "log.csv"
    log.write_text("epoch,sample,correct\n")
    client(transport, f"{SECRET}\n").push("a", log)
    assert [request.headers["authorization"] for request in sent] == [f"Bearer {SECRET}"] * 4
    assert [request.url.path for request in sent[2:]] == ["/version", "/runs/a/predictions"]
    assert (sent[1].headers["mild-attempt"], sent[3].headers["content-type"]) == ("3", "text/csv")


def test_a_key_comes_from_the_environment_where_none_is_given(
    transport: httpx.MockTransport, sent: list[httpx.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    client(transport).get_run("a")
    monkeypatch.setenv("MILD_API_KEY", SECRET)
    client(transport).get_run("a")
    client(transport, "another").get_run("a")
    assert [request.headers.get("authorization") for request in sent] == [None, f"Bearer {SECRET}", "Bearer another"]


@pytest.mark.parametrize("key", [f"{SECRET} {SECRET}", f"{SECRET}\r\nX-Other: 1", f"{SECRET}é"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(transport: httpx.MockTransport, key: str) -> None:
    with pytest.raises(ParameterError, match="printable ASCII") as refused:
        client(transport, key)
    assert SECRET not in str(refused.value)


def test_a_key_is_in_no_repr(transport: httpx.MockTransport) -> None:
    job = Job(TrainSettings(), Path("out"), "http://service", False, "a", False, SECRET)
    assert SECRET not in repr(job)
    assert SECRET not in repr(client(transport, SECRET))
