"""How long `GET /selection` takes for an ImageNet-sized run, through a real port and a real store.

Cold (no selection is cached) as a bitmap and as JSON, over fetching the same keys from the store with one connection;
an unchanged answer (304) over `GET /health`; and 50 clients that ask at once for what nobody has computed yet. All in
turn, medians, ratios within the run.
"""

import re
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from redis import Redis

from benchmarks.claims import Benchmark, Claim, Report
from benchmarks.serving import start_service, start_store
from benchmarks.timing import measure_seconds, time_interleaved
from mild_core import bitmap
from mild_service.store.context import to_texts

RUN = "/runs/imagenet"
SELECTION = "/selection/imagenet"
N_CLIENTS = 50
SMALL = 200
"""Times that a small request is sent for each time that a large one is."""

BITMAP = {"Accept": "application/octet-stream"}
JSON = {"Accept": "application/json"}


def recorded(client: httpx.Client, n_samples: int, n_epochs: int) -> None:
    """A run whose clean samples are learned early and whose mislabelled ones are late or never."""
    rng = np.random.default_rng(0)
    noisy = rng.random(n_samples, dtype=np.float32) < 0.4
    client.put(RUN, json={"num_samples": n_samples}).raise_for_status()
    for epoch in range(n_epochs):
        p_correct = np.where(noisy, np.float32(0.1 + 0.2 * epoch / n_epochs), np.float32(min(0.95, 0.3 + 0.05 * epoch)))
        body = bitmap.pack(rng.random(n_samples, dtype=np.float32) < p_correct).tobytes()
        client.put(
            f"{RUN}/rounds/0/epochs/{epoch}", content=body, headers={"Content-Type": "application/octet-stream"}
        ).raise_for_status()


class Fetched:
    """The keys that a selection is computed from, fetched in as few replies as they fit."""

    def __init__(self, redis: Redis, at_once: int = 50) -> None:
        self._redis = redis
        self._fields: list[tuple[str, list[str]]] = []
        for key in sorted(to_texts(redis.scan_iter("*:chunk:*", count=1000))):
            names = to_texts(redis.hkeys(key))
            self._fields += [(key, names[start : start + at_once]) for start in range(0, len(names), at_once)]

    def __call__(self) -> int:
        """Fetch them; return how many bytes they are."""
        values = (value for key, names in self._fields for value in self._redis.hmget(key, list(names)))
        return sum(len(value or b"") for value in values)


def computed(client: httpx.Client) -> int:
    """Selections that the service says it has computed."""
    found = re.search(r'^mild_selections_total\{source="computed"\} ([0-9.]+)$', client.get("/metrics").text, re.M)
    return int(float(found[1])) if found else 0


def together(url: str) -> set[bytes]:
    """What clients get that ask at the same time, each over a connection of its own."""

    def ask(_: int) -> bytes:
        return httpx.get(f"{url}{SELECTION}", headers=BITMAP, timeout=60).raise_for_status().content

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        return set(pool.map(ask, range(N_CLIENTS)))


def measure(options: Namespace) -> Report:
    with (
        start_store() as server,
        start_service(server.url) as service,
        Redis.from_url(server.url) as redis,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        recorded(client, options.samples, options.epochs)
        fetch = Fetched(redis)

        def forget() -> None:
            for key in redis.scan_iter("*:cache:*", count=1000):
                redis.unlink(key)

        def cold(headers: dict[str, str]) -> Callable[[], object]:
            return lambda: client.get(SELECTION, headers=headers).raise_for_status()

        def timed(work: Callable[[], object]) -> float:
            forget()
            return measure_seconds(work)

        times = [[timed(work) for work in (fetch, cold(BITMAP), cold(JSON))] for _ in range(options.repeats + 2)][2:]
        fetched, as_bitmap, as_json = (statistics.median(column) for column in zip(*times, strict=True))
        tag = {**BITMAP, "If-None-Match": client.get(SELECTION, headers=BITMAP).headers["etag"]}

        def unchanged() -> None:
            assert client.get(SELECTION, headers=tag).status_code == 304

        same, health = time_interleaved([unchanged, lambda: client.get("/health")], SMALL * options.repeats, warm=SMALL)
        forget()
        before = computed(client)
        answers = together(service.url)
        times_computed = computed(client) - before
        n_bytes = fetch()
    claims = [
        Claim("a cold set as bitmap, over fetching its bits", as_bitmap / fetched, "at most", 6, "{:.1f} x"),
        Claim("a cold set as JSON, over fetching its bits", as_json / fetched, "at most", 8, "{:.1f} x"),
        Claim("an unchanged set (304), over `GET /health`", same / health, "at most", 3, "{:.1f} x"),
        Claim(f"computations for {N_CLIENTS} clients at once", times_computed, "at most", 1),
        Claim("different answers to these clients", len(answers), "at most", 1),
    ]
    about = (
        f"A service and an embedded store in processes of their own, on loopback. Fetching {n_bytes / 1e6:.0f} MB of "
        f"keys took {fetched * 1e3:.0f} ms, a cold set {as_bitmap * 1e3:.0f} ms as bitmap and {as_json * 1e3:.0f} ms "
        f"as JSON, a 304 {same * 1e3:.2f} ms, `GET /health` {health * 1e3:.2f} ms (medians of {options.repeats} and "
        f"{SMALL * options.repeats} interleaved runs)."
    )
    return Report("`GET /selection` of an ImageNet-sized run", claims, about)


BENCHMARK = Benchmark(
    "latency",
    "docs/operations.md#sizing",
    measure,
    options={"samples": 1_281_167, "epochs": 200, "repeats": 9},
    short={"repeats": 5},
    packages=("fastapi", "uvicorn", "redis", "numpy"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
