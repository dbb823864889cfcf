"""The client against a service that asks for keys."""

from collections.abc import Callable, Iterator

import pytest

from mild_client import MildClient, RunSpec
from mild_client.errors import NotAllowed, NotFound
from mild_service.api_keys import Scope
from mild_service.app import create_app
from mild_service.config import Settings
from tests.live import serving
from tests.service.keyring import make

Connect = Callable[[str | None], MildClient]


@pytest.fixture
def connect(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    monkeypatch.delenv("MILD_API_KEY", raising=False)
    opened: list[MildClient] = []
    with serving(create_app(settings.model_copy(update={"auth": "required"}))) as url:

        def connected(key: str | None) -> MildClient:
            opened.append(MildClient(url, api_key=key))
            return opened[-1]

        yield connected
        for client in opened:
            client.close()


def test_it_gets_in_with_a_key_only(connect: Connect, settings: Settings) -> None:
    with pytest.raises(NotAllowed) as refused:
        connect(None).get_run("a")
    assert (refused.value.code, refused.value.status) == ("unauthenticated", 401)
    assert "MILD_API_KEY" in str(refused.value)
    with pytest.raises(NotAllowed):
        connect("mild_wrong").open_run(RunSpec("a", num_samples=8))
    key, _ = make(settings, "write")
    assert connect(key).open_run(RunSpec("a", num_samples=8))["num_samples"] == 8


@pytest.mark.parametrize("scope", ["read", "write"])
def test_it_is_told_what_its_key_does_not_allow(connect: Connect, settings: Settings, scope: Scope) -> None:
    key, _ = make(settings, scope, prefix="a-")
    client = connect(key)
    with pytest.raises(NotAllowed) as refused:
        client.open_run(RunSpec("b-1", num_samples=8))
    assert (refused.value.code, refused.value.status) == ("forbidden", 403)
    with pytest.raises(NotFound):
        client.get_run("b-1")
    assert list(client.list_runs()["runs"]) == []
