"""What keys mean for requests: reach, rates, numbers of runs, other sites' pages, and what is written down."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.errors import ConfigurationError
from tests.inprocess import InProcess, running
from tests.service.keyring import Keyring, bearer

Started = Callable[..., tuple[httpx.Client, Keyring]]


@pytest.fixture
def start(settings: Settings) -> Iterator[Started]:
    """Starts a service that asks for keys, with other settings where they are given."""
    opened: list[Any] = []

    def started(**changes: Any) -> tuple[httpx.Client, Keyring]:
        app: FastAPI = create_app(settings.model_copy(update={"auth": "required", "key_cache_seconds": 0, **changes}))
        context = running(app)
        transport: InProcess = context.__enter__()
        opened.append(context)
        return httpx.Client(transport=transport, base_url="http://service"), Keyring(app.state.store, transport)

    yield started
    for context in opened:
        context.__exit__(None, None, None)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "},
     {"Authorization": "Basic eDp5"}, bearer("mild_wrong"), bearer("\xff"), {"X-API-Key": "mild_wrong"},
     {"Cookie": "mild_session=wrong"}],
)  # fmt: skip
def test_who_shows_no_key_is_told_how_and_no_more(start: Started, headers: dict[str, str]) -> None:
    service, _ = start()
    answer = service.get("/runs/a", headers={k: v.encode("latin-1") for k, v in headers.items()})  # type: ignore[arg-type]
    assert refusal(answer) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="mild-service"'
    assert answer.headers["cache-control"] == "no-store"


def test_unknown_revoked_and_expired_keys_get_the_same_answer(start: Started) -> None:
    service, keys = start()
    secrets = ("mild_unknown", keys.make(revoked=True), keys.make(lives=-1))
    told = [service.get("/runs", headers=bearer(secret)).json() for secret in secrets]
    assert len({problem["detail"] for problem in told}) == 1


def test_a_body_is_not_read_of_whoever_does_not_get_in(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"auth": "required"}))

    async def put() -> list[int]:
        statuses: list[int] = []

        async def receive() -> dict[str, object]:
            raise AssertionError("the body was read")

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(int(str(message["status"])))

        scope = {"type": "http", "method": "PUT", "path": "/runs/a", "query_string": b"", "http_version": "1.1",
                 "headers": [(b"content-type", b"application/json")], "app": app}  # fmt: skip
        await app(scope, receive, send)  # type: ignore[arg-type]  # raw on purpose
        return statuses

    with running(app) as transport:
        assert transport.portal.call(put) == [401]


def test_a_run_outside_of_the_prefix_cannot_be_told_from_one_that_is_not_there(start: Started) -> None:
    service, keys = start()
    mine, theirs = bearer(keys.make("admin", prefix="a-")), bearer(keys.make("admin"))
    for run_id in ("a-1", "b-1"):
        assert service.put(f"/runs/{run_id}", json={"num_samples": 8}, headers=theirs).status_code == 201
    for method, path in (("GET", "/runs/{}"), ("DELETE", "/runs/{}"), ("GET", "/selection/{}")):
        there, absent = (service.request(method, path.format(run_id), headers=mine) for run_id in ("b-1", "b-2"))
        assert refusal(there) == refusal(absent) == (404, "run-not-found")
        assert there.json()["detail"].replace("b-1", "b-2") == absent.json()["detail"]
    for run_id in ("b-1", "b-2"):
        answer = service.put(f"/runs/{run_id}", json={"num_samples": 8}, headers=mine)
        assert refusal(answer) == (403, "forbidden")
        assert "'a-'" in answer.json()["detail"]
    assert service.get("/runs/b-1", headers=theirs).status_code == 200
    within = service.get("/runs/a-2", headers=mine)
    assert within.json()["detail"].replace("a-2", "b-2") == absent.json()["detail"].replace("/selection", "/runs")


def test_a_list_shows_the_keys_own_runs_page_by_page(start: Started) -> None:
    service, keys = start()
    everything, own = bearer(keys.make()), bearer(keys.make("read", prefix="a-"))
    for number in range(4):
        for start_ in ("a-", "b-", "a"):
            service.put(f"/runs/{start_}{number}", json={"num_samples": 8}, headers=everything).raise_for_status()
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while query.get("cursor", "first"):
        page = service.get("/runs", params=query, headers=own).json()
        seen += [run["run_id"] for run in page["runs"]]
        query["cursor"] = page["next_cursor"]
        assert "b-" not in str(query["cursor"])
    assert sorted(seen) == [f"a-{number}" for number in range(4)]
    assert len(service.get("/runs", headers=everything).json()["runs"]) == 12


def test_a_key_that_is_revoked_gets_in_no_more(start: Started) -> None:
    service, keys = start()
    secret = keys.make()
    assert service.get("/runs", headers=bearer(secret)).status_code == 200
    keys.revoke(secret)
    assert service.get("/runs", headers=bearer(secret)).status_code == 401


def test_a_key_waits_once_its_requests_are_used_up(start: Started) -> None:
    service, keys = start(rate_per_key=0.5, rate_burst=3)
    one, other = bearer(keys.make("read")), bearer(keys.make("read"))
    assert [service.get("/runs", headers=one).status_code for _ in range(3)] == [200, 200, 200]
    answer = service.get("/runs", headers=one)
    assert refusal(answer) == (429, "rate-limited")
    assert answer.json()["retryable"] is True
    assert answer.headers["retry-after"] in ("1", "2")
    assert service.get("/runs", headers=other).status_code == 200
    assert service.get("/health", headers=one).status_code == 200


def test_a_key_creates_so_many_runs_and_room_is_made_by_deleting(start: Started) -> None:
    service, keys = start(max_runs_per_key=2)
    one, other = bearer(keys.make()), bearer(keys.make())

    def put(run_id: str, key: dict[str, str]) -> int:
        return service.put(f"/runs/{run_id}", json={"num_samples": 8}, headers=key).status_code

    assert [put("a", one), put("b", one), put("c", other)] == [201, 201, 201]
    refused = service.put("/runs/d", json={"num_samples": 8}, headers=one)
    assert refusal(refused) == (409, "run-limit")
    assert "2 runs" in refused.json()["detail"]
    assert service.get("/runs/d", headers=one).status_code == 404
    assert [put("a", one), put("c", one), put("d", other)] == [200, 200, 201]  # there already, or another's


def test_an_opening_that_is_refused_takes_no_place(start: Started) -> None:
    service, keys = start(max_runs_per_key=1)
    key = bearer(keys.make())
    impossible = {"num_samples": 8, "resume_from": {"round": 1, "epoch": 0}}
    assert refusal(service.put("/runs/a", json=impossible, headers=key)) == (409, "round-not-open")
    assert service.put("/runs/b", json={"num_samples": 8}, headers=key).status_code == 201


def test_what_keys_do_is_written_down_without_their_secrets(start: Started, caplog: pytest.LogCaptureFixture) -> None:
    service, keys = start()
    caplog.set_level(logging.INFO)
    admin, reader = keys.make("admin"), keys.make("read", prefix="a-")
    service.put("/runs/a-1", json={"num_samples": 8}, headers={**bearer(admin), "X-Request-ID": "first"})
    service.get("/runs/b", headers=bearer(reader))
    service.delete("/runs/a-1", headers=bearer(reader))
    service.delete("/runs/a-1", headers=bearer(admin))
    service.get("/runs", headers=bearer("mild_wrong-one"))
    service.get("/health", headers=bearer(admin))
    records = [vars(record) for record in caplog.records if record.name == "mild_service.audit"]
    told = [(r["event"], r.get("key_name"), r["method"], r["route"], r.get("run"), r["status"]) for r in records]
    assert told == [
        ("use", "admin", "PUT", "/runs/{run_id}", "a-1", 201),
        ("refusal", "read", "GET", "/runs/{run_id}", "b", 404),
        ("refusal", "read", "DELETE", "/runs/{run_id}", "a-1", 403),
        ("deletion", "admin", "DELETE", "/runs/{run_id}", "a-1", 204),
        ("refusal", None, "GET", "/runs", None, 401),
    ]
    assert records[0]["request_id"] == "first"
    assert "key_name='admin'" in records[0]["message"]
    for secret in (admin, reader, "wrong-one"):
        assert secret not in caplog.text


def test_deletions_in_an_open_service_are_written_down(service: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mild_service.audit")
    service.put("/runs/a", json={"num_samples": 8})
    service.delete("/runs/a")
    service.delete("/runs/a")
    (told,) = [vars(record) for record in caplog.records if record.name == "mild_service.audit"]
    assert (told["event"], told["run"], told["status"]) == ("deletion", "a", 204)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),  # no browser
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Origin": "http://service"}, 201),
        ({"Origin": "http://service:80"}, 201),
        ({"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}, 201),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none", "Origin": "null"}, 403),
        ({"Origin": "https://service"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://service:x"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_write_to_an_open_service(
    start: Started, headers: dict[str, str], status: int
) -> None:
    service, _ = start(auth="auto", cors_origins="https://friend.example")
    answer = service.put("/runs/a", json={"num_samples": 8}, headers=headers)
    assert answer.status_code == status
    assert status == 201 or refusal(answer) == (403, "cross-site")
    assert service.get("/runs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8000", 201), ("[::1]:8000", 201), ("localhost:8000", 201), ("friend.example", 201),
     ("evil.example:8000", 403), ("localhost.evil.example", 403)],
)  # fmt: skip
def test_an_open_service_takes_no_writes_of_a_page_whose_name_was_pointed_at_it(
    start: Started, host: str, status: int
) -> None:
    service, _ = start(auth="auto", cors_origins="http://friend.example")
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert service.put("/runs/a", json={"num_samples": 8}, headers=headers).status_code == status


def test_named_origins_may_call_with_a_key_and_no_others(start: Started) -> None:
    service, keys = start(cors_origins="https://lab.example, http://localhost:3000")
    asks = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization,mild-attempt"}
    allowed = service.options("/runs/a", headers={"Origin": "https://lab.example", **asks})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://lab.example")
    assert "access-control-allow-credentials" not in allowed.headers
    other = service.options("/runs/a", headers={"Origin": "https://evil.example", **asks})
    assert (other.status_code, other.headers.get("access-control-allow-origin")) == (400, None)
    answer = service.put(
        "/runs/a", json={"num_samples": 8}, headers={"Origin": "https://lab.example", **bearer(keys.make())}
    )
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, "https://lab.example")


def test_no_origin_is_allowed_by_default(service: httpx.Client) -> None:
    headers = {"Origin": "https://lab.example", "Access-Control-Request-Method": "GET"}
    assert "access-control-allow-origin" not in service.get("/runs", headers=headers).headers
    assert service.options("/runs", headers=headers).status_code == 405


@pytest.mark.parametrize("origins", ["*", "https://*.example", "lab.example", "https://lab.example/page"])
def test_origins_are_named_one_by_one(settings: Settings, origins: str) -> None:
    with pytest.raises(ConfigurationError, match="MILD_CORS_ORIGINS"):
        create_app(settings.model_copy(update={"cors_origins": origins}))


def test_rules_hold_behind_a_proxy_that_adds_a_path(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"auth": "required"}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        transport._inner = httpx.ASGITransport(app, root_path="/mild")
        assert service.get("/mild/runs").status_code == 401
        assert service.get("/mild/health").status_code == 200
        key = bearer(Keyring(app.state.store, transport).make("read"))
        assert service.get("/mild/runs", headers=key).status_code == 200
        assert service.delete("/mild/runs/a", headers=key).status_code == 403
        assert service.get("/runs").status_code == 401
        assert "script-src" in service.get("/mild/ui/login").headers["content-security-policy"]
        assert 'action="/mild/ui/login"' in service.get("/mild/ui/login").text
