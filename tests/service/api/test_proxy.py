"""Behind a proxy that serves the service under a path: what leads on must lead to there."""

import logging
import re
from collections.abc import Iterator

import httpx
import pytest

from mild_service.app import create_app
from mild_service.config import Settings
from tests.inprocess import running
from tests.live import serving
from tests.service.keyring import Keyring, bearer
from tests.waiting import PATIENCE

ROOT = "/tools/mild"


@pytest.fixture
def proxied(settings: Settings) -> Iterator[httpx.Client]:
    app = create_app(settings.model_copy(update={"root_path": ROOT}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        yield client


@pytest.fixture(params=["", ROOT], ids=["stripped", "kept"])
def prefix(request: pytest.FixtureRequest) -> str:
    """What the proxy leaves of the path."""
    assert isinstance(request.param, str)
    return request.param


def test_routes_answer_whether_or_not_the_proxy_strips_its_path(proxied: httpx.Client, prefix: str) -> None:
    assert proxied.put(f"{prefix}/runs/a", json={"num_samples": 8}).status_code == 201
    assert proxied.get(f"{prefix}/runs/a").json()["run_id"] == "a"
    assert proxied.post(f"{prefix}/runs/a").headers["allow"] == "DELETE, GET, HEAD, PATCH, PUT"
    assert 'route="/runs/{run_id}"' in proxied.get(f"{prefix}/metrics").text


def test_the_documentation_leads_to_under_the_path(proxied: httpx.Client, prefix: str) -> None:
    root = proxied.get(f"{prefix}/")
    assert (root.status_code, root.headers["location"]) == (307, f"{ROOT}/ui/")
    page = proxied.get(f"{prefix}/docs")
    leads = re.findall(r"(?:src|href)=\"([^\"]+)\"|url: '([^']+)'", page.text)
    assert leads
    for lead in (one or other for one, other in leads):
        assert lead.startswith(f"{ROOT}/")
        assert proxied.get(lead).status_code == 200
        assert proxied.get(lead.removeprefix(ROOT)).status_code == 200
    assert proxied.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": ROOT}]


def test_the_path_opens_no_way_around_the_keys(settings: Settings, prefix: str) -> None:
    app = create_app(settings.model_copy(update={"root_path": ROOT}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        key = Keyring(app.state.store, transport).make("read")
        assert client.get(f"{prefix}/runs").status_code == 401
        assert client.get(f"{prefix}/runs", headers=bearer(key)).status_code == 200
        assert client.put(f"{prefix}/runs/a", json={"num_samples": 8}, headers=bearer(key)).status_code == 403


def test_a_path_that_is_none_is_refused() -> None:
    for path in ("mild", "/mild/", "/mi ld"):
        with pytest.raises(ValueError, match="root_path"):
            Settings(root_path=path)


@pytest.mark.parametrize(("trusted", "seen"), [("127.0.0.1", "192.0.2.7"), ("192.0.2.1", "127.0.0.1")])
def test_who_asks_is_taken_from_trusted_proxies_alone(
    settings: Settings, trusted: str, seen: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving(create_app(settings), forwarded_allow_ips=trusted) as url:
        httpx.get(
            f"{url}/runs", headers={"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}, timeout=PATIENCE
        )
    (record,) = [record for record in caplog.records if hasattr(record, "route")]
    assert vars(record)["client"] == seen
