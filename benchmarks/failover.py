"""Masters of a Redis Cluster killed under load: what was acknowledged is there, bit for bit, and all goes on by itself.

Starts a cluster of three masters with a replica each and a service, all on this machine. Writers put epochs without a
pause, one of them through the project's own client, each into runs on every master in turn. In each round a master is
killed (SIGKILL); once its replica has taken its place it is started again and follows. Then it looks whether every
epoch that was acknowledged is in the store as it was sent.
"""

import asyncio
import random
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

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

_HEALTHY_SECONDS = 1.0
"""Load before a master is killed."""
_EPOCHS = 3000
"""Most epochs of a run."""
_DEADLINE_SECONDS = 120
_SILENT_MS = 2000
"""A node that is silent for this long is taken for dead."""


@dataclass(frozen=True, slots=True)
class Load:
    """`replicas` is the setting under test; the large writer's runs have `large` samples, which take two slots."""

    n_rounds: int = 20
    n_writers: int = 6
    n_samples: int = 20_000
    large: int = 1_100_000
    replicas: int = 1


@dataclass
class Seen:
    """What clients were told: answers by kind, what was acknowledged, and when each run was last written."""

    answers: Counter[str] = field(default_factory=Counter)
    acknowledged: dict[str, set[int]] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def content(run_id: str, epoch: int, n_samples: int) -> Bitmap:
    """What is put there."""
    seed = [epoch, *run_id.encode()]
    return bitmap.pack(np.random.default_rng(seed).random(n_samples) < 0.5)


def run_ids(writer: str) -> list[str]:
    """Names of runs, one in each master's third of the slots."""
    names = (f"{writer}-{number}" for number in range(1000))
    by_master: dict[int, str] = {}
    for name in names:
        by_master.setdefault(3 * key_slot(name.encode()) // 16384, name)
    return [by_master[third] for third in range(3)]


async def put(http: httpx.AsyncClient, path: str, body: bytes, seen: Seen) -> None:
    """Put until it is acknowledged; note what is answered, and whether it may be tried again."""
    while True:
        try:
            answer = await http.put(path, content=body, headers={"Content-Type": "application/octet-stream"})
        except httpx.TransportError as error:
            seen.answers[type(error).__name__] += 1
        else:
            kind = answer.json().get("type", "").removeprefix("/problems/")
            seen.answers[f"{answer.status_code} {kind}".strip()] += 1
            if answer.is_success:
                return
            if answer.status_code != 503 or not answer.json()["retryable"] or "retry-after" not in answer.headers:
                seen.wrong.append(f"PUT {path} was answered with {answer.status_code}: {answer.text}")
                return
        await asyncio.sleep(0.1)


async def write(url: str, writer: str, n_samples: int, seen: Seen, stop: asyncio.Event, bundled: bool = False) -> None:
    """Put epochs, and try again at once; or with the project's client, which must never fail."""
    names = run_ids(writer)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http, AsyncMildClient(url) as client:
        for name in names:
            seen.acknowledged[name] = set()
            (await http.put(f"/runs/{name}", json={"num_samples": n_samples})).raise_for_status()
        for epoch in range(_EPOCHS):
            for name in names:
                began, bits = time.monotonic(), EpochBits(n_samples, content(name, epoch, n_samples))
                if bundled:
                    await client.put_epoch(name, 0, epoch, bits)
                else:
                    await put(http, f"/runs/{name}/rounds/0/epochs/{epoch}", bits.to_body(), seen)
                seen.acknowledged[name].add(epoch)
                seen.begun[name] = began
                if stop.is_set():
                    return


def kill_one(cluster: LocalCluster) -> tuple[float, float]:
    """Kill a master, let its replica take over, start it again; when it was killed, and seconds until it was replaced.

    A node that is started again at once comes back as the master that it was, with all that it had acknowledged.
    """
    masters = [node for node in cluster.nodes if node.role == "master"]
    dead: Node = random.choice(masters)
    others = [node for node in cluster.nodes if node is not dead]
    began = time.monotonic()
    dead.kill()
    taken = wait_until(
        lambda: sum(node.role == "master" for node in others) == len(masters),
        "a replica that takes over",
        _DEADLINE_SECONDS,
    )
    dead.start()
    return began, taken


async def fail_over(cluster: LocalCluster, seen: Seen) -> tuple[float, float]:
    """One round; seconds until the replica had taken over, and until writes to every run were acknowledged again."""
    await asyncio.sleep(_HEALTHY_SECONDS)
    killed, taken = await asyncio.to_thread(kill_one, cluster)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while any(begun < killed for begun in seen.begun.values()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"writes did not go on within {_DEADLINE_SECONDS} s")
        await asyncio.sleep(0.02)
    back = time.monotonic() - killed
    await asyncio.to_thread(wait_until, cluster.whole, "a whole cluster", _DEADLINE_SECONDS)
    return taken, back


async def find_lost_epochs(url: str, seen: Seen) -> list[str]:
    """Return a line for every acknowledged epoch that is not in the store as it was sent."""
    store, complaints = Store(Settings(), url), []
    for name, numbers in seen.acknowledged.items():
        run = await store.runs.get(name)
        (round_,) = await store.rounds.get(run, range(1))
        missing = sorted(numbers - round_.epochs.keys())
        complaints += [f"epoch {epoch} of {name} was acknowledged and is not there" for epoch in missing]
        there = sorted(numbers & round_.epochs.keys())
        for start in range(0, len(there), 16):
            some = there[start : start + 16]
            bits, _ = await store.bitmaps.read_epochs(run, 0, [round_.epochs[epoch] for epoch in some])
            for epoch, row in zip(some, bits, strict=True):
                if (row != content(name, epoch, run.spec.num_samples)).any():
                    complaints.append(f"epoch {epoch} of {name} has other bits than were acknowledged")
    await store.aclose()
    return complaints


async def hammer(cluster: LocalCluster, url: str, load: Load) -> tuple[Seen, Sequence[tuple[float, float]]]:
    """Write, kill, look; what was seen, and the two durations of each round."""
    seen, stop = Seen(), asyncio.Event()
    writers = [
        write(url, "client", load.n_samples, seen, stop, bundled=True),
        write(url, "large", load.large, seen, stop),
        *(write(url, f"w{number}", load.n_samples, seen, stop) for number in range(load.n_writers - 2)),
    ]
    tasks = [asyncio.create_task(writer) for writer in writers]
    rounds = []
    try:
        while len(seen.begun) < 3 * load.n_writers and not any(task.done() for task in tasks):  # noqa: ASYNC110  # seldom
            await asyncio.sleep(0.02)
        for number in range(load.n_rounds):
            rounds.append(await fail_over(cluster, seen))
            taken, back = rounds[-1]
            print(f"round {number + 1}: taken over after {taken:.1f} s, back after {back:.1f} s", flush=True)
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    seen.wrong += await find_lost_epochs(cluster.url, seen)
    return seen, rounds


def fail(load: Load) -> tuple[Seen, Sequence[tuple[float, float]]]:
    """Start a cluster and a service, and kill masters under load."""
    variables = {"MILD_STORE_REPLICAS": str(load.replicas), "MILD_LOG_LEVEL": "critical"}
    with (
        local_cluster(timeout_ms=_SILENT_MS) as cluster,
        start_service(cluster.url, variables) as service,
    ):
        return asyncio.run(hammer(cluster, service.url, load))


def measure(options: Namespace) -> Report:
    load = Load(options.rounds, max(2, options.writers), options.samples, replicas=options.replicas)
    seen, rounds = fail(load)
    taken, back = np.array(rounds).T
    n_acknowledged = sum(len(epochs) for epochs in seen.acknowledged.values())
    answers = ", ".join(f"{kind}: {number}" for kind, number in sorted(seen.answers.items()))
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
        ("seconds until the replica had taken over, median and most", f"{np.median(taken):.1f}, {taken.max():.1f}"),
        (
            "seconds until all writes were acknowledged again, median and most",
            f"{np.median(back):.1f}, {back.max():.1f}",
        ),
    ]
    claims = [claim_none("epochs acknowledged and lost, and answers that must not be tried again", seen.wrong)]
    text = format_table(("what", "figure"), rows)
    return Report("Masters of a cluster killed under load", claims, about, text, seen.wrong)


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
