"""A training that sends from the background, the way to its service, and what arrived of it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from mild_client import BackgroundBackend, LocalSelector, MildClient, RoundResult, RunSpec
from mild_client.backends.background import Mode
from mild_client.backends.sync import sync_spools
from mild_core.types import EpochBits
from tests.client.wire import Reply
from tests.inprocess import InProcess

SPEC = RunSpec("a-run", 600, num_classes=10, tags={"model": "small"})


class Gate(httpx.BaseTransport):
    """The way to the service, which can be shut: then nobody answers. Counts and can refuse what comes by."""

    def __init__(self, inner: InProcess) -> None:
        self.inner = inner
        self.is_shut = False
        self.refused: dict[str, Reply] = {}
        self.seen: list[str] = []
        self.passing = threading.Event()
        self.passing.set()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        line = f"{request.method} {request.url.path}"
        self.passing.wait(60)
        if self.is_shut:
            raise httpx.ConnectError("connection refused")
        self.seen.append(line)
        for part, reply in self.refused.items():
            if part in line:
                return httpx.Response(reply.status or 500, content=reply.body, headers=dict(reply.headers))
        return self.inner.handle_request(request)


@contextmanager
def training(
    http: httpx.Client, spools: Path, mode: Mode = "online", spool_bytes: int | None = None, drain: float = 20
) -> Iterator[BackgroundBackend]:
    with BackgroundBackend("http://service", spools, mode, spool_bytes=spool_bytes, drain=drain, http=http) as backend:
        yield backend


def put(backend: BackgroundBackend | LocalSelector, epochs: list[EpochBits], round: int = 0) -> RoundResult:
    for number, bits in enumerate(epochs):
        backend.put_epoch(round, number, bits)
        backend.put_metrics(round, number, {"train_loss": 1.0})
    return backend.finish(round)


def local_set(epochs: list[EpochBits]) -> bytes:
    selector = LocalSelector()
    selector.open(SPEC)
    return put(selector, epochs).selected.tobytes()


def stored(http: httpx.Client, round: int = 0) -> dict[str, object]:
    with MildClient("http://service", http) as client:
        found = client.selection("a-run", round)
        found["bits"] = client.selected("a-run", 600, round).tobytes()
        return found


def synced(http: httpx.Client, spools: Path) -> list[tuple[int, int, int]]:
    found = sync_spools(spools, "http://service", connect=lambda url: MildClient(url, http))
    return [(each.n_sent, each.n_refused, each.n_unsent) for each in found]
