"""The embedded store broken while trainings stream: it recovers by itself, and acknowledged data stay.

One service (`mild-service serve --embedded`), which is never started again, and trainings that write epochs in every
way, through the project's client. Each round causes a fault at a random time, waits until a write succeeds again, and
compares every epoch in the store with the bits that were sent. The path of the data folder is too long for a socket, so
that the socket is in a separate folder, which is removed, too.
"""

import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import httpx

from benchmarks.claims import Benchmark, Claim, Report, claim_none
from benchmarks.disks import Disk, make_disk
from benchmarks.faults import describe, list_recoveries, wait_for_write
from benchmarks.serving import start_server
from benchmarks.stream_checks import check_store
from benchmarks.streams import KINDS, Ledger, Training
from benchmarks.timing import wait_until

BACK_SECONDS = 10.0
FILE_MARGIN = 10
"""Number of files and connections by which the service may grow: those of current requests."""

_MIN_FILES = 16


@dataclass
class Site:
    """A service with an embedded store, and its disk."""

    disk: Disk
    data_dir: Path
    log: Path
    process: "subprocess.Popen[str]"
    url: str
    rng: random.Random

    @property
    def store_url(self) -> str:
        """URL of the store's socket."""
        return (self.data_dir / "store.url").read_text()

    @property
    def store_pid(self) -> int:
        """Process id of the store that was started last."""
        return int((self.data_dir / "server.lock").read_text())

    def count_files(self) -> int:
        """Count the files and connections that the service holds: the most within half a second."""
        return max(self._count_files_now() for _ in range(50))

    def _count_files_now(self) -> int:
        time.sleep(0.01)
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def find_free_file(self) -> int:
        """Return the number that the next file of the service gets; at least what it may poll at once."""
        numbers = {int(path.name) for path in Path(f"/proc/{self.process.pid}/fd").iterdir()}
        return next(number for number in range(_MIN_FILES, 2**20) if number not in numbers)

    def count_lines(self, text: str) -> int:
        """Count how often the service has logged a text."""
        return self.log.read_text(errors="replace").count(text)


@dataclass
class Outcome:
    """Results of all rounds."""

    ledger: Ledger
    n_compared: int = 0
    n_unavailable: int = 0
    disk: str = ""
    log: str = ""
    n_files: tuple[int, int] = (0, 0)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def kill_store(site: Site) -> None:
    """Kill the store with signal 9."""
    os.kill(site.store_pid, 9)


def kill_without_files(site: Site) -> None:
    """Kill the store while the service can open no file, until a start of the store has failed."""
    n_failures = site.count_lines("did not come up")
    soft, hard = resource.prlimit(site.process.pid, resource.RLIMIT_NOFILE)

    def has_failed() -> bool:
        resource.prlimit(site.process.pid, resource.RLIMIT_NOFILE, (site.find_free_file(), hard))
        return site.count_lines("did not come up") > n_failures

    has_failed()
    kill_store(site)
    wait_until(has_failed, "a start that fails for want of files")
    resource.prlimit(site.process.pid, resource.RLIMIT_NOFILE, (soft, hard))


def fill_disk(site: Site) -> None:
    """Fill the disk until the store has ended, which it does at the first write that fails."""
    pid = site.store_pid
    site.disk.fill(pid, spare=site.rng.randrange(200_000))

    def has_ended() -> bool:
        site.disk.refill()
        return site.store_pid != pid

    wait_until(has_ended, "an end of the store on a full disk")
    time.sleep(site.rng.random())
    site.disk.free(site.store_pid)


def remove_socket(site: Site) -> None:
    """Remove the socket of a running store; open connections are used until the service notices."""
    pid = site.store_pid
    Path(site.store_url.removeprefix("unix://")).unlink()
    wait_until(lambda: site.store_pid != pid, "a start of the store")


def remove_socket_folder(site: Site) -> None:
    """Remove the folder of the socket."""
    pid = site.store_pid
    shutil.rmtree(Path(site.store_url.removeprefix("unix://")).parent)
    wait_until(lambda: site.store_pid != pid, "a start of the store")


FAULTS: dict[str, Callable[[Site], None]] = {
    "`kill -9`": kill_store,
    "`kill -9` while the service may open no file": kill_without_files,
    "full disk": fill_disk,
    "socket removed": remove_socket,
    "socket's folder removed": remove_socket_folder,
}


@contextmanager
def start_site(rng: random.Random) -> Iterator[Site]:
    """Context manager that starts a service, and stops it at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="mild-embedded-")))
        volume = stack.enter_context(make_disk(folder / "disk"))
        data_dir = volume.folder / ("long" * 25)
        log = folder / "service.log"
        words = [sys.executable, "-m", "mild_service.cli", "serve", "--embedded", "--port", "0"]
        settings = {"MILD_LOG_LEVEL": "warning", "MILD_SWEEP_SECONDS": "1", "MILD_RATE_PER_KEY": "0"}
        server = start_server([*words, "--data-dir", str(data_dir)], settings, stack.enter_context(log.open("wb")))
        url, process = stack.enter_context(server)
        yield Site(volume, data_dir, log, process, url, rng)


def note_unavailable(answer: httpx.Response, outcome: Outcome) -> None:
    """Count the answers with 503, which must have ``Retry-After``."""
    if answer.status_code == 503:
        outcome.n_unavailable += 1
        if "retry-after" not in answer.headers:
            outcome.ledger.complain("a 503 without Retry-After")


def cause_faults(n_kills: int, n_others: int, n_trainings: int, seed: int) -> Outcome:
    """Cause faults in random order while trainings stream."""
    rng, ledger = random.Random(seed), Ledger()
    outcome = Outcome(ledger)
    order = [name for name in FAULTS for _ in range(n_kills if name == "`kill -9`" else n_others)]
    rng.shuffle(order)
    with start_site(rng) as site:
        outcome.disk = site.disk.kind
        trainings = [Training(site.url, ledger, KINDS[n % len(KINDS)], n, seed) for n in range(n_trainings)]
        for training in trainings:
            training.start()
        wait_until(lambda: ledger.n_acknowledged >= 10 * n_trainings, "progress of the trainings", 120)
        n_files = site.count_files()
        for name in order:
            goal = ledger.n_acknowledged + rng.randrange(2, 12)
            wait_until(lambda at=goal: ledger.n_acknowledged >= at, "progress of the trainings", 60)  # type: ignore[misc]  # bound now
            time.sleep(0.02 * rng.random())  # at any instant of a write
            try:
                FAULTS[name](site)
                outcome.seconds[name].append(
                    wait_for_write(site.url, BACK_SECONDS, partial(note_unavailable, outcome=outcome))
                )
            except TimeoutError:
                print(f"after {name}, the service: {site.log.read_text(errors='replace')[-5000:]}")
                raise
            outcome.n_compared += anyio.run(check_store, site.store_url, ledger)
        outcome.n_files = n_files, site.count_files()
        for training in trainings:
            training.stop()
        outcome.n_compared += anyio.run(check_store, site.store_url, ledger)
        if site.process.poll() is not None:
            ledger.complain(f"the service has ended with {site.process.returncode}")
        outcome.log = site.log.read_text(errors="replace")
    return outcome


def measure(options: Namespace) -> Report:
    logging.getLogger("mild_client").setLevel(logging.ERROR)  # retries are expected
    outcome = cause_faults(options.kills, options.others, options.trainings, options.seed)
    ledger, (n_before, n_after) = outcome.ledger, outcome.n_files
    worst = max(max(times) for times in outcome.seconds.values())
    claims = [
        claim_none("epochs acknowledged and lost, and answers that must not be", ledger.wrong),
        Claim("longest until a write succeeds again", worst, "below", BACK_SECONDS, "{:.2f} s"),
        Claim("files and connections that are not closed again", n_after - n_before, "at most", FILE_MARGIN),
    ]
    about = (
        f"{describe(ledger, outcome.n_compared, outcome.disk)} {outcome.n_unavailable} probes were answered with 503 "
        f"and `Retry-After`; {outcome.log.count('repaired ')} last writes were cut short, and moved beside the file."
    )
    complaints = [*ledger.wrong, *([outcome.log[-5000:]] if ledger.wrong else [])]
    text = list_recoveries(outcome.seconds)
    return Report("The embedded store, broken while trainings stream", claims, about, text, complaints)


BENCHMARK = Benchmark(
    "embedded_store",
    "docs/operations.md#when-something-fails",
    measure,
    options={"kills": 50, "others": 5, "trainings": 6, "seed": 0},
    short={"kills": 8, "others": 1},
    packages=("fastapi", "uvicorn", "redis", "httpx"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
