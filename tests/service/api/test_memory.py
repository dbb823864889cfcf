"""Memory is granted before it is taken, and given back."""

import gc
import io
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from anyio import to_thread
from fastapi import FastAPI

from mild_core import bitmap
from mild_core.inspect.sample_table import SampleTable
from mild_service.admission import Admission, Pool
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.ops.process import make_protocol
from mild_service.selecting.evidence import Evidence
from mild_service.selecting.round_selection import RoundSelection
from mild_service.web import media_types
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
    refused = client.get("/ui/runs/a/map", headers={"Accept": "application/json"})
    assert (refused.status_code, refused.json()["retryable"]) == (507, False)
    table = {"Accept": "application/vnd.apache.arrow.stream"}
    streamed = client.get("/selection/a?threshold=fraction&fraction=1", headers=table)
    assert (streamed.status_code, len(streamed.content) > 8 * n_samples) == (200, True)
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


def test_a_large_table_does_not_delay_another(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        client.put(f"/runs/{name}", json={"num_samples": 1000}).raise_for_status()
        put_epochs(client, name, recording(1000, 10))
    begun, go_on, build = threading.Event(), threading.Event(), RoundSelection._build_table

    async def build_in_turn(selection: RoundSelection, evidence: Evidence) -> SampleTable:
        if selection.run.run_id == "a":
            begun.set()
            assert await to_thread.run_sync(go_on.wait, PATIENCE)
        return await build(selection, evidence)

    monkeypatch.setattr(RoundSelection, "_build_table", build_in_turn)
    answers: list[int] = []
    first = threading.Thread(target=lambda: answers.append(client.get("/ui/runs/a/samples").status_code))
    first.start()
    assert begun.wait(PATIENCE)
    assert client.get("/ui/runs/b/samples").status_code == 200
    go_on.set()
    first.join()
    assert answers == [200]


def encode_npy(array: np.ndarray) -> bytes:
    """An array in the format npy."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def fill_large_runs(client: httpx.Client, n_samples: int) -> None:
    """Put the runs `a`, finished twice and with labels, and `b`, with an epoch in shards and an audit."""
    rng, octets = np.random.default_rng(0), {"Content-Type": "application/octet-stream"}
    is_noisy = rng.random(n_samples) < 0.3
    for name in ("a", "b"):
        client.put(f"/runs/{name}", json={"num_samples": n_samples, "num_classes": 10}).raise_for_status()
    labels = encode_npy(rng.integers(0, 10, n_samples, dtype=np.uint8))
    client.put("/runs/a/labels", content=labels, headers={"Content-Type": media_types.NPY}).raise_for_status()
    for round_ in (0, 1):
        for epoch in range(6):
            correct = rng.random(n_samples, dtype=np.float32) < np.where(is_noisy, 0.1, 0.3 + 0.7 * epoch / 6)
            path = f"/runs/a/rounds/{round_}/epochs/{epoch}"
            client.put(path, content=bitmap.pack(correct).tobytes(), headers=octets).raise_for_status()
        client.post(f"/runs/a/rounds/{round_}/finish", headers={"Accept": media_types.BITMAP}).raise_for_status()
    half = bitmap.pack(np.arange(n_samples) % 2 == 0).tobytes()
    client.put("/runs/b/planted", content=half, headers=octets).raise_for_status()
    client.put("/runs/b/rounds/0/epochs/0/shards/0?of=2", content=2 * half, headers=octets).raise_for_status()
    client.put("/runs/b/audit", content=2 * half, headers=octets).raise_for_status()


LARGE_ANSWERS = [
    ("/runs/a/scores", media_types.JSON),
    ("/runs/a/scores", media_types.NPY),
    ("/runs/a/rounds/0/epochs/3", media_types.JSON),
    ("/runs/b/rounds/0/epochs/0", media_types.JSON),
    ("/runs/a/suggestions", media_types.JSON),
    ("/runs/a/suggestions", media_types.CSV),
    ("/runs/b/audit", media_types.JSON),
    ("/runs/b/audit", media_types.BITMAP),
    ("/runs/b/planted", media_types.JSON),
    ("/runs/a/rounds/0/members", media_types.NPY),
    ("/selection/a", media_types.ARROW),
    ("/selection/a", media_types.JSON),
    ("/runs/a/samples/5", media_types.JSON),
    ("/ui/runs/a", "text/html"),
    ("/ui/runs/a/samples?state=dropped&sort=score&misclassified=1-5", "text/html"),
    ("/ui/runs/a/map", "text/html"),
    ("/ui/runs/a/classes", "text/html"),
    ("/ui/runs/a/compare", "text/html"),
]
OTHER_BYTES = 2 * MEGABYTE
"""Most memory of a request that does not grow with the run."""


def test_what_a_large_answer_takes_is_granted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(settings.model_copy(update={"memory": 2**32, "executor": "threads"}))
    pool, most_used, grant = app.state.admission.memory, 0, Pool._grant

    def note(granting: Pool, *amounts: Any) -> None:
        nonlocal most_used
        grant(granting, *amounts)
        most_used = max(most_used, pool.used)

    monkeypatch.setattr(Pool, "_grant", note)
    wrong = []
    with serving(app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        fill_large_runs(client, 3_000_000)
        for path, accept in LARGE_ANSWERS:
            headers = {"Accept": accept, "Accept-Encoding": "identity"}
            client.get(path, headers=headers).raise_for_status()  # reads what is cached
            wait_until(lambda: pool.used == 0)
            most_used = 0
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            with client.stream("GET", path, headers=headers) as answer:
                assert answer.status_code == 200, path
                for _ in answer.iter_raw():
                    pass
            peak = tracemalloc.get_traced_memory()[1] - before
            tracemalloc.stop()
            if not 0.95 * peak - OTHER_BYTES <= most_used <= 4 * peak + OTHER_BYTES:
                wrong.append(f"{path} {accept}: granted {most_used}, measured {peak}")
    assert not wrong
