"""What proxies, portals and other services answer in the service's place, at each call: no verdict, nothing lost.

Every call, of a real service, is first answered with everything in the table, one after the other.
"""

import contextlib
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from mild_client import (
    AsyncMildClient,
    BackgroundBackend,
    IntermediaryError,
    MildClient,
    Retry,
    RunSpec,
    ServiceUnreachable,
)
from mild_client.backends.sync import sync_spools
from mild_core import bitmap
from mild_core.types import EpochBits
from tests.client.background.trainings import SPEC, put
from tests.client.test_blocking import CALLS, arguments
from tests.live import serving
from tests.waiting import wait_until

HTML = b"<html><body>Please sign in to the network</body></html>"


def answer(status: int, body: bytes = HTML, kind: str = "text/html", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + (b"" if status == 204 else body)


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
ANSWERS = {
    "html": answer(200),
    "empty": answer(200, b""),
    "cut json": answer(200, b'{"attempt": 1, "rou', "application/json"),
    "json of another": answer(200, b'{"status": "ok"}', "application/json"),
    "json like ours": answer(200, b'{"attempt": 9, "round": 7, "records": 1, "epochs": []}', "application/json"),
    "events of another": answer(200, b"data: {}\n\n", "text/event-stream"),
    "no content": answer(204, b""),
    **{f"login {status}": answer(status, Location="https://login.example/") for status in (301, 302, 303, 307, 308)},
    **{f"html {status}": answer(status) for status in (400, 401, 403, 404, 405, 407, 408, 409, 410, 411, 413, 414)},
    **{f"html {status}": answer(status) for status in (421, 422, 425, 426, 429, 431, 451, 494, 499, 500, 501, 502)},
    **{f"html {status}": answer(status) for status in (503, 504, 507, 511, 530, *range(520, 527))},
    "nginx's last word": answer(404, b"", "application/problem+json"),
    "problem of another": answer(409, b'{"type": "about:blank", "title": "Conflict"}', "application/problem+json"),
    "list for a problem": answer(404, b"[]", "application/problem+json"),
    "no problem document": answer(404, b'{"type": "/problems/run-not-found"}', "application/json"),
    "later": answer(429, Retry_After="7"),
    "in a million years": answer(429, Retry_After="99999999999999"),
    "yesterday": answer(429, Retry_After="-5"),
    "in the past": answer(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT", Date=DATE),
    "in the year 9999": answer(503, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT", Date=DATE),
    "soon": answer(503, Retry_After="soon"),
    "old and without length": b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML,
    "not gzip": answer(200, HTML, Content_Encoding="gzip"),
    "cut body": answer(200, HTML).replace(b"Length: 5", b"Length: 95"),
    "cut problem": answer(404, b'{"type": "/problems/run-', "application/problem+json").replace(
        b"Length: ", b"Length: 9"
    ),
    "cut chunks": b"HTTP/1.1 200 OK\r\nMild-API: 1\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n{",
    "cut without length": b'HTTP/1.0 200 OK\r\nMild-API: 1\r\nContent-Type: application/json\r\n\r\n{"attempt": 1,',
    "cut head": b"HTTP/1.1 200 OK\r\nContent-Ty",
    "nothing": b"",
    "no http": b"SSH-2.0-OpenSSH_9.6\r\n",
}
BROKEN = {"not gzip", "cut body", "cut problem", "cut chunks", "cut head", "nothing", "no http"}
"""Those that HTTP itself does not take for an answer."""


class Proxy(ThreadingHTTPServer):
    """Gives its answers to each request, one after the other, and then passes the request on to the service."""

    daemon_threads = True

    def __init__(self, service: str, answers: list[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.service = httpx.URL(service)
        self.answers = answers
        self.repeats = False  # with the first answer without an end
        self.has_lengths = True
        self.counts = Counter[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise AssertionError("no request of the client is chunked")
        self.close_connection = True
        count = self.server.counts[self.requestline]
        self.server.counts[self.requestline] += 1
        if self.server.repeats or count < len(self.server.answers):
            self.wfile.write(self.server.answers[0 if self.server.repeats else count])
            return
        self.server.counts[self.requestline] = 0
        with contextlib.closing(HTTPConnection(self.server.service.host, self.server.service.port)) as connection:
            self._pass_on(connection, body)

    def _pass_on(self, connection: HTTPConnection, body: bytes) -> None:
        connection.request(self.command, self.path, body or None, dict(self.headers))
        response = connection.getresponse()
        self.protocol_version = "HTTP/1.1" if self.server.has_lengths else "HTTP/1.0"
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            is_length = name.lower() in ("transfer-encoding", "connection") or (
                name.lower() == "content-length" and not self.server.has_lengths
            )
            if not is_length:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        while piece := response.read1(65536):
            self.wfile.write(piece)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 (names that the base class looks for)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def standing_before(service: str, answers: list[bytes]) -> Iterator[Proxy]:
    with Proxy(service, answers) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with serving(app) as url:
        yield url


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text("epoch,sample,predicted,label\n" + "".join(f"2,{i},{i % 10},{i % 10}\n" for i in range(600)))
    return path


Client = MildClient
LABELS = np.arange(600) % 10


def calls(epochs: list[EpochBits], log: Path) -> dict[str, Callable[[Client], object]]:
    """Every call of the client, in an order that makes sense for one run."""
    first, half = epochs[0], np.arange(600) < 300
    shards = [EpochBits(600, bitmap.pack(np.ones(600, dtype=bool) & part), bitmap.pack(part)) for part in (half, ~half)]

    def finish(client: Client) -> object:
        for number in range(5, 12):
            client.put_epoch("run", 0, number, epochs[number])
        return client.finish("run", 0)

    def read_event(client: Client) -> object:
        with contextlib.closing(client.events("run")) as events:  # type: ignore[type-var]  # a generator
            return next(events).kind == "run-opened"

    return {
        "version": lambda c: c.version(),
        "limits": lambda c: c.limits(),
        "ready": lambda c: c.ready(),
        "open_run": lambda c: c.open_run(RunSpec("run", 600, num_classes=10)),
        "list_runs": lambda c: c.list_runs()["runs"][0]["run_id"] == "run",
        "put_labels": lambda c: c.put_labels("run", LABELS),
        "put_sample_ids": lambda c: c.put_sample_ids("run", [f"id-{i}" for i in range(600)]),
        "sample_ids": lambda c: c.sample_ids("run")[7] == "id-7",
        "put_planted": lambda c: c.put_planted("run", [1, 2]),
        "planted": lambda c: bitmap.popcount(c.planted("run", 600)) == 2,
        "put_members": lambda c: c.put_members("run", 0, np.ones(600, dtype=bool)),
        "members": lambda c: bitmap.popcount(c.members("run", 600, 0)) == 600,
        "put_epoch": lambda c: c.put_epoch("run", 0, 0, first),
        "put_metrics": lambda c: c.put_metrics("run", 0, 0, {"train_loss": 0.5}),
        "put_shard": lambda c: [c.put_shard("run", 0, 1, number, 2, shards[number]) for number in range(2)],
        "push": lambda c: c.push("run", log)["records"] == 600,
        "log_predictions": lambda c: c.log_predictions("run", 3, np.arange(600), LABELS, LABELS)["records"] == 600,
        "post_records": lambda c: (
            c.post_records("run", [{"epoch": 4, "sample": i, "correct": True} for i in range(600)])["records"] == 600
        ),
        "get_round": lambda c: c.get_round("run", 0),
        "get_epoch": lambda c: c.get_epoch("run", 0, 4)["state"] == "committed",
        "finish": finish,
        "get_run": lambda c: c.get_run("run")["round"] == 1,
        "selection": lambda c: c.selection("run", 0),
        "selected": lambda c: c.selected("run", 600, 0),
        "fit": lambda c: c.fit("run", 0),
        "sweep": lambda c: c.sweep("run", 0),
        "scores": lambda c: c.scores("run", 0).shape == (2, 600),
        "sample": lambda c: c.sample("run", 3),
        "suggestions": lambda c: c.suggestions("run", 0),
        "draw_audit": lambda c: c.draw_audit("run", 10, 0),
        "get_draw": lambda c: c.get_draw("run"),
        "put_audit": lambda c: c.put_audit("run", [1, 500], [True, False]),
        "audit": lambda c: c.audit("run", 600),
        "evaluation": lambda c: c.evaluation("run", 0),
        "select": lambda c: c.select(np.eye(9, 3000, dtype=bool)),
        "patch_run": lambda c: c.patch_run("run", status="finished"),
        "events": read_event,
        "delete_run": lambda c: c.delete_run("run"),
    }


PAUSES: list[float] = []
PATIENT = Retry(deadline=math.inf, first_deadline=math.inf, sleep=PAUSES.append)


@pytest.mark.parametrize("has_lengths", [True, False])
def test_every_call_gets_through_in_the_end(url: str, epochs: list[EpochBits], log: Path, has_lengths: bool) -> None:
    table = calls(epochs, log)
    assert sorted(table) == sorted(CALLS)
    PAUSES.clear()
    with standing_before(url, list(ANSWERS.values())) as proxy:
        proxy.has_lengths = has_lengths
        for name, call in table.items():
            with MildClient(proxy.url, retry=PATIENT) as client:  # which asks for the limits again
                assert call(client) is not False, name
        assert not any(proxy.counts.values())
    assert len(PAUSES) >= len(table) * len(ANSWERS)
    assert 60 < max(PAUSES) <= 60 + Retry().longest_pause


@pytest.mark.parametrize("name", CALLS)
def test_an_answer_that_stays_is_said_to_be_no_answer_of_the_service(name: str) -> None:
    impatient = Retry(deadline=0, first_deadline=0)
    with standing_before("http://unused", []) as proxy, MildClient(proxy.url, retry=impatient) as client:
        proxy.repeats = True
        for title, raw in ANSWERS.items():
            proxy.answers = [raw]
            with pytest.raises(ServiceUnreachable) as caught:
                next(client.events("run")) if name == "events" else getattr(client, name)(**arguments(name))
            assert caught.value.retryable, title
            assert proxy.url in str(caught.value), title
            if not isinstance(caught.value, IntermediaryError):
                assert title in BROKEN
                assert "got no answer in 1 tries" in str(caught.value), title
                continue
            assert f"status {caught.value.status} " in str(caught.value)
            assert raw.split()[1] == str(caught.value.status).encode()


REMEDIES = {
    "login 302": r"status 302 by something between here and the service, and leads to https://login.example/: '<html>"
    ".*give the address that it leads to",
    "html 403": "give the proxy or portal what it asks for",
    "html 413": "have the proxy's limits on requests raised",
    "html 502": "see in the proxy's log",
    "html": "check that the address is the service's, and that proxies pass the header Mild-API on",
    "cut without length": "by the service, cut or changed on its way",
}


@pytest.mark.parametrize("title", REMEDIES)
def test_says_what_helps(title: str) -> None:
    with standing_before("http://unused", [ANSWERS[title]]) as proxy:
        proxy.repeats = True
        with (
            MildClient(proxy.url, retry=Retry(first_deadline=0)) as client,
            pytest.raises(IntermediaryError, match=REMEDIES[title]),
        ):
            client.get_run("run")


@pytest.mark.anyio
async def test_the_asynchronous_client_gets_through_too(url: str, epochs: list[EpochBits]) -> None:
    async def sleep(seconds: float) -> None:
        """Wait for nothing."""

    retry = Retry(deadline=math.inf, first_deadline=math.inf, async_sleep=sleep)
    with standing_before(url, list(ANSWERS.values())) as proxy:
        async with AsyncMildClient(proxy.url, retry=retry) as client:
            await client.open_run(RunSpec("run", 600))
            await client.put_epoch("run", 0, 0, epochs[0])
            events = client.events("run")
            assert [(await anext(events)).kind for _ in range(2)] == ["run-opened", "epoch-committed"]
            await client.delete_run("run")
            assert [event.kind async for event in events] == ["run-deleted"]


def test_a_spool_is_sent_whole_in_the_end_and_loses_nothing_before(
    url: str, epochs: list[EpochBits], tmp_path: Path
) -> None:
    with BackgroundBackend(folder=tmp_path, mode="offline") as backend:
        backend.open(SPEC)
        backend.put_labels(LABELS)
        backend.put_sample_ids([f"id-{i}" for i in range(600)])
        backend.put_planted(np.array([1, 2]))
        used = put(backend, epochs)
        backend.set_status("finished")
        n_records = backend.n_unsent
    with standing_before(url, list(ANSWERS.values())) as proxy:
        proxy.repeats = True
        for title, raw in ANSWERS.items():
            proxy.answers = [raw]
            (left,) = sync_spools(tmp_path, proxy.url, connect=_connect(Retry(first_deadline=0)))
            assert (left.n_sent, left.n_refused, left.n_unsent) == (0, 0, n_records), title
            assert re.search("no answer|something between|cut or changed", left.problem), title
        proxy.repeats, proxy.answers = False, list(ANSWERS.values())
        (sent,) = sync_spools(tmp_path, proxy.url, connect=_connect(PATIENT))
    assert (sent.n_sent, sent.n_refused, sent.n_unsent) == (n_records, 0, 0)
    assert _stored_set(url) == used.selected.tobytes()


def _connect(retry: Retry) -> Callable[[str], MildClient]:
    return lambda url: MildClient(url, retry=retry)


def test_a_training_in_the_background_loses_nothing_either(
    url: str, epochs: list[EpochBits], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retry, "draw_pause", lambda *_: 0.0)
    with standing_before(url, list(ANSWERS.values())) as proxy, BackgroundBackend(proxy.url, tmp_path) as backend:
        backend.open(SPEC)
        used = put(backend, epochs)
        wait_until(lambda: not backend.n_unsent)
    assert _stored_set(url) == used.selected.tobytes()
    assert not (tmp_path / "a-run" / "refused").exists()


def _stored_set(url: str) -> bytes:
    with MildClient(url) as client:
        return client.selected("a-run", 600, 0).tobytes()
