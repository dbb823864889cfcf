"""How long the largest legal and illegal JSON bodies of every request model block the event loop.

The application runs in this process on an embedded store, while a task on the same event loop measures the longest
pause between two of its steps: in processor time of this process, which other load on the machine does not lengthen,
and in seconds. The pause of a body is the median over the repeats.
"""

import asyncio
import base64
import gzip
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import httpx
import orjson

from benchmarks.claims import Benchmark, Claim, Report, format_table
from benchmarks.serving import start_store
from mild_core.types import MAX_CLASS_NAME_LENGTH, MAX_CLASS_NAMES
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.ops.process import tune_gc
from mild_service.web.bodies import MAX_LISTED

BAR = 0.05
SETTINGS = Settings.model_construct()
N_BYTES = SETTINGS.max_json_bytes
N_DOCUMENT = SETTINGS.max_document_bytes
N_SAMPLES = MAX_LISTED - 64


Pause: TypeAlias = tuple[float, float]
"""A pause in processor time and in seconds."""


@dataclass(frozen=True)
class Case:
    """A request; `kind` describes its body."""

    route: str
    kind: str
    body: bytes
    coding: str = "identity"


def repeat(item: bytes, n_bytes: int, n_items: int = N_SAMPLES) -> bytes:
    """Make a JSON array of `n_items` equal items, or of as many as fit."""
    return b"[%b]" % b",".join([item] * min(n_items, (n_bytes - 32) // (len(item) + 1)))


def list_hostile(field: bytes, n_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield the bodies that are wrong in the value of a field, with their kinds."""
    yield "floats", b'{"%b":%b}' % (field, repeat(b"1.5", n_bytes))
    yield "objects", b'{"%b":%b}' % (field, repeat(b"{}", n_bytes))
    yield "lists, as many as are read", b'{"%b":%b}' % (field, repeat(b"[0]", 4 * 2**15))
    yield "strings, as many as are read", b'{"%b":%b}' % (field, repeat(b'"a"', 4 * 2**15 - 99))
    yield "unknown fields", b'{%b,"%b":0}' % (b",".join(b'"x%d":0' % n for n in range(2**15 - 99)), field)
    yield "nested lists", b'{"%b":%b' % (field, b"[" * 2**15)
    yield "not closed", b'{"%b":%b' % (field, repeat(b"0", n_bytes)[:-1])
    yield "one number", b'{"%b":%b}' % (field, b"9" * (n_bytes - 32))
    yield "one string", b'{"%b":"%b"}' % (field, b"\\n" * (n_bytes // 2 - 32))


def list_cases() -> list[Case]:
    """List the largest legal body and illegal ones for every route that takes JSON."""
    numbers = b",".join(b"%d" % n for n in range(N_SAMPLES // 3))
    marks = b'{"indices":[%b],"clean":%b}' % (numbers, repeat(b"true", N_BYTES, N_SAMPLES // 3))
    rows = b'{"correct":%b}' % repeat(repeat(b"0", N_BYTES, 100_000), N_BYTES, 10)
    short_rows = b'{"correct":%b}' % repeat(repeat(b"0", N_BYTES, 64), N_BYTES, N_SAMPLES // 65)
    bitmap = base64.b64encode(bytes(2**24))
    names = [f"{n:0>{MAX_CLASS_NAME_LENGTH}}" for n in range(MAX_CLASS_NAMES)]
    tags = {f"{n:0>64}": "x" * 512 for n in range(64)}
    run = {"num_samples": 10, "num_classes": MAX_CLASS_NAMES, "class_names": names, "tags": tags}
    legal = {
        "PUT /runs/new": orjson.dumps(run),
        "PATCH /runs/large": orjson.dumps({"tags": tags}),
        "PUT /runs/large/rounds/0/metrics/0": orjson.dumps({f"metric_{n}": 0.5 for n in range(64)}),
        "POST /runs/large/audit/draw": b'{"n":100}',
        "PUT /runs/large/labels": b'{"labels":%b}' % repeat(b"100000", N_BYTES),
        "PUT /runs/large/audit": marks,
        "PUT /runs/large/planted": b'{"indices":[%b]}' % numbers,
        "PUT /runs/large/rounds/0/members": b'{"indices":%b}' % repeat(b"1", N_BYTES),
        "PUT /runs/large/sample-ids": repeat(b'"a"', N_BYTES),
        "POST /selection": rows,
        "POST /runs/longest/rounds/0/finish": b'{"selected":"%b"}' % bitmap,
    }
    fields = {"labels": b"labels", "audit": b"clean", "planted": b"indices", "members": b"indices"}
    cases = [Case(route, "largest legal", body) for route, body in legal.items()]
    cases += [Case("POST /selection", "rows of 64 samples", short_rows)]
    cases += [Case("PUT /runs/large/sample-ids", "lists", repeat(b"[]", N_BYTES))]
    bomb = b'{"rounds":%b}' % repeat(b"{}", N_BYTES, N_BYTES)
    cases += [Case("POST /selection", "objects, in 8 kB of gzip", gzip.compress(bomb), "gzip")]
    for route in legal:
        if route.endswith("sample-ids"):
            continue
        field = fields.get(route.rpartition("/")[2], b"correct" if "selection" in route else b"tags")
        is_document = field == b"tags"
        cases += [Case(route, *hostile) for hostile in list_hostile(field, N_DOCUMENT if is_document else N_BYTES)]
    return cases


@asynccontextmanager
async def watch_loop(pauses: list[Pause]) -> AsyncIterator[None]:
    """Context manager that measures the longest pause between two steps of a task."""
    longest = (0.0, 0.0)

    async def tick() -> None:
        nonlocal longest
        last = time.process_time(), time.perf_counter()
        while True:
            await asyncio.sleep(0.0005)
            now = time.process_time(), time.perf_counter()
            longest = max(longest[0], now[0] - last[0]), max(longest[1], now[1] - last[1])
            last = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    longest = (0.0, 0.0)
    yield
    await asyncio.sleep(0.005)
    ticking.cancel()
    pauses.append(longest)


def take_median(pauses: Sequence[Pause]) -> Pause:
    """Return the medians of both times."""
    processor, wall = zip(*pauses, strict=True)
    return statistics.median(processor), statistics.median(wall)


async def measure_pause(client: httpx.AsyncClient, case: Case, repeats: int) -> tuple[int, Pause]:
    """Return the status of the answer, and the median of the longest pause."""
    method, path = case.route.split()
    headers = {"Content-Type": "application/json"}
    if case.coding != "identity":
        headers["Content-Encoding"] = case.coding
    pauses: list[Pause] = []
    for _ in range(repeats):
        async with watch_loop(pauses):
            answer = await client.request(method, path, content=_split_body(case.body), headers=headers)
    return answer.status_code, take_median(pauses)


async def _split_body(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in parts, as the server gets it from a connection."""
    for start in range(0, len(body), 2**16):
        yield body[start : start + 2**16]
        await asyncio.sleep(0)


async def measure_cases(store_url: str, repeats: int) -> list[tuple[Case, int, Pause]]:
    """Measure every case."""
    app = create_app(Settings(store_url=store_url, rate_per_key=0))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=600) as client:
            idle: list[Pause] = []
            for _ in range(repeats):
                async with watch_loop(idle):
                    await asyncio.sleep(0.2)
            for name, n_samples in (("large", N_SAMPLES), ("longest", 2**27)):
                (await client.put(f"/runs/{name}", json={"num_samples": n_samples})).raise_for_status()
            no_request = Case("(no request)", "0.2 s", b"")
            return [(no_request, 0, take_median(idle))] + [
                (case, *await measure_pause(client, case, repeats)) for case in list_cases()
            ]


def measure(options: Namespace) -> Report:
    tune_gc()  # as the service does
    with start_store() as server:
        rows = asyncio.run(measure_cases(server.url, options.repeats))
    worst, _, (longest, _) = max(rows, key=lambda row: row[2][0])
    text = "the longest that a JSON body keeps the event loop from other requests, in processor time"
    cells = [
        (
            f"`{case.route}`",
            case.kind,
            f"{len(case.body):,}",
            status or "",
            f"{1000 * processor:.1f}",
            f"{1000 * wall:.1f}",
        )
        for case, status, (processor, wall) in rows
    ]
    about = (
        "The longest pause of a task on the service's event loop while a body is received, counted, parsed, validated "
        f"and answered; medians of {options.repeats}. Longest: `{worst.route}`, {worst.kind}."
    )
    heads = ("request", "body", "bytes", "status", "processor time, ms", "pause, ms")
    claims = [Claim(text, 1000 * longest, "at most", 1000 * BAR, "{:.0f} ms")]
    return Report("Request models", claims, about, format_table(heads, cells))


BENCHMARK = Benchmark(
    "models",
    "docs/api.md#limits",
    measure,
    options={"repeats": 5},
    short={"repeats": 1},
    packages=("pydantic", "orjson", "fastapi"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
