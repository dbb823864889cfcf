"""Proxies and certificates of the environment: a service on this machine is never asked through a proxy."""

import socket
from pathlib import Path
from typing import Any

import anyio
import pytest

from mild_client import AsyncMildClient, MildClient, Retry, ServiceUnreachable
from mild_client.transport import is_loopback
from mild_core.errors import ParameterError
from tests.client.wire import Reply, serving

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("scheme", ["http", "socks5", "ftp"])
def test_a_service_on_this_machine_is_asked_without_a_proxy(
    name: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"{scheme}://127.0.0.1:{free_port()}")
    with serving(Reply(body=b'{"run_id": "a"}')) as server:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            with MildClient(url) as client:
                assert client.get_run("a") == {"run_id": "a"}
        anyio.run(ask, server.url)


async def ask(url: str) -> None:
    async with AsyncMildClient(url) as client:
        assert await client.get_run("a") == {"run_id": "a"}


def test_a_service_elsewhere_is_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Reply(body=b'{"run_id": "a"}')) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with MildClient("http://mild.example") as client:
            assert client.get_run("a") == {"run_id": "a"}
        assert proxy.sent[0].line.startswith(b"GET http://mild.example/runs/a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/no/such.pem"),
        ("SSL_CERT_FILE", __file__),
        ("SSLKEYLOGFILE", "/no/such/folder/keys"),
        ("ALL_PROXY", "socks9://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://[::1"),
    ],
)
@pytest.mark.parametrize("kind", [MildClient, AsyncMildClient])
def test_surroundings_that_cannot_be_used_are_named(
    kind: Any, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ParameterError, match=rf"no HTTP client can be made .*; correct or unset {name}"):
        kind("https://mild.example")


def test_the_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks9://me:secret@127.0.0.1:1")
    with pytest.raises(ParameterError) as caught:
        MildClient("https://mild.example")
    assert "secret" not in str(caught.value)


def test_certificates_of_the_environment_count_on_this_machine_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"https://127.0.0.1:{free_port()}"
    with MildClient(url, retry=Retry(0, 0)) as client, pytest.raises(ServiceUnreachable):
        client.ready()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ParameterError, match=r"correct or unset SSL_CERT_FILE="):
        MildClient(url)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("mild.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("mild", False),
    ],
)
def test_loopback_addresses_are_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize("rest", ["?a=1", "/?a=1", "/#/runs", "?#x"])
def test_an_address_of_a_page_is_refused_with_the_service(rest: str) -> None:
    with pytest.raises(ParameterError, match=r"without what follows the '\?' or '#', such as http://mild\.example"):
        MildClient(f"http://mild.example{rest}")
