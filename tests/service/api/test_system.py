import gzip
import logging
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
from fastapi import FastAPI
from redis import Redis

from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.store.embedded import EmbeddedServer
from mild_service.web import problems
from tests.inprocess import running
from tests.service.recordings import OCTETS, put_epochs, recording

ROOT = Path(__file__).parents[3]


def test_health_readiness_and_versions(service: httpx.Client) -> None:
    assert service.get("/health").json() == {"status": "ok"}
    assert service.get("/ready").json() == {"status": "ready"}
    assert set(service.get("/version").json()) == {"service", "core", "api", "oldest_client", "limits"}


def test_the_limits_are_published_as_they_are_set(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_log_bytes": 5000}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        limits = service.get("/version").json()["limits"]
    assert (limits["max_log_bytes"], limits["max_body_bytes"]) == (5000, settings.max_body_bytes)
    assert limits.keys() == {name for name in Settings.model_fields if name.startswith("max_")}


def test_the_documentation_needs_no_other_host(service: httpx.Client) -> None:
    page = service.get("/docs").text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert assets
    assert not any(asset.startswith("http") for asset in assets)
    assert all(service.get(asset).status_code == 200 for asset in assets)


def test_the_documentation_can_be_left_out(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"docs": False}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        assert service.get("/docs").status_code == 404


def test_requests_are_counted_by_route_and_never_by_run(service: httpx.Client) -> None:
    service.put("/runs/secret-name", json={"num_samples": 8})
    service.get("/nowhere")
    service.request("BREW", "/runs")
    text = service.get("/metrics").text
    assert 'mild_http_requests_total{method="PUT",route="/runs/{run_id}",status="201"} 1.0' in text
    assert 'method="other"' in text
    assert 'mild_problems_total{code="not-found"} 1.0' in text
    assert "secret-name" not in text


def test_a_request_keeps_the_id_that_it_brings(service: httpx.Client) -> None:
    assert service.get("/health", headers={"X-Request-ID": "job-7.a"}).headers["x-request-id"] == "job-7.a"
    assert re.fullmatch(r"[0-9a-f]{16}", service.get("/health").headers["x-request-id"])
    replaced = service.get("/health", headers={"X-Request-ID": "no spaces, please"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", replaced)


def test_every_problem_can_be_looked_up_and_is_documented(service: httpx.Client) -> None:
    listed = service.get("/problems").json()
    assert {"epoch-conflict", "stale-attempt", "store-unavailable", "internal-error", "not-found"} <= set(listed)
    assert "conflict" not in listed
    for code, problem in listed.items():
        assert service.get(problem["type"]).json() == problem
        assert problem["title"]
        assert problem["description"]
        row = f"| `{code}` | {problem['status']} | {'yes' if problem['retryable'] else 'no'} |"
        assert row in (ROOT / "docs" / "api.md").read_text()


def test_every_route_and_setting_is_documented(service: httpx.Client) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for path, methods in service.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in text
    for name in Settings.model_fields:
        assert f"`MILD_{name.upper()}`" in text


@pytest.fixture
def small(settings: Settings) -> Iterator[httpx.Client]:
    app = create_app(settings.model_copy(update={"max_body_bytes": 1024, "max_json_bytes": 1024}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        yield client


@pytest.mark.parametrize("told", [True, False])
def test_a_body_past_the_limit_is_not_read(small: httpx.Client, told: bool) -> None:
    content = b" " * 2000
    headers = {"Content-Type": "application/json", **({} if told else {"Transfer-Encoding": "chunked"})}
    answer = small.put("/runs/a", content=content if told else iter([content]), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body-too-large")
    assert "1024" in answer.json()["detail"]


def test_a_json_body_is_bounded_when_inflated(small: httpx.Client) -> None:
    small.put("/runs/a", json={"num_samples": 100})
    bomb = gzip.compress(b'{"indices": [' + b"1," * 10_000 + b"1]}")
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = small.put("/runs/a/rounds/0/members", content=bomb, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/body-too-large")


def test_what_nobody_foresaw_is_a_problem_too_and_logged(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise RuntimeError("secret detail")

    app.add_api_route("/fail", fail)
    caplog.set_level(logging.ERROR)
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        answer = service.get("/fail")
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
    assert "secret" not in answer.text
    assert answer.json()["request_id"] in caplog.text


def test_a_client_that_leaves_in_the_middle_is_no_failure(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    async def put() -> list[int]:
        statuses: list[int] = []
        messages: Iterator[dict[str, object]] = iter(
            [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]
        )

        async def receive() -> dict[str, object]:
            return next(messages)

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(int(str(message["status"])))

        scope = {"type": "http", "method": "PUT", "path": "/runs/a/rounds/0/epochs/0", "query_string": b"",
                 "headers": [], "http_version": "1.1", "app": app}  # fmt: skip
        await app(scope, receive, send)  # type: ignore[arg-type]  # plain ASGI callables
        return statuses

    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        service.put("/runs/a", json={"num_samples": 100})
        assert transport.portal.call(put) == [400]
    assert "failed" not in caplog.text


def test_a_store_that_is_down_is_a_503_that_says_when_to_try_again(settings: Settings, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    app = create_app(settings.model_copy(update={"store_url": server.url, "sweep_seconds": 0.05}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        service.put("/runs/a", json={"num_samples": 100})
        server.stop()
        for answer in (service.get("/ready"), service.get("/runs/a"), service.get("/runs")):
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/store-unavailable")
            assert (answer.json()["retryable"], answer.headers["retry-after"]) == (True, "1")
        assert service.get("/health").status_code == 200
        transport.portal.call(anyio.sleep, 0.3)  # the sweeper lives through it


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), "as it is a read-only replica; name its primary"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), "as too few replicas follow it"),
    ],
)
def test_a_store_that_takes_no_writes_is_not_ready_and_still_read(
    command: tuple[str, ...], message: str, settings: Settings, tmp_path: Path
) -> None:
    with EmbeddedServer(tmp_path) as server, Redis.from_url(server.url) as redis:
        app = create_app(settings.model_copy(update={"store_url": server.url}))
        with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
            service.put("/runs/a", json={"num_samples": 100})
            put_epochs(service, "a", recording(100, 10))
            assert service.get("/ready").status_code == 200
            redis.execute_command(*command)
            for answer in (service.get("/ready"), service.put("/runs/b", json={"num_samples": 100})):
                assert answer.status_code == 503
                assert message in answer.json()["detail"]
            for path in ("/runs", "/runs/a", "/selection/a", "/runs/a/scores", "/ui/runs/a", "/runs/a/rounds/0/fit"):
                assert service.get(path).status_code == 200, path


def test_a_full_store_is_ready_as_it_still_deletes(settings: Settings, tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, Redis.from_url(server.url) as redis:
        app = create_app(settings.model_copy(update={"store_url": server.url}))
        with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
            service.put("/runs/a", json={"num_samples": 100})
            redis.config_set("maxmemory", "1")
            assert service.get("/ready").status_code == 200
            assert service.delete("/runs/a").status_code == 204


def test_a_run_goes_on_after_the_store_was_killed(settings: Settings, tmp_path: Path) -> None:
    bodies = recording(100, 10)
    with EmbeddedServer(tmp_path) as server:
        app = create_app(settings.model_copy(update={"store_url": server.url}))
        with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
            service.put("/runs/a", json={"num_samples": 100})
            put_epochs(service, "a", bodies[:5])
            os.kill(server.pid, signal.SIGKILL)
            for number, body in enumerate(bodies[5:], start=5):
                answer = service.put(f"/runs/a/rounds/0/epochs/{number}", content=body, headers=OCTETS)
                while answer.status_code == 503:  # as a client would
                    answer = service.put(f"/runs/a/rounds/0/epochs/{number}", content=body, headers=OCTETS)
                assert answer.status_code == 201
            assert service.get("/runs/a").json()["rounds"][0]["epochs"] == list(range(10))
            assert service.post("/runs/a/rounds/0/finish").json()["epochs"] == 10


def test_every_error_has_a_status() -> None:
    for problem in problems.describe_problems().values():
        assert 400 <= problem["status"] < 600


def test_a_method_that_is_not_taken_is_told_all_that_are(service: httpx.Client) -> None:
    answer = service.post("/runs/a")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, PATCH, PUT")
    assert "DELETE, GET, HEAD, PATCH, PUT" in answer.json()["detail"]
    assert service.put("/docs").headers["allow"] == "GET"
