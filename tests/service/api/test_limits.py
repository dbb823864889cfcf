"""What the service does not put up with: bodies that are long, slow or deep, and more work than it can do."""

import asyncio
import io
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from mild_core import selection
from mild_core.results import Selection
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.ops.process import find_connection_limit, make_protocol
from tests.inprocess import running
from tests.live import connect, serving, status, until_closed
from tests.service.recordings import OCTETS, recording
from tests.waiting import PATIENCE

N = 100
BODY = recording(N, 1)[0]


def head(path: str, length: int, kind: str = "application/octet-stream") -> bytes:
    return f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.fixture
def impatient(settings: Settings) -> Iterator[str]:
    """A replica that waits for a body for a moment only; whatever else a test asks for, a patient one answers."""
    changed = {"body_pause_seconds": 1.0, "min_body_rate": 100, "request_seconds": 1.0, "max_wait_seconds": 0.1}
    with serving(create_app(settings.model_copy(update=changed)), http=make_protocol(1)) as url:
        yield url


def test_a_body_that_stops_is_given_up(impatient: str, opened: httpx.Client) -> None:
    with connect(impatient) as connection:
        connection.sendall(head("/runs/a/rounds/0/epochs/0", len(BODY)) + BODY[:5])
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"/problems/slow-body" in answer
    assert b"after 5 bytes" in answer
    assert opened.get("/runs/a").json()["rounds"][0]["epochs"] == []


@pytest.mark.usefixtures("opened")
def test_a_body_that_trickles_is_given_up_though_it_never_stops(impatient: str) -> None:
    sent = 0
    with connect(impatient) as connection:
        connection.sendall(head("/runs/a/predictions", 10_000_000).replace(b"PUT", b"POST"))
        with suppress(OSError):
            while sent < 1000:  # a byte every 50 ms is a fifth of what is asked for
                connection.sendall(b"x")
                sent += 1
                time.sleep(0.05)
    assert sent < 1000


def test_a_slow_sender_has_time_as_long_as_it_goes_on(impatient: str, service: httpx.Client) -> None:
    """Its body takes longer than a pause may, and than the work on a request may."""
    rate_keeping = recording(8 * 400, 1)[0]
    service.put("/runs/b", json={"num_samples": 8 * 400}).raise_for_status()
    with connect(impatient) as connection:
        connection.sendall(head("/runs/b/rounds/0/epochs/0", len(rate_keeping)))
        for at in range(0, len(rate_keeping), 25):
            connection.sendall(rate_keeping[at : at + 25])
            time.sleep(0.1)
        assert status(connection) == 201


def test_work_that_takes_too_long_is_given_up(settings: Settings) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    app = create_app(settings.model_copy(update={"request_seconds": 0.1}))
    app.add_api_route("/forever", forever)
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        answer = client.get("/forever")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/deadline-exceeded")
        assert answer.headers["retry-after"]
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("n_swallowed", [1, 3])
def test_work_that_swallows_its_cancellation_is_given_up_too(settings: Settings, n_swallowed: int) -> None:
    async def deaf() -> None:
        for _ in range(n_swallowed):
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    app = create_app(settings.model_copy(update={"request_seconds": 0.1}))
    app.add_api_route("/deaf", deaf)
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        assert client.get("/deaf").json()["type"] == "/problems/deadline-exceeded"


def test_a_deadline_that_would_cut_off_long_polls_is_refused() -> None:
    with pytest.raises(ValidationError, match="long-polls"):
        Settings(request_seconds=60, max_wait_seconds=60)


@pytest.mark.parametrize("body", [b"", b"x" * 5000])
def test_a_body_is_cut_off_at_its_limit_and_not_after(settings: Settings, body: bytes) -> None:
    with (
        serving(create_app(settings.model_copy(update={"max_document_bytes": 4096})), http=make_protocol(0.5)) as url,
        connect(url) as connection,
    ):
        connection.sendall(head("/runs/a", 10**9, "application/json") + body)
        answer = until_closed(connection)  # though most of what was announced never came
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"MILD_MAX_DOCUMENT_BYTES" in answer


def test_who_goes_on_sending_after_the_answer_still_gets_it(settings: Settings) -> None:
    with serving(create_app(settings), http=make_protocol(20)) as url, connect(url) as connection:
        connection.sendall(head("/runs/nobody/rounds/0/epochs/0", 4_000_000) + bytes(4_000_000))
        assert status(connection) == 404
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")  # the connection has stayed what it was
        assert status(connection) == 200


def test_who_trickles_on_after_the_answer_is_cut_off(settings: Settings) -> None:
    with serving(create_app(settings), http=make_protocol(0.5)) as url, connect(url) as connection:
        connection.sendall(head("/runs/nobody/rounds/0/epochs/0", 4_000_000) + bytes(100))
        assert until_closed(connection).startswith(b"HTTP/1.1 404 ")


def test_json_that_lists_samples_has_a_limit_and_npy_goes_further(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_json_bytes": 1024}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        client.put("/runs/a", json={"num_samples": 600})
        labels = [10] * 600
        for path, listed in (
            ("labels", {"labels": labels}),
            ("rounds/0/members", {"indices": list(range(600))}),
            ("audit", {"indices": list(range(600)), "clean": [True] * 600}),
        ):
            refused = client.put(f"/runs/a/{path}", json=listed)
            assert refused.status_code == 413
            assert "1024 bytes, which is the limit" in refused.json()["detail"]
        out = io.BytesIO()
        np.save(out, np.array(labels))
        assert len(out.getvalue()) > 1024
        headers = {"Content-Type": "application/x-npy"}
        assert client.put("/runs/a/labels", content=out.getvalue(), headers=headers).status_code == 200


@pytest.mark.parametrize("shape", ["[", '{"a":', '[{"a":['])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/runs/b"),
        ("PATCH", "/runs/a"),
        ("PUT", "/runs/a/labels"),
        ("PUT", "/runs/a/audit"),
        ("PUT", "/runs/a/rounds/0/members"),
        ("PUT", "/runs/a/rounds/0/metrics/0"),
        ("POST", "/runs/a/rounds/0/finish"),
        ("POST", "/runs/a/predictions"),
        ("POST", "/selection"),
    ],
)
def test_json_that_nests_without_end_is_malformed(opened: httpx.Client, method: str, path: str, shape: str) -> None:
    answer = opened.request(method, path, content=shape * 100_000, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.content) < 2000


def test_work_beyond_what_may_wait_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait_and_select(*given: object) -> Selection:
        begun.set()
        assert go_on.wait(PATIENCE)
        return selection.select_from(*given)  # type: ignore[arg-type]  # passed on as it comes

    monkeypatch.setattr("mild_service.selecting.engine.select_from", wait_and_select)
    app = create_app(settings.model_copy(update={"compute_workers": 1, "max_waiting": 0}))
    body = {"correct": [[1, 0, 1, 1], [1, 1, 1, 0]]}
    answers: list[int] = []
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        first = threading.Thread(target=lambda: answers.append(client.post("/selection", json=body).status_code))
        first.start()
        assert begun.wait(PATIENCE)
        refused = client.post("/selection", json=body)
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/overloaded")
        assert "MILD_MAX_WAITING" in refused.json()["detail"]
        go_on.set()
        first.join()
        assert answers == [200]
        assert client.post("/selection", json=body).status_code == 200


def test_beyond_the_limit_of_connections_only_probes_are_answered(settings: Settings) -> None:
    with serving(create_app(settings), http=make_protocol(PATIENCE, max_connections=2)) as url, ExitStack() as stack:
        connections = [stack.enter_context(connect(url)) for _ in range(2)]
        for path, expected in ((b"/ready", 200), (b"/version", 503), (b"/health", 200)):
            with connect(url) as connection:
                connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                assert status(connection) == expected
        connections[0].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status(connections[0]) == 200


def test_the_soft_limit_of_files_is_raised_and_leaves_some_to_the_store() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        limit = find_connection_limit(64)
        raised, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised == min(hard, 65_536)
        assert limit <= raised - 64 - 128
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nHost: x\r\nA: b",
        b"GET /health HTTP/1.1\r\nA: " + 70_000 * b"x",
    ],
)
def test_a_head_that_does_not_end_is_not_waited_for(settings: Settings, sent: bytes) -> None:
    with serving(create_app(settings), http=make_protocol(0.2)) as url, connect(url) as connection:
        connection.sendall(sent)
        assert until_closed(connection) == b""


def test_a_head_that_comes_in_time_is_answered_and_so_is_the_next(settings: Settings) -> None:
    with serving(create_app(settings), http=make_protocol(1)) as url, connect(url) as connection:
        for request in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"):
            connection.sendall(request[:10])
            connection.sendall(request[10:])
            assert status(connection) == 200
        connection.sendall(b"GET /hea")
        assert until_closed(connection) == b""
        assert httpx.put(f"{url}/runs/a", json={"num_samples": N}, timeout=PATIENCE).status_code == 201
        assert (
            httpx.put(f"{url}/runs/a/rounds/0/epochs/0", content=BODY, headers=OCTETS, timeout=PATIENCE).status_code
            == 201
        )
