"""Many trainings for minutes: whether speed and memory of the service stay constant, and the cost of each request.

A service with a key in a separate process, on a real store that syncs every write; this process runs the trainings
(`benchmarks.jobs`), each writing an epoch every `--period` seconds: whole, in four shards, or as a log; and reading
sets, fits and pages in between, while the events of some are followed. Afterwards the cost of a request of each kind is
measured without other load (`benchmarks.costs`).
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
from benchmarks.jobs import Epochs, Job, Load, RequestLog
from benchmarks.proc import ALLOCATOR, measure_growth, read_cpu_seconds, read_resident_kib
from benchmarks.serving import RunningService, start_service, start_store

READINGS = 120
"""Number of readings of the service's memory."""
BAR_GROWTH = 0.05
BAR_TAIL = 10.0
"""Greatest ratio of the 99th percentile of an epoch's PUT to its median."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Log of the requests, the service's memory meanwhile, and its share of one core."""

    log: RequestLog
    kib: Sequence[int]
    cores: float

    def list_claims(self) -> list[Claim]:
        """List the claims."""
        median, late = np.percentile(self.log.seconds["PUT of an epoch"], [50, 99])
        return [
            claim_none("errors, and acknowledged epochs that are not there", self.log.wrong),
            Claim("growth of memory over the second half", measure_growth(self.kib), "below", BAR_GROWTH, "{:.1%}"),
            Claim("99th percentile of an epoch's PUT over its median", late / median, "at most", BAR_TAIL, "{:.1f} x"),
        ]


def make_environment(key: str) -> dict[str, str]:
    """Return the settings of the service."""
    return {**ALLOCATOR, "MILD_API_KEYS": key, "MILD_RATE_PER_KEY": "100000", "MILD_RATE_BURST": "100000"}


async def run_jobs(load: Load, service: RunningService, key: str) -> Outcome:
    """Run the jobs, then check that what was acknowledged is stored."""
    log, epochs, kib = RequestLog(), Epochs(load.n_samples), list[int]()
    # uvicorn closes connections that are idle for 5 s; one must not be reused at that moment.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, limits=limits, timeout=60) as http:
        jobs = [Job(http, load, epochs, log, number) for number in range(load.n_jobs)]
        gc.freeze()  # pauses to collect the trainings' garbage would count as time of the service
        began, cpu = time.perf_counter(), read_cpu_seconds(service.process.pid)

        async def read_memory() -> None:
            while True:
                kib.append(read_resident_kib(service.process.pid))
                await asyncio.sleep(load.seconds / READINGS)

        watchers = [job.watch() for job in jobs[: load.n_watched]]
        background = [asyncio.create_task(work) for work in (*watchers, read_memory())]
        await asyncio.gather(*(job.run(began) for job in jobs))
        cores = (read_cpu_seconds(service.process.pid) - cpu) / (time.perf_counter() - began)
        for job in jobs:
            await job.check()
        for task in background:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    return Outcome(log, kib, cores)


def describe(load: Load, outcome: Outcome) -> tuple[str, list[str]]:
    """Describe the load in a sentence, and format the table of the times by kind of request."""
    log = outcome.log
    n_requests = sum(map(len, log.seconds.values()))
    rate = n_requests / load.seconds
    about = (
        "One service worker, one Valkey with appendfsync always, and the clients, all on one machine. "
        f"{load.n_jobs} jobs of {load.n_samples:,} samples for {load.seconds / 60:g} minutes, each an epoch every "
        f"{load.period:g} s (70% whole, 20% in 4 shards, 10% as Arrow logs), rounds of {load.round_epochs} epochs: "
        f"{n_requests:,} requests, {rate:.0f} a second, {log.n_events:,} events to {load.n_watched} watchers; the "
        f"service took {outcome.cores:.0%} of one core, {1000 * outcome.cores / rate:.2f} ms a request, and "
        f"{outcome.kib[len(outcome.kib) // 2] / 1024:.0f} MiB half-way. Times count from when a request was due, not "
        "from when it was sent."
    )
    rows = []
    for kind, seconds in sorted(log.seconds.items(), key=lambda item: -len(item[1])):
        figures = (f"{1000 * figure:.1f}" for figure in np.percentile(seconds, [50, 90, 99, 100]))
        rows.append((kind, f"{len(seconds):,}", *figures))
    return about, format_table(("milliseconds", "requests", "median", "90th", "99th", "longest"), rows)


def measure(options: Namespace) -> Report:
    load = Load(options.jobs, options.samples, 60 * options.minutes, options.period)
    key = secrets.token_urlsafe(32)
    with start_store() as server, start_service(server.url, make_environment(key)) as service:
        outcome = asyncio.run(run_jobs(load, service, key))
        about, times = describe(load, outcome)
        text = [*times, "", *costs.measure_costs(service, key, load.n_samples, options.repeats)]
    return Report("Many trainings for minutes", outcome.list_claims(), about, text, outcome.log.wrong)


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
