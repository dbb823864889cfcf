"""Many trainings at once, each on many ranks: everything that is posted counts once, and changes no set.

usage: python -m benchmarks.concurrency [--runs 64] [--epochs 50] [--shards 8] [--clients 64] [--samples 2000]

Starts a service with its embedded store in a process of its own (fsync on every write) and lets concurrent clients put
all shards of all epochs of all runs, shuffled over everything, some of them twice. Then it looks whether every epoch
was committed exactly once, and whether every run's set is the one that `mild_core` selects from the same bits in
sequence. Writes ``results/concurrency.md``, exits with 1 if anything is wrong.
"""

import argparse
import asyncio
import os
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks.serving import service, store
from benchmarks.timing import machine
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.selection import select
from mild_core.types import EpochBits, RoundBits, SelectionOptions

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Load:
    """What is posted: `duplicates` is the share of the puts that are sent once more."""

    n_runs: int
    n_epochs: int
    n_shards: int
    n_clients: int
    n_samples: int
    duplicates: float = 0.1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: `wrong` has a line for everything that is not as it must be."""

    n_puts: int
    seconds: float
    percentiles: Sequence[float]
    wrong: Sequence[str]


def recorded(load: Load, run: int) -> np.ndarray:
    """Correct bits of one run, shape (n_epochs, n_samples): clean samples are learned early, the others late."""
    rng = np.random.default_rng(run)
    noisy = rng.random(load.n_samples) < 0.4
    late = np.arange(load.n_epochs)[:, None] / load.n_epochs
    return rng.random((load.n_epochs, load.n_samples)) < np.where(noisy, 0.3 * late, np.minimum(0.95, 0.4 + late))


def share(correct: np.ndarray, shard: int, n_shards: int) -> bytes:
    """The body of one rank: every n_shards-th sample, and the first one too, as samplers pad.

    Only the rank whose sample that is has it right, so a union that overwrites instead of adding up is found out.
    """
    mine = np.arange(correct.size) % n_shards == shard
    observed = mine.copy()
    observed[0] = True
    return EpochBits(correct.size, bitmap.pack(correct & mine), bitmap.pack(observed)).to_body()


def expected(load: Load, run: int) -> Bitmap:
    """The set that the bits give in sequence."""
    correct = bitmap.pack(recorded(load, run))
    observed = np.broadcast_to(bitmap.full(load.n_samples), correct.shape)
    return select([RoundBits(load.n_samples, correct, observed)], SelectionOptions()).bitmap


async def hammer(url: str, load: Load) -> Outcome:
    """Post everything, then look at what has become of it."""
    rng = np.random.default_rng(0)
    puts = [(r, e, s) for r in range(load.n_runs) for e in range(load.n_epochs) for s in range(load.n_shards)]
    puts += [puts[i] for i in rng.integers(0, len(puts), round(load.duplicates * len(puts)))]
    order = iter(rng.permutation(len(puts)).tolist())
    bits = [recorded(load, run) for run in range(load.n_runs)]
    limits = httpx.Limits(max_connections=load.n_clients, keepalive_expiry=2)  # uvicorn closes what is idle for 5 s
    said: Counter[str] = Counter()
    times: list[float] = []
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as http:
        for run in range(load.n_runs):
            opened = await http.put(f"/runs/load-{run}", json={"num_samples": load.n_samples})
            opened.raise_for_status()

        async def client() -> None:
            for position in order:
                run, epoch, shard = puts[position]
                path = f"/runs/load-{run}/rounds/0/epochs/{epoch}/shards/{shard}"
                body = share(bits[run][epoch], shard, load.n_shards)
                began = time.perf_counter()
                try:
                    answer = await http.put(path, params={"of": load.n_shards}, content=body)
                except httpx.TransportError:  # closed just now: whoever got no answer sends again
                    said["sent again"] += 1
                    answer = await http.put(path, params={"of": load.n_shards}, content=body)
                times.append(time.perf_counter() - began)
                said[answer.json()["outcome"] if answer.is_success else f"{answer.status_code} {answer.text}"] += 1

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(load.n_clients)))
        seconds = time.perf_counter() - began
        wrong = [line async for line in _complaints(http, load, said, len(puts))]
    return Outcome(len(puts), seconds, np.percentile(times, [50, 99]).tolist(), wrong)


async def _complaints(http: httpx.AsyncClient, load: Load, said: Counter[str], n_puts: int) -> AsyncIterator[str]:
    """A line for everything that is not as it must be."""
    n_epochs = load.n_runs * load.n_epochs
    stored = n_epochs * load.n_shards
    lost = stored - said["stored"]  # stored, but the answer did not come
    if not 0 <= lost <= said["sent again"] or said["stored"] + said["same"] != n_puts:
        yield f"of {n_puts} puts {stored} should have been stored and the others the same, but they were {dict(said)}"
    metrics = (await http.get("/metrics")).text
    found = re.search(r'^mild_epochs_total\{outcome="committed"\} (\S+)$', metrics, re.MULTILINE)
    if found is None or float(found[1]) != n_epochs:
        yield f"{n_epochs} epochs should have been committed once, the service counts {found and found[1]}"
    for run in range(load.n_runs):
        state = (await http.get(f"/runs/load-{run}")).json()["rounds"][0]
        if state["epochs"] != list(range(load.n_epochs)) or state["partial"]:
            yield f"run {run} has {state['num_epochs']} epochs and {len(state['partial'])} partial ones"
            continue
        answer = await http.get(f"/selection/load-{run}?round=0", headers={"Accept": "application/octet-stream"})
        if answer.content != expected(load, run).tobytes():
            yield f"the set of run {run} is not the one that its bits give in sequence"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 64), ("epochs", 50), ("shards", 8), ("clients", 64), ("samples", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    load = Load(a.runs, a.epochs, a.shards, a.clients, a.samples)
    with store() as server, service(server.url) as served:
        outcome = asyncio.run(hammer(served.url, load))
    typical, slow = (1000 * seconds for seconds in outcome.percentiles)
    lines = [
        "# Many ranks of many runs at once",
        "",
        f"`python -m benchmarks.concurrency --runs {a.runs} --epochs {a.epochs} --shards {a.shards} "
        f"--clients {a.clients} --samples {a.samples}`, {machine('fastapi', 'redis', 'httpx')}, {os.cpu_count()} cores"
        "; one service worker, one Valkey that syncs every write to disk, and the clients, all on the same machine; "
        "10% of the puts are sent twice, in random order over all runs.",
        "",
        "| | |",
        "|---|---|",
        f"| puts | {outcome.n_puts} |",
        f"| epochs, each committed exactly once | {a.runs * a.epochs} |",
        f"| runs whose set is the sequential one | {a.runs - sum('set of run' in line for line in outcome.wrong)} |",
        f"| puts a second | {outcome.n_puts / outcome.seconds:.0f} |",
        f"| milliseconds a put, median and 99th percentile | {typical:.0f}, {slow:.0f} |",
        f"| complaints | {len(outcome.wrong)} |",
        "",
        f"Load average of the machine: {os.getloadavg()[0]:.1f}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text, *outcome.wrong, sep="\n")
    (RESULTS / "concurrency.md").write_text(text)
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    sys.exit(main())
