"""Memory is granted before it is taken, and given back."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from anyio import to_thread
from fastapi import FastAPI

from mild_core import bitmap
from mild_service.admission import Admission
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.ops.process import make_protocol
from tests.inprocess import running
from tests.live import connect, serving
from tests.service.recordings import put_epochs, recording
from tests.waiting import PATIENCE, wait_until

MEGABYTE = 2**20


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings.model_copy(update={"memory": 256 * MEGABYTE}))


@pytest.fixture
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        yield client


def memory_used(app: FastAPI) -> int:
    admission: Admission = app.state.admission
    return admission.memory.used


def test_a_few_bytes_that_ask_for_gigabytes_are_refused_with_the_numbers(app: FastAPI, client: httpx.Client) -> None:
    log = b"sample,epoch,correct\n134217727,0,1\n"
    headers = {"Content-Type": "text/csv", "Accept": "application/json"}
    answer = client.post("/selection?samples_by=indices", content=log, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (507, "/problems/memory-exceeded")
    assert "bytes of memory, this service grants up to" in answer.json()["detail"]
    assert memory_used(app) == 0


def test_a_table_that_does_not_fit_is_refused_and_what_is_made_in_pieces_is_sent(
    app: FastAPI, client: httpx.Client
) -> None:
    n_samples = 8_000_000
    client.put("/runs/a", json={"num_samples": n_samples}).raise_for_status()
    octets = {"Content-Type": "application/octet-stream"}
    for epoch in range(4):
        bits = np.random.default_rng(epoch).integers(0, 256, n_samples // 8, dtype=np.uint8).tobytes()
        client.put(f"/runs/a/rounds/0/epochs/{epoch}", content=bits, headers=octets).raise_for_status()
    table = {"Accept": "application/vnd.apache.arrow.stream"}
    refused = client.get("/selection/a?threshold=fraction&fraction=1", headers=table)
    assert (refused.status_code, refused.json()["retryable"]) == (507, False)
    listed = client.get("/selection/a?threshold=fraction&fraction=1", headers={"Accept": "text/csv"})
    assert (listed.status_code, listed.content.count(b"\n")) == (200, n_samples + 1)
    answer = client.get("/selection/a", headers={"Accept": "application/octet-stream"})
    assert (answer.status_code, len(answer.content)) == (200, n_samples // 8)
    assert client.get("/runs/a/scores").status_code == 507
    assert memory_used(app) == 0


def test_a_memory_error_is_a_503_and_leaves_nothing(
    app: FastAPI, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put("/runs/a", json={"num_samples": 1000}).raise_for_status()
    put_epochs(client, "a", recording(1000, 10))
    left: list[weakref.ref[Any]] = []

    def fail(*given: object) -> object:
        array = np.zeros(10**6)
        left.append(weakref.ref(array))
        cycle: Callable[[], object] = lambda: (array, cycle)  # noqa: E731  # as frames and tracebacks make them
        raise MemoryError("Unable to allocate 6.6 GiB")

    gc.disable()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("mild_service.selecting.engine.select_from", fail)
            for path in ("/selection/a", "/runs/a/scores"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["type"]) == (503, "/problems/overloaded")
                assert "6.6 GiB" in answer.json()["detail"]
                assert answer.headers["retry-after"] == "1"
        assert [reference() for reference in left] == [None, None]
    finally:
        gc.enable()
    assert memory_used(app) == 0
    assert client.get("/selection/a").status_code == 200


def test_a_reader_who_does_not_read_holds_nothing_for_good(settings: Settings) -> None:
    app = create_app(settings)
    n_samples = 2**26
    with serving(app, http=make_protocol(10, write_seconds=0.5)) as url:
        httpx.put(f"{url}/runs/a", json={"num_samples": n_samples}, timeout=PATIENCE).raise_for_status()
        octets = {"Content-Type": "application/octet-stream"}
        bits = bitmap.full(n_samples).tobytes()
        for epoch in range(3):
            path = f"{url}/runs/a/rounds/0/epochs/{epoch}"
            httpx.put(path, content=bits, headers=octets, timeout=PATIENCE).raise_for_status()
        with connect(url) as reader:
            reader.sendall(b"GET /selection/a HTTP/1.1\r\nHost: x\r\nAccept: application/octet-stream\r\n\r\n")
            assert reader.recv(100).startswith(b"HTTP/1.1 200")
            assert memory_used(app) <= n_samples // 8  # nothing else than the answer
            wait_until(lambda: memory_used(app) == 0)


def test_senders_who_are_slow_hold_no_slot(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"log_readers": 1}))
    head = b"POST /runs/a/predictions HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
    head += b"Content-Length: 1000\r\n\r\n"
    line = b'{"epoch": 0, "sample": 0, "correct": true}\n'
    with serving(app) as url:
        httpx.put(f"{url}/runs/a", json={"num_samples": 10}, timeout=PATIENCE).raise_for_status()
        senders = [connect(url) for _ in range(3)]
        for sender in senders:
            sender.sendall(head + line)
        headers = {"Content-Type": "application/x-ndjson"}
        answer = httpx.post(f"{url}/runs/a/predictions", content=line, headers=headers, timeout=PATIENCE)
        assert answer.status_code == 200
        for sender in senders:
            sender.close()


def test_a_large_table_does_not_delay_another(app: FastAPI, client: httpx.Client) -> None:
    for name in ("a", "b"):
        client.put(f"/runs/{name}", json={"num_samples": 1000}).raise_for_status()
        put_epochs(client, name, recording(1000, 10))
    tables = app.state.sample_tables
    begun, go_on, build = threading.Event(), threading.Event(), tables._build

    async def build_in_turn(plan: Any) -> Any:
        if plan.run.run_id == "a":
            begun.set()
            assert await to_thread.run_sync(go_on.wait, PATIENCE)
        return await build(plan)

    tables._build = build_in_turn
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(client.get("/ui/runs/a/samples").status_code))
    first.start()
    assert begun.wait(PATIENCE)
    assert client.get("/ui/runs/b/samples").status_code == 200
    go_on.set()
    first.join()
    assert answers == [200]
