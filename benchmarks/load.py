"""Many trainings for minutes: whether the service keeps up its speed and its size, and what each request costs it.

usage: python -m benchmarks.load [--jobs 200] [--samples 50000] [--minutes 10] [--period 20]

A service that asks for a key, in a process of its own, on a real store that syncs every write; this process is the
trainings (`benchmarks.jobs`), each writing an epoch every `--period` seconds: whole, in four shards, or as a log; and
reading sets, fits and pages in between, while some of their events are followed. Afterwards, with the service to
itself, what a request of each kind costs (`benchmarks.costs`). Writes ``results/load.md``, exits with 1 if a bar is
missed.
"""

import argparse
import asyncio
import gc
import os
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks import costs
from benchmarks.jobs import Epochs, Job, Load, Seen
from benchmarks.proc import ALLOCATOR, cpu_seconds, growth, resident_kib
from benchmarks.serving import Served, service, store
from benchmarks.timing import machine

RESULTS = Path(__file__).parent / "results"
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

    @property
    def tail(self) -> float:
        """99th percentile of an epoch's PUT over its median."""
        median, late = np.percentile(self.seen.seconds["PUT of an epoch"], [50, 99])
        return float(late / median)

    @property
    def passed(self) -> bool:
        """Whether all bars are met."""
        return not self.seen.wrong and growth(self.kib) < BAR_GROWTH and self.tail <= BAR_TAIL


def environment(key: str) -> dict[str, str]:
    """Settings of the service."""
    return {**ALLOCATOR, "MILD_API_KEYS": key, "MILD_RATE_PER_KEY": "100000", "MILD_RATE_BURST": "100000"}


async def burden(load: Load, served: Served, key: str) -> Outcome:
    """Let the jobs run, then look whether what was acknowledged is there."""
    seen, epochs, kib = Seen(), Epochs(load.n_samples), list[int]()
    # uvicorn closes what is idle for 5 s; a connection must not be taken up again just then.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, limits=limits, timeout=60) as http:
        jobs = [Job(http, load, epochs, seen, number) for number in range(load.n_jobs)]
        gc.freeze()  # what the trainings take for themselves would count as the service's
        began, cpu = time.perf_counter(), cpu_seconds(served.process.pid)

        async def look() -> None:
            while True:
                kib.append(resident_kib(served.process.pid))
                await asyncio.sleep(load.seconds / READINGS)

        aside = [asyncio.create_task(job.watch()) for job in jobs[: load.n_watched]] + [asyncio.create_task(look())]
        await asyncio.gather(*(job.run(began) for job in jobs))
        cores = (cpu_seconds(served.process.pid) - cpu) / (time.perf_counter() - began)
        for job in jobs:
            await job.check()
        for task in aside:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    return Outcome(seen, kib, cores)


def report(load: Load, outcome: Outcome, command: str) -> list[str]:
    """The tables."""
    seen = outcome.seen
    n_requests = sum(map(len, seen.seconds.values()))
    rate = n_requests / load.seconds
    lines = [
        "# Many trainings for minutes",
        "",
        f"`{command}`, {machine('fastapi', 'uvicorn', 'redis', 'httpx', 'numpy')}, {os.cpu_count()} shared cores, one "
        f"service worker, one Valkey with appendfsync always, and the clients, all on one machine; its load average at "
        f"the end was {os.getloadavg()[0]:.1f}.",
        "",
        f"{load.n_jobs} jobs of {load.n_samples:,} samples for {load.seconds / 60:g} minutes, each an epoch every "
        f"{load.period:g} s (70% whole, 20% in 4 shards, 10% as Arrow logs), rounds of {load.round_epochs} epochs: "
        f"{n_requests:,} requests, {rate:.0f} a second, {seen.n_events:,} events to {load.n_watched} watchers. Times "
        "count from when a request was due, not from when it was sent.",
        "",
        "| what | measured | bar |",
        "|---|---|---|",
        f"| errors, and acknowledged epochs that are not there | {len(seen.wrong)} | 0 |",
        f"| growth of memory over the second half ({outcome.kib[len(outcome.kib) // 2] / 1024:.0f} MiB) | "
        f"{growth(outcome.kib):.1%} | below {BAR_GROWTH:.0%} |",
        f"| 99th percentile of an epoch's PUT over its median | {outcome.tail:.1f} | at most {BAR_TAIL:g} |",
        f"| share of one core that the service took | {outcome.cores:.0%} | |",
        f"| processor time a request, all kinds together | {1000 * outcome.cores / rate:.2f} ms | |",
        "",
        "| milliseconds | requests | median | 90th | 99th | longest |",
        "|---|---|---|---|---|---|",
    ]
    for kind, seconds in sorted(seen.seconds.items(), key=lambda item: -len(item[1])):
        figures = " | ".join(f"{1000 * figure:.1f}" for figure in np.percentile(seconds, [50, 90, 99, 100]))
        lines.append(f"| {kind} | {len(seconds):,} | {figures} |")
    return [*lines, ""]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--period", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    load = Load(given.jobs, given.samples, 60 * given.minutes, given.period)
    key = secrets.token_urlsafe(32)
    with store() as server, service(server.url, environment(key)) as served:
        outcome = asyncio.run(burden(load, served, key))
        command = (
            f"python -m benchmarks.load --jobs {load.n_jobs} --samples {load.n_samples} --minutes {given.minutes:g} "
            f"--period {load.period:g}"
        )
        lines = report(load, outcome, command) + costs.report(served, key, load.n_samples)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "load.md").write_text("\n".join(lines))
    print("\n".join([*lines, *outcome.seen.wrong[:20]]))
    return int(not outcome.passed)


if __name__ == "__main__":
    sys.exit(main())
