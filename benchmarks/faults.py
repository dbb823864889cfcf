"""Processes killed, disks filled and connections cut while trainings stream: acknowledged data stay.

A real service (`mild-service serve`) and a real store with the compose file's settings, each in a process that is
started again when it ends, and 8 trainings that write epochs as whole bodies, in shards, from logs, and of 1.2 million
samples, through the project's client with its retries and `resume`. Between clients and service, and between service
and store, are TCP links that can be cut in the middle of a write. Each round causes a fault at a random time, waits
until a write succeeds again, and compares every epoch in the store with the bits that were sent. Meanwhile two readers
compare what is served, and the status of every answer is checked.
"""

import logging
import random
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import anyio
import httpx
from redis import Redis

from benchmarks.claims import Benchmark, Claim, Report, claim_none, format_table
from benchmarks.disks import Disk, make_disk
from benchmarks.links import Link
from benchmarks.restarts import ServiceProcess, StoreProcess
from benchmarks.stream_checks import Reader, check_store
from benchmarks.streams import KINDS, Ledger, Training
from benchmarks.timing import wait_until

BACK_SECONDS = 5.0
N_READERS = 2
_SETTINGS = {"MILD_LOG_LEVEL": "error", "MILD_SWEEP_SECONDS": "1", "MILD_RATE_PER_KEY": "0"}


@dataclass
class Site:
    """The processes, links and disk that can be broken."""

    disk: Disk
    store: StoreProcess
    service: ServiceProcess
    to_store: Link
    to_service: Link
    rng: random.Random

    @property
    def url(self) -> str:
        """Address of the service for clients."""
        return f"http://127.0.0.1:{self.to_service.port}"


@dataclass
class Outcome:
    """Results of all rounds."""

    ledger: Ledger
    n_compared: int = 0
    n_answers: int = 0
    n_left: int = 0
    disk: str = ""
    log: str = ""
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def worst(self) -> float:
        """Longest time until a write succeeded again."""
        return max(max(times) for times in self.seconds.values())


def kill_service(site: Site) -> None:
    site.service.kill()


def kill_store(site: Site) -> None:
    site.store.kill()


def kill_both(site: Site) -> None:
    first, second = site.rng.sample([site.store, site.service], 2)
    first.kill()
    second.kill()


def fill_disk(site: Site) -> None:
    """Fill the disk: the store ends at the first write that fails, and may end repeatedly until there is room."""
    n_starts = site.store.n_starts
    site.disk.fill(site.store.pid, spare=site.rng.randrange(200_000))

    def has_ended() -> bool:
        if site.store.n_starts > n_starts:
            return True
        site.disk.refill()
        return False

    wait_until(has_ended, "an end of the store on a full disk")
    site.disk.free(site.store.pid)


def cut_store(site: Site) -> None:
    _cut_link(site.to_store, site.rng)


def cut_clients(site: Site) -> None:
    _cut_link(site.to_service, site.rng)


def _cut_link(link: Link, rng: random.Random) -> None:
    """Cut a link in the middle of what is being sent."""
    n_cuts = link.n_cuts
    link.cut_after(rng.randrange(1, 400_000))
    wait_until(lambda: link.n_cuts > n_cuts, "a cut")


FAULTS: dict[str, Callable[[Site], None]] = {
    "`kill -9` of the service": kill_service,
    "`kill -9` of the store": kill_store,
    "`kill -9` of both": kill_both,
    "full disk": fill_disk,
    "connections to the store cut": cut_store,
    "connections to the service cut": cut_clients,
}


@contextmanager
def start_site(rng: random.Random) -> Iterator[Site]:
    """Context manager that starts all processes and links, and stops them at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="mild-faults-")))
        volume = stack.enter_context(make_disk(folder / "disk"))
        to_store, to_service = stack.enter_context(Link()), stack.enter_context(Link())
        store = stack.enter_context(StoreProcess(volume, folder))
        to_store.lead_to(store.socket)
        url = f"redis://127.0.0.1:{to_store.port}/0"
        service = stack.enter_context(ServiceProcess(url, to_service, folder, _SETTINGS))
        site = Site(volume, store, service, to_store, to_service, rng)
        wait_for_write(site.url, BACK_SECONDS)
        yield site


def wait_for_write(url: str, timeout: float, note: Callable[[httpx.Response], object] = bool) -> float:
    """Return the seconds until a write succeeds; `note` gets every answer."""
    with httpx.Client(base_url=url, verify=False, timeout=timeout) as http:

        def is_written() -> bool:
            try:
                answer = http.put("/runs/probe", json={"num_samples": 8, "tags": {"at": str(time.time())}})
            except httpx.TransportError:
                return False
            note(answer)
            return answer.is_success

        return wait_until(is_written, "a write that succeeds")


def cause_faults(n_rounds: int, n_trainings: int, seed: int) -> Outcome:
    """Cause faults in random order while trainings stream."""
    rng, ledger = random.Random(seed), Ledger()
    outcome = Outcome(ledger)
    with start_site(rng) as site:
        outcome.disk = site.disk.kind
        trainings = [Training(site.url, ledger, KINDS[n % len(KINDS)], n, seed) for n in range(n_trainings)]
        readers = [Reader(site.url, ledger, seed + n) for n in range(N_READERS)]
        threads: list[Training | Reader] = [*trainings, *readers]
        for thread in threads:
            thread.start()
        order: list[str] = []
        for _ in range(n_rounds):
            order = order or rng.sample(list(FAULTS), len(FAULTS))
            name, goal = order.pop(), ledger.n_acknowledged + rng.randrange(5, 25)
            wait_until(lambda at=goal: ledger.n_acknowledged >= at, "progress of the trainings")  # type: ignore[misc]  # bound now
            time.sleep(0.02 * rng.random())  # at any instant of a write
            try:
                FAULTS[name](site)
                outcome.seconds[name].append(wait_for_write(site.url, BACK_SECONDS))
            except TimeoutError:
                print(f"after {name}, the store: {site.store.read_log()}\nthe service: {site.service.read_log()}")
                raise
            outcome.n_compared += anyio.run(check_store, site.store.url, ledger)
        for thread in threads:
            thread.stop()
        outcome.n_compared += anyio.run(check_store, site.store.url, ledger)
        outcome.n_answers = sum(reader.n_answers for reader in readers)
        outcome.n_left = _count_leftover_keys(site)
        outcome.log = site.service.read_log()
    return outcome


def _count_leftover_keys(site: Site) -> int:
    """Count the keys that remain after every run was deleted and the sweep has completed interrupted deletions."""
    with httpx.Client(base_url=site.url, timeout=30) as http, Redis.from_url(site.store.url) as redis:
        while runs := http.get("/runs").raise_for_status().json()["runs"]:
            for run in runs:
                http.delete(f"/runs/{run['run_id']}").raise_for_status()

        def list_leftover_keys() -> list[bytes]:
            """List the keys of runs, and the list of runs; the version of the stored data stays."""
            return [*redis.scan_iter("*{*"), *([b"the list of runs"] if redis.exists("mild:runs") else [])]

        with suppress(TimeoutError):
            wait_until(lambda: not list_leftover_keys(), "an empty store", 75)  # the age from which entries are swept
        keys = list_leftover_keys()
    if keys:
        print(f"left: {keys[:20]}")
    return len(keys)


def list_recoveries(seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """Format the table of faults, with the seconds until a write succeeded."""
    return format_table(
        ("what was broken", "times", "seconds until a write succeeded: median, worst"),
        [(name, len(each), f"{median(each):.2f}, {max(each):.2f}") for name, each in sorted(seconds.items())],
    )


def describe(ledger: Ledger, n_compared: int, disk_kind: str) -> str:
    """Describe what was acknowledged, compared and answered, in sentences."""
    answers = ", ".join(f"{count} x {status}" for status, count in sorted(ledger.statuses.items()))
    return (
        f"{ledger.n_acknowledged} epochs were acknowledged, and {n_compared} compared in the store, over all checks. "
        f"The full disk is {disk_kind}. Answers by status: {answers}."
    )


def measure(options: Namespace) -> Report:
    logging.getLogger("mild_client").setLevel(logging.ERROR)  # retries are expected
    outcome = cause_faults(options.rounds, options.trainings, options.seed)
    ledger = outcome.ledger
    claims = [
        claim_none("epochs acknowledged and lost, half-written, or not as sent", ledger.wrong),
        Claim("longest until a write succeeds again", outcome.worst, "below", BACK_SECONDS, "{:.2f} s"),
        Claim("keys left when every run was deleted", outcome.n_left, "at most", 0),
    ]
    about = f"{describe(ledger, outcome.n_compared, outcome.disk)} {outcome.n_answers} answers were compared meanwhile."
    complaints = [*ledger.wrong, *([outcome.log] if ledger.wrong else [])]
    text = list_recoveries(outcome.seconds)
    return Report("What is broken while trainings stream", claims, about, text, complaints)


BENCHMARK = Benchmark(
    "faults",
    "docs/operations.md#when-something-fails",
    measure,
    options={"rounds": 200, "trainings": 8, "seed": 0},
    short={"rounds": 12},
    packages=("fastapi", "uvicorn", "redis", "httpx"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
