"""Many trainings for minutes: whether the service keeps up its speed and its size, and what each request costs it.

A service that asks for a key, in a process of its own, on a real store that syncs every write; this process is the
trainings (`benchmarks.jobs`), each writing an epoch every `--period` seconds: whole, in four shards, or as a log; and
reading sets, fits and pages in between, while some of their events are followed. Afterwards, with the service to
itself, what a request of each kind costs (`benchmarks.costs`).
"""

import asyncio
import gc
import secrets
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx
import numpy as np

from benchmarks import costs
from benchmarks.claims import Benchmark, Claim, Report, claim_none, format_table
from benchmarks.jobs import Epochs, Job, Load, Seen
from benchmarks.proc import ALLOCATOR, measure_growth, read_cpu_seconds, read_resident_kib
from benchmarks.serving import RunningService, start_service, start_store

READINGS = 120
"""Looks at the service's memory."""
BAR_GROWTH = 0.05
BAR_TAIL = 10.0
"""Of the median, at most: the 99th percentile of an epoch's PUT."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the load has met, the service's memory during it, and its share of one core."""

    seen: Seen
    kib: Sequence[int]
    cores: float

    def claim(self) -> list[Claim]:
        """What is claimed of it."""
        median, late = np.percentile(self.seen.seconds["PUT of an epoch"], [50, 99])
        return [
            claim_none("errors, and acknowledged epochs that are not there", self.seen.wrong),
            Claim("growth of memory over the second half", measure_growth(self.kib), "below", BAR_GROWTH, "{:.1%}"),
            Claim("99th percentile of an epoch's PUT over its median", late / median, "at most", BAR_TAIL, "{:.1f} x"),
        ]


def environment(key: str) -> dict[str, str]:
    """Settings of the service."""
    return {**ALLOCATOR, "MILD_API_KEYS": key, "MILD_RATE_PER_KEY": "100000", "MILD_RATE_BURST": "100000"}


async def burden(load: Load, service: RunningService, key: str) -> Outcome:
    """Let the jobs run, then look whether what was acknowledged is there."""
    seen, epochs, kib = Seen(), Epochs(load.n_samples), list[int]()
    # uvicorn closes what is idle for 5 s; a connection must not be taken up again just then.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, limits=limits, timeout=60) as http:
        jobs = [Job(http, load, epochs, seen, number) for number in range(load.n_jobs)]
        gc.freeze()  # what the trainings take for themselves would count as the service's
        began, cpu = time.perf_counter(), read_cpu_seconds(service.process.pid)

        async def look() -> None:
            while True:
                kib.append(read_resident_kib(service.process.pid))
                await asyncio.sleep(load.seconds / READINGS)

        aside = [asyncio.create_task(job.watch()) for job in jobs[: load.n_watched]] + [asyncio.create_task(look())]
        await asyncio.gather(*(job.run(began) for job in jobs))
        cores = (read_cpu_seconds(service.process.pid) - cpu) / (time.perf_counter() - began)
        for job in jobs:
            await job.check()
        for task in aside:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    return Outcome(seen, kib, cores)


def describe(load: Load, outcome: Outcome) -> tuple[str, list[str]]:
    """What was asked, in a sentence, and a table of the times by kind of request."""
    seen = outcome.seen
    n_requests = sum(map(len, seen.seconds.values()))
    rate = n_requests / load.seconds
    about = (
        "One service worker, one Valkey with appendfsync always, and the clients, all on one machine. "
        f"{load.n_jobs} jobs of {load.n_samples:,} samples for {load.seconds / 60:g} minutes, each an epoch every "
        f"{load.period:g} s (70% whole, 20% in 4 shards, 10% as Arrow logs), rounds of {load.round_epochs} epochs: "
        f"{n_requests:,} requests, {rate:.0f} a second, {seen.n_events:,} events to {load.n_watched} watchers; the "
        f"service took {outcome.cores:.0%} of one core, {1000 * outcome.cores / rate:.2f} ms a request, and "
        f"{outcome.kib[len(outcome.kib) // 2] / 1024:.0f} MiB half-way. Times count from when a request was due, not "
        "from when it was sent."
    )
    rows = []
    for kind, seconds in sorted(seen.seconds.items(), key=lambda item: -len(item[1])):
        figures = (f"{1000 * figure:.1f}" for figure in np.percentile(seconds, [50, 90, 99, 100]))
        rows.append((kind, f"{len(seconds):,}", *figures))
    return about, format_table(("milliseconds", "requests", "median", "90th", "99th", "longest"), rows)


def measure(options: Namespace) -> Report:
    load = Load(options.jobs, options.samples, 60 * options.minutes, options.period)
    key = secrets.token_urlsafe(32)
    with start_store() as server, start_service(server.url, environment(key)) as service:
        outcome = asyncio.run(burden(load, service, key))
        about, times = describe(load, outcome)
        text = [*times, "", *costs.report(service, key, load.n_samples, repeated=options.repeats)]
    return Report("Many trainings for minutes", outcome.claim(), about, text, outcome.seen.wrong)


BENCHMARK = Benchmark(
    "load",
    "docs/operations.md#sizing",
    measure,
    options={"jobs": 200, "samples": 50_000, "minutes": 10.0, "period": 20.0, "repeats": 200},
    short={"minutes": 1.0, "period": 10.0, "jobs": 100, "repeats": 20},
    packages=("fastapi", "uvicorn", "redis", "httpx", "numpy"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
