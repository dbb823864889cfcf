"""HEAD wherever there is a GET: the same status and headers, and no body."""

import httpx
import numpy as np
from fastapi import FastAPI

from mild_client import EpochBits, MildClient, RunSpec
from mild_core import bitmap
from mild_service.app import create_app
from mild_service.config import Settings
from tests.live import serving

N = 600
VOLATILE = {"date", "x-request-id", "server-timing", "transfer-encoding"}
VALUES = {"run_id": "run", "round": 0, "epoch": 1, "index": 3, "code": "run-not-found", "path": "x"}


def fill(url: str) -> None:
    rng = np.random.default_rng(0)
    with MildClient(url) as client:
        client.open_run(RunSpec("run", N, num_classes=10))
        client.put_labels("run", np.arange(N) % 10)
        client.put_sample_ids("run", [f"id-{i}" for i in range(N)])
        client.put_planted("run", [1])
        for epoch in range(12):
            correct = rng.random(N) < np.where(np.arange(N) < 400, 0.9, 0.05)
            client.put_epoch("run", 0, epoch, EpochBits(N, bitmap.pack(correct)))
        client.put_audit("run", [1, 500], [True, False])
        client.finish("run", 0)


def paths(app: FastAPI) -> list[str]:
    documented = [path for path, methods in app.openapi()["paths"].items() if "get" in methods]
    pages = ["/", "/docs", "/openapi.json", "/ui", "/ui/", "/ui/login", "/ui/runs/run", "/ui/runs/run/samples"]
    return [path.format(**VALUES) for path in (*documented, *pages)]


def headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in VOLATILE}


def test_every_get_has_its_head(app: FastAPI) -> None:
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        fill(url)
        wanted = [path for path in paths(app) if not path.endswith("/events")]
        assert len(wanted) > 25
        for path in (*wanted, "/runs/missing", "/no/such/route"):
            got, asked = http.get(path), http.head(path)
            assert asked.status_code == got.status_code, path
            assert asked.content == b"", path
            if path != "/metrics":  # whose length grows with every request
                assert headers(asked) == headers(got), path
        etag = http.get("/selection/run").headers["ETag"]
        assert http.head("/selection/run", headers={"If-None-Match": etag}).status_code == 304
        assert http.head("/selection").status_code == 405  # no GET there either
        assert "HEAD" in http.put("/runs").headers["Allow"]
        counted = http.get("/metrics").text
        assert 'method="HEAD",route="/runs/{run_id}",status="200"' in counted


def test_a_stream_of_events_has_a_head_that_ends_and_takes_no_stream(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_streams": 1}))
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        fill(url)
        with http.stream("GET", "/runs/run/events") as got:
            for _ in range(3):
                asked = http.head("/runs/run/events")
                assert (asked.status_code, asked.content) == (200, b"")
                assert headers(asked) == headers(got)
        assert http.head("/runs/missing/events").status_code == 404
