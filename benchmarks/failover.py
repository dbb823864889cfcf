"""Masters of a Redis Cluster killed under load: acknowledged data are stored bit for bit, and writing resumes.

Starts a cluster of three masters with a replica each and a service, all on this machine. Writers put epochs without a
pause, one of them through the project's client, each into runs on every master in turn. In each round a master is
killed (SIGKILL); once its replica has taken over it is started again as a replica. At the end every acknowledged epoch
is compared with the store.
"""

import asyncio
import random
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import httpx
import numpy as np
from redis.crc import key_slot

from benchmarks.claims import Benchmark, Report, claim_none, format_table
from benchmarks.serving import start_service
from benchmarks.timing import wait_until
from mild_client import AsyncMildClient
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import EpochBits
from mild_service.config import Settings
from mild_service.store import Store
from tests.cluster import LocalCluster, Node, local_cluster

Durations: TypeAlias = Sequence[tuple[float, float]]
"""Seconds of each round until the replica took over, and until all runs were acknowledged again."""

_HEALTHY_SECONDS = 1.0
"""Seconds of load before a master is killed."""
_EPOCHS = 3000
"""Maximal number of epochs of a run."""
_DEADLINE_SECONDS = 120
_SILENT_MS = 2000
"""Silence after which a node is considered failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load: `replicas` is the setting under test, and one writer has runs of `large` samples, which take two slots."""

    n_rounds: int = 20
    n_writers: int = 6
    n_samples: int = 20_000
    large: int = 1_100_000
    replicas: int = 1


@dataclass
class WriteLog:
    """Answers by kind, acknowledged epochs by run, start of the last acknowledged write of each run, and errors."""

    answers: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[str, set[int]] = field(default_factory=dict)
    last_begun: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def make_bits(run_id: str, epoch: int, n_samples: int) -> Bitmap:
    """Make the bits of an epoch, shape (n_bytes,)."""
    seed = [epoch, *run_id.encode()]
    return bitmap.pack(np.random.default_rng(seed).random(n_samples) < 0.5)


def list_run_ids(writer: str) -> list[str]:
    """List names of runs, one for each master's third of the slots."""
    names = (f"{writer}-{number}" for number in range(1000))
    by_master: dict[int, str] = {}
    for name in names:
        by_master.setdefault(3 * key_slot(name.encode()) // 16384, name)
    return [by_master[third] for third in range(3)]


async def put_until_acknowledged(http: httpx.AsyncClient, path: str, body: bytes, log: WriteLog) -> None:
    """Put a body until it is acknowledged; record the answers, and those that must not be retried as errors."""
    while True:
        try:
            answer = await http.put(path, content=body, headers={"Content-Type": "application/octet-stream"})
        except httpx.TransportError as error:
            log.answers[type(error).__name__] += 1
        else:
            kind = answer.json().get("type", "").removeprefix("/problems/")
            log.answers[f"{answer.status_code} {kind}".strip()] += 1
            if answer.is_success:
                return
            if answer.status_code != 503 or not answer.json()["retryable"] or "retry-after" not in answer.headers:
                log.wrong.append(f"PUT {path} was answered with {answer.status_code}: {answer.text}")
                return
        await asyncio.sleep(0.1)


async def write_epochs(
    url: str, writer: str, n_samples: int, log: WriteLog, stop: asyncio.Event, bundled: bool = False
) -> None:
    """Put epochs, with retries of our own or with the project's client, which must never fail."""
    names = list_run_ids(writer)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http, AsyncMildClient(url) as client:
        for name in names:
            log.acknowledged[name] = set()
            (await http.put(f"/runs/{name}", json={"num_samples": n_samples})).raise_for_status()
        for epoch in range(_EPOCHS):
            for name in names:
                began, bits = time.monotonic(), EpochBits(n_samples, make_bits(name, epoch, n_samples))
                if bundled:
                    await client.put_epoch(name, 0, epoch, bits)
                else:
                    await put_until_acknowledged(http, f"/runs/{name}/rounds/0/epochs/{epoch}", bits.to_body(), log)
                log.acknowledged[name].add(epoch)
                log.last_begun[name] = began
                if stop.is_set():
                    return


def kill_master(cluster: LocalCluster) -> tuple[float, float]:
    """Kill a master, wait for its replica, and start the master again; return the time, and the takeover's seconds.

    A node that is started again at once comes back as the same master, with all that it had acknowledged.
    """
    masters = [node for node in cluster.nodes if node.role == "master"]
    dead: Node = random.choice(masters)
    others = [node for node in cluster.nodes if node is not dead]
    began = time.monotonic()
    dead.kill()
    takeover_seconds = wait_until(
        lambda: sum(node.role == "master" for node in others) == len(masters),
        "a replica that takes over",
        _DEADLINE_SECONDS,
    )
    dead.start()
    return began, takeover_seconds


async def fail_over(cluster: LocalCluster, log: WriteLog) -> tuple[float, float]:
    """Run one round; return the seconds until the replica took over, and until all runs were acknowledged again."""
    await asyncio.sleep(_HEALTHY_SECONDS)
    killed_at, takeover = await asyncio.to_thread(kill_master, cluster)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while any(begun < killed_at for begun in log.last_begun.values()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"writes did not go on within {_DEADLINE_SECONDS} s")
        await asyncio.sleep(0.02)
    recovery = time.monotonic() - killed_at
    await asyncio.to_thread(wait_until, cluster.whole, "a whole cluster", _DEADLINE_SECONDS)
    return takeover, recovery


async def find_lost_epochs(url: str, log: WriteLog) -> list[str]:
    """Return a line for every acknowledged epoch that is not in the store as it was sent."""
    store, complaints = Store(Settings(), url), []
    for name, numbers in log.acknowledged.items():
        run = await store.runs.get(name)
        (round_,) = await store.rounds.get(run, range(1))
        missing = sorted(numbers - round_.epochs.keys())
        complaints += [f"epoch {epoch} of {name} was acknowledged and is not there" for epoch in missing]
        stored = sorted(numbers & round_.epochs.keys())
        for start in range(0, len(stored), 16):
            part = stored[start : start + 16]
            bits, _ = await store.bitmaps.read_epochs(run, 0, [round_.epochs[epoch] for epoch in part])
            for epoch, row in zip(part, bits, strict=True):
                if (row != make_bits(name, epoch, run.spec.num_samples)).any():
                    complaints.append(f"epoch {epoch} of {name} has other bits than were acknowledged")
    await store.aclose()
    return complaints


async def kill_under_load(cluster: LocalCluster, url: str, load: Load) -> tuple[WriteLog, Durations]:
    """Write, kill and compare; return the log, and the two durations of each round."""
    log, stop = WriteLog(), asyncio.Event()
    writers = [
        write_epochs(url, "client", load.n_samples, log, stop, bundled=True),
        write_epochs(url, "large", load.large, log, stop),
        *(write_epochs(url, f"w{number}", load.n_samples, log, stop) for number in range(load.n_writers - 2)),
    ]
    tasks = [asyncio.create_task(writer) for writer in writers]
    rounds = []
    try:
        while len(log.last_begun) < 3 * load.n_writers and not any(task.done() for task in tasks):  # noqa: ASYNC110  # seldom
            await asyncio.sleep(0.02)
        for number in range(load.n_rounds):
            rounds.append(await fail_over(cluster, log))
            takeover, recovery = rounds[-1]
            print(f"round {number + 1}: taken over after {takeover:.1f} s, back after {recovery:.1f} s", flush=True)
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    log.wrong += await find_lost_epochs(cluster.url, log)
    return log, rounds


def run_failovers(load: Load) -> tuple[WriteLog, Durations]:
    """Start a cluster and a service, and kill masters under load."""
    variables = {"MILD_STORE_REPLICAS": str(load.replicas), "MILD_LOG_LEVEL": "critical"}
    with (
        local_cluster(timeout_ms=_SILENT_MS) as cluster,
        start_service(cluster.url, variables) as service,
    ):
        return asyncio.run(kill_under_load(cluster, service.url, load))


def measure(options: Namespace) -> Report:
    load = Load(options.rounds, max(2, options.writers), options.samples, replicas=options.replicas)
    log, rounds = run_failovers(load)
    takeover, recovery = np.array(rounds).T
    n_acknowledged = sum(len(epochs) for epochs in log.acknowledged.values())
    answers = ", ".join(f"{kind}: {number}" for kind, number in sorted(log.answers.items()))
    about = (
        "Three masters with a replica each (`appendfsync always`, a node is taken for dead after "
        f"{_SILENT_MS / 1000:g} s), one service worker with `MILD_STORE_REPLICAS={load.replicas}`, and the writers, "
        f"all on the same machine. One writer's runs have {load.large} samples, which take two slots; one writes "
        "through the project's client, which never failed. A killed master is started again once its replica has "
        f"taken over. Answers to the other writers, which try again after 0.1 s: {answers}."
    )
    rows = [
        ("masters killed", load.n_rounds),
        ("epochs acknowledged", n_acknowledged),
        *(
            (f"seconds until {event}, median and most", f"{np.median(times):.1f}, {times.max():.1f}")
            for event, times in (
                ("the replica had taken over", takeover),
                ("all writes were acknowledged again", recovery),
            )
        ),
    ]
    claims = [claim_none("epochs acknowledged and lost, and answers that must not be tried again", log.wrong)]
    text = format_table(("what", "figure"), rows)
    return Report("Masters of a cluster killed under load", claims, about, text, log.wrong)


BENCHMARK = Benchmark(
    "failover",
    "docs/operations.md#what-acknowledged-means",
    measure,
    options={"rounds": 20, "writers": 6, "samples": 20_000, "replicas": 1},
    short={"rounds": 3},
    packages=("fastapi", "redis", "httpx"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
