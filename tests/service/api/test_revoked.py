"""Answers that take their time end, or are refused, once the key that asked for them is revoked."""

import threading
from collections.abc import Iterator

import httpx
import pytest

from mild_service.api_keys import ApiKey
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.store import Store
from tests.live import serving
from tests.service.keyring import bearer, in_store, make
from tests.service.recordings import OCTETS, recording
from tests.waiting import PATIENCE


@pytest.fixture
def closed(settings: Settings) -> Settings:
    changes = {"auth": "required", "key_cache_seconds": 0, "heartbeat_seconds": 0.05}
    return settings.model_copy(update=changes)


@pytest.fixture
def url(closed: Settings) -> Iterator[str]:
    with serving(create_app(closed)) as url:
        yield url


def is_used(settings: Settings, name: str) -> bool:
    found: list[ApiKey] = []

    async def look(store: Store) -> None:
        found.extend(await store.credentials.list_keys())

    in_store(settings, look)
    return any(key.used_at for key in found if key.name == name)


@pytest.fixture
def admin(closed: Settings, url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=bearer(make(closed, "admin")[0]), timeout=PATIENCE) as client:
        client.put("/runs/a", json={"num_samples": 100}).raise_for_status()
        yield client


@pytest.mark.usefixtures("admin")
def test_an_event_stream_ends_with_its_key(closed: Settings, url: str) -> None:
    secret, revoke = make(closed, "read")
    with httpx.stream("GET", f"{url}/runs/a/events", headers=bearer(secret), timeout=PATIENCE) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("retry")
        revoke()
        for _ in lines:
            pass
    assert httpx.get(f"{url}/runs/a/events", headers=bearer(secret), timeout=PATIENCE).status_code == 401


def test_a_long_poll_is_refused_once_its_key_is_revoked(closed: Settings, url: str, admin: httpx.Client) -> None:
    secret, revoke = make(closed, "read")
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.get(f"{url}/selection/a?round=0&wait=60", headers=bearer(secret), timeout=PATIENCE))

    for number, body in enumerate(recording(100, 3)):
        admin.put(f"/runs/a/rounds/0/epochs/{number}", content=body, headers=OCTETS).raise_for_status()
    asking = threading.Thread(target=ask)
    asking.start()
    while not is_used(closed, "read"):  # it got in
        assert asking.is_alive()
    revoke()
    admin.post("/runs/a/rounds/0/finish").raise_for_status()
    asking.join()
    assert answers[0].status_code == 401
