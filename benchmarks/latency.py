"""How long `GET /selection` takes for an ImageNet-sized run, through a real port and a real store.

Cold (no selection is cached) as a bitmap and as JSON, over fetching the same keys from the store with one connection;
an unchanged answer (304) over `GET /health`; and 50 clients that request at once what has not been computed yet. All in
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
"""Number of small requests for each large one."""

BITMAP = {"Accept": "application/octet-stream"}
JSON = {"Accept": "application/json"}


def record_run(client: httpx.Client, n_samples: int, n_epochs: int) -> None:
    """Put a run whose clean samples are learned early and whose mislabelled ones late or never."""
    rng = np.random.default_rng(0)
    noisy = rng.random(n_samples, dtype=np.float32) < 0.4
    client.put(RUN, json={"num_samples": n_samples}).raise_for_status()
    for epoch in range(n_epochs):
        p_correct = np.where(noisy, np.float32(0.1 + 0.2 * epoch / n_epochs), np.float32(min(0.95, 0.3 + 0.05 * epoch)))
        body = bitmap.pack(rng.random(n_samples, dtype=np.float32) < p_correct).tobytes()
        client.put(
            f"{RUN}/rounds/0/epochs/{epoch}", content=body, headers={"Content-Type": "application/octet-stream"}
        ).raise_for_status()


class StoredBits:
    """The stored bits that a selection is computed from."""

    def __init__(self, redis: Redis, at_once: int = 50) -> None:
        self._redis = redis
        self._fields: list[tuple[str, list[str]]] = []
        for key in sorted(to_texts(redis.scan_iter("*:chunk:*", count=1000))):
            names = to_texts(redis.hkeys(key))
            self._fields += [(key, names[start : start + at_once]) for start in range(0, len(names), at_once)]

    def fetch(self) -> int:
        """Fetch all of them in few replies; return the number of bytes."""
        values = (value for key, names in self._fields for value in self._redis.hmget(key, list(names)))
        return sum(len(value or b"") for value in values)


def count_computed(client: httpx.Client) -> int:
    """Return how many selections the service has computed, by its metrics."""
    match = re.search(r'^mild_selections_total\{source="computed"\} ([0-9.]+)$', client.get("/metrics").text, re.M)
    return int(float(match[1])) if match else 0


def request_at_once(url: str) -> set[bytes]:
    """Send a request from many clients at the same time; return the distinct answers."""

    def request(_: int) -> bytes:
        return httpx.get(f"{url}{SELECTION}", headers=BITMAP, timeout=60).raise_for_status().content

    with ThreadPoolExecutor(N_CLIENTS) as pool:
        return set(pool.map(request, range(N_CLIENTS)))


def measure(options: Namespace) -> Report:
    with (
        start_store() as server,
        start_service(server.url) as service,
        Redis.from_url(server.url) as redis,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        record_run(client, options.samples, options.epochs)
        fetch = StoredBits(redis).fetch

        def clear_cache() -> None:
            for key in redis.scan_iter("*:cache:*", count=1000):
                redis.unlink(key)

        def get_cold(headers: dict[str, str]) -> Callable[[], object]:
            return lambda: client.get(SELECTION, headers=headers).raise_for_status()

        def time_cold(work: Callable[[], object]) -> float:
            clear_cache()
            return measure_seconds(work)

        works = (fetch, get_cold(BITMAP), get_cold(JSON))
        times = [[time_cold(work) for work in works] for _ in range(options.repeats + 2)][2:]
        fetch_time, bitmap_time, json_time = (statistics.median(column) for column in zip(*times, strict=True))
        tag = {**BITMAP, "If-None-Match": client.get(SELECTION, headers=BITMAP).headers["etag"]}

        def get_unchanged() -> None:
            assert client.get(SELECTION, headers=tag).status_code == 304

        small = [get_unchanged, lambda: client.get("/health")]
        same, health = time_interleaved(small, SMALL * options.repeats, warm=SMALL)
        clear_cache()
        before = count_computed(client)
        answers = request_at_once(service.url)
        times_computed = count_computed(client) - before
        n_bytes = fetch()
    claims = [
        Claim("a cold set as bitmap, over fetching its bits", bitmap_time / fetch_time, "at most", 6, "{:.1f} x"),
        Claim("a cold set as JSON, over fetching its bits", json_time / fetch_time, "at most", 8, "{:.1f} x"),
        Claim("an unchanged set (304), over `GET /health`", same / health, "at most", 3, "{:.1f} x"),
        Claim(f"computations for {N_CLIENTS} clients at once", times_computed, "at most", 1),
        Claim("different answers to these clients", len(answers), "at most", 1),
    ]
    about = (
        f"A service and an embedded store in processes of their own, on loopback. Fetching {n_bytes / 1e6:.0f} MB of "
        f"keys took {fetch_time * 1e3:.0f} ms, a cold set {bitmap_time * 1e3:.0f} ms as bitmap and "
        f"{json_time * 1e3:.0f} ms as JSON, a 304 {same * 1e3:.2f} ms, `GET /health` {health * 1e3:.2f} ms (medians of "
        f"{options.repeats} and {SMALL * options.repeats} interleaved runs)."
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
