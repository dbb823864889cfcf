"""Hostile but authorised tenants: the latency of another key's small requests, and the memory of the service.

A service with a process budget of 4 GiB on a real store, a process that sends small requests with one key, and twelve
tenants with other keys, one at a time and then all at once. The memory of the service and its workers is read every
20 ms; beyond the budget the service is killed, as a container would be.
"""

import gzip
import http.client
import json
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.synchronize import Event, Semaphore
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.claims import Benchmark, Claim, Report, claim_none, format_table
from benchmarks.proc import ALLOCATOR, read_resident_kib
from benchmarks.serving import RunningService, start_service, start_store

BUDGET = 4 * 2**30
BAR_TAIL = 10.0
"""Greatest ratio of the 99th percentile of small requests with tenants to that without."""
N_SMALL, N_LARGE, N_WIDE = 10_000, 10_000_000, 100_000_000
OCTETS = "application/octet-stream"
_FAILED = 10.0
"""Seconds after which a small request counts as failed."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A client with one key."""

    url: str
    key: str

    def connect(self, timeout: float = 120.0) -> http.client.HTTPConnection:
        """Return a new connection."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)

    def ask(
        self, method: str, path: str, body: bytes | None = None, timeout: float = 120.0, **headers: str
    ) -> tuple[int, bytes]:
        """Send a request over a new connection; return the status and the body of the answer."""
        connection = self.connect(timeout)
        try:
            all_headers = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Authorization": f"Bearer {self.key}", **all_headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def open(self, method: str, path: str, *headers: str) -> socket.socket:
        """Open a socket, and send the head of a request on it."""
        parts = urlsplit(self.url)
        connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.key}", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        return connection


Tenant = Callable[[Caller, Event], None]


def repeat(n_threads: int, stop: Event, work: Callable[[int], object]) -> None:
    """Call `work` with the thread's number repeatedly in threads, and ignore errors of the connection."""

    def loop(number: int) -> None:
        while not stop.is_set():
            with suppress(OSError, http.client.HTTPException):
                work(number)
            time.sleep(0.01)

    for number in range(n_threads):
        Thread(target=loop, args=(number,), daemon=True).start()
    stop.wait()


def hold_sockets(n_sockets: int, stop: Event, connect: Callable[[int], socket.socket], feed: bytes = b"") -> None:
    """Hold so many connections, send `feed` on each every second, and reopen those that were closed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    connections: dict[int, socket.socket] = {}
    while not stop.is_set():
        for number in range(n_sockets):
            if stop.is_set():
                return
            with suppress(OSError):
                if number not in connections:
                    connections[number] = connect(number)
            try:
                if number in connections and feed:
                    connections[number].settimeout(0.2)
                    connections[number].sendall(feed)
            except OSError:
                connections.pop(number).close()
        stop.wait(1.0)


def ask_for_a_large_list(caller: Caller, stop: Event) -> None:
    """Send 34 bytes of CSV that name one sample of 2^27, to get a list of all as the answer."""
    log = b"sample,epoch,correct\n134217727,0,1\n"
    path = "/selection?samples_by=indices"
    repeat(4, stop, lambda _: caller.ask("POST", path, log, Content_Type="text/csv", Accept="application/json"))


def send_a_bomb(caller: Caller, stop: Event) -> None:
    """Send kilobytes of gzip that inflate to 8 MB of empty rounds."""
    body = gzip.compress(b'{"rounds":[' + b"{}," * (8 * 2**20 // 3 - 20) + b"{}]}")
    json_type = "application/json"
    repeat(2, stop, lambda _: caller.ask("POST", "/selection", body, Content_Type=json_type, Content_Encoding="gzip"))


def send_logs_slowly(caller: Caller, stop: Event) -> None:
    """Send 32 logs at a kilobyte a second."""
    line = b'{"epoch": 0, "sample": 0, "correct": true}\n'
    head = ("Content-Type: application/x-ndjson", f"Content-Length: {10**6}")
    hold_sockets(32, stop, lambda _: caller.open("POST", "/runs/hostile-small/predictions", *head), 40 * line)


def read_nothing(caller: Caller, stop: Event) -> None:
    """Request a list of ten million samples 40 times, and do not read the answers."""
    head = ("Accept: application/x-npy",)
    hold_sockets(40, stop, lambda _: caller.open("GET", "/selection/hostile-large?round=0", *head))


def _draw_option() -> float:
    """Draw a value of an option that no other request has."""
    return secrets.randbelow(10**8) / 10**9


def fill_the_queue(caller: Caller, stop: Event) -> None:
    """Request 400 selections of a large run at once, each with other options."""
    repeat(400, stop, lambda _: caller.ask("GET", f"/selection/hostile-large?min_keep={_draw_option()}", Accept=OCTETS))


def ask_for_scores(caller: Caller, stop: Event) -> None:
    """Request the scores of all samples of a large run 40 times at once, each computed separately."""
    repeat(40, stop, lambda _: caller.ask("GET", f"/runs/hostile-large/scores?min_keep={_draw_option()}&limit=10"))


def look_at_tables(caller: Caller, stop: Event) -> None:
    """Request 16 tables of a large run at once, each with other options."""
    repeat(16, stop, lambda _: caller.ask("GET", f"/runs/hostile-large/samples/0?min_keep={_draw_option()}"))


def ask_for_csv(caller: Caller, stop: Event) -> None:
    """Request CSV of ten million samples, eight times at once."""
    repeat(8, stop, lambda _: caller.ask("GET", "/selection/hostile-large?round=0", Accept="text/csv"))


def open_streams(caller: Caller, stop: Event) -> None:
    """Open 1,000 event streams."""
    hold_sockets(1000, stop, lambda _: caller.open("GET", "/runs/hostile-small/events"))


def stop_within_bodies(caller: Caller, stop: Event) -> None:
    """Start to put 120 epochs of a run of 10^8 samples, and stop within each body."""
    head = (f"Content-Type: {OCTETS}", f"Content-Length: {N_WIDE // 4}")
    piece = bytes(2**20)

    def send(number: int) -> socket.socket:
        connection = caller.open("PUT", f"/runs/hostile-wide/rounds/0/epochs/{number}", *head)
        for _ in range(N_WIDE // 4 // 2**20):
            connection.sendall(piece)
        return connection

    hold_sockets(120, stop, send)


def log_to_a_wide_run(caller: Caller, stop: Event) -> None:
    """Send logs of six records to six epochs of a run of 10^8 samples, sixteen at once."""
    records = b"".join(b'{"epoch": %d, "sample": 0, "predicted": 1, "label": 2}\n' % epoch for epoch in range(6))
    path, ndjson = "/runs/hostile-wide/predictions?complete=false", "application/x-ndjson"
    repeat(16, stop, lambda _: caller.ask("POST", path, records, Content_Type=ndjson))


def open_connections(caller: Caller, stop: Event) -> None:
    """Open 4,000 connections that never send a whole head."""
    hold_sockets(4000, stop, lambda _: _open_half(caller))


def _open_half(caller: Caller) -> socket.socket:
    parts = urlsplit(caller.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=2)
    connection.sendall(b"GET /health HTTP/1.1\r\nHost")
    return connection


TENANTS: dict[str, Tenant] = {
    "asks for a list of 2^27 in 34 bytes": ask_for_a_large_list,
    "sends 8 MB of empty rounds as gzip": send_a_bomb,
    "sends 32 logs at 1 kB/s": send_logs_slowly,
    "does not read 40 lists of 10^7": read_nothing,
    "queues 400 selections of 10^7": fill_the_queue,
    "asks for 40 x 10^7 scores": ask_for_scores,
    "looks at 16 tables of 10^7": look_at_tables,
    "asks for 8 x 10^7 lines of CSV": ask_for_csv,
    "opens 1,000 event streams": open_streams,
    "stops within 120 bodies of 25 MB": stop_within_bodies,
    "logs to 6 epochs of 10^8, 16 times": log_to_a_wide_run,
    "opens 4,000 connections": open_connections,
}


def run_tenant(name: str, caller: Caller, stop: Event, started: Semaphore) -> None:
    """Run a tenant at the least priority, so that it does not slow the service down, as on another machine."""
    started.release()
    os.nice(19)
    TENANTS[name](caller, stop)


@dataclass(slots=True)
class RequestLog:
    """Times and failures of small requests."""

    times: dict[str, list[float]] = field(default_factory=dict)
    """Seconds by kind of request."""
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> list[float]:
        """Seconds of all answered requests."""
        return [value for values in self.times.values() for value in values]

    @property
    def tail(self) -> float:
        """99th percentile of the seconds; a failed request counts with the longest time that one may take."""
        return float(np.percentile([*self.seconds, *[_FAILED] * sum(self.failed.values())], 99))


def send_small_requests(caller: Caller, seconds: float, queue: Any) -> None:
    """Send the requests of a small training one after the other, and put their log into a queue."""
    rng, log, end, epoch = np.random.default_rng(0), RequestLog(), time.monotonic() + seconds, 1
    name = f"small-{secrets.token_hex(4)}"
    json_type = {"Content_Type": "application/json"}

    def ask(what: str, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        if time.monotonic() > end:
            return
        began = time.perf_counter()
        try:
            status: int | str = caller.ask(method, path, body, _FAILED, **headers)[0]
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        if isinstance(status, int) and status < 400:
            log.times.setdefault(what, []).append(time.perf_counter() - began)
        else:
            log.failed[f"{what}: {status}"] = log.failed.get(f"{what}: {status}", 0) + 1

    opening = json.dumps({"num_samples": N_SMALL}).encode()
    ask("open", "PUT", f"/runs/{name}", opening, **json_type)
    ask("open", "PUT", f"/runs/{name}-log", opening, **json_type)
    records = b"".join(b'{"epoch": 0, "sample": %d, "correct": true}\n' % i for i in range(100))
    while time.monotonic() < end:
        ask("epoch", "PUT", f"/runs/{name}/rounds/0/epochs/{epoch}", rng.bytes(N_SMALL // 8), Content_Type=OCTETS)
        ask("run", "GET", f"/runs/{name}")
        ask("selection", "GET", f"/selection/{name}", Accept=OCTETS)
        ask("log", "POST", f"/runs/{name}-log/predictions", records, Content_Type="application/x-ndjson")
        ask("sample", "GET", f"/runs/{name}/samples/0")
        _open_stream(caller, name, log)
        epoch += 1
    queue.put(log)


def _open_stream(caller: Caller, name: str, log: RequestLog) -> None:
    """Open an event stream, and read its first bytes."""
    began = time.perf_counter()
    try:
        with caller.open("GET", f"/runs/{name}/events") as stream:
            status = stream.recv(64).split()[1].decode()
    except (OSError, IndexError) as error:
        status = type(error).__name__
    if status == "200":
        log.times.setdefault("stream", []).append(time.perf_counter() - began)
    else:
        log.failed[f"stream: {status}"] = log.failed.get(f"stream: {status}", 0) + 1


class MemoryWatch:
    """Reads the memory of a service and its workers; kills the service beyond the budget."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._is_over = False
        self.peak = 0
        self.killed = False
        self._thread = Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._is_over = True
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over:
            memory = read_resident_kib(self._process.pid) * 1024
            self.peak = max(self.peak, memory)
            if memory > BUDGET and not self.killed:
                self.killed = True
                self._process.send_signal(signal.SIGKILL)
            self.killed = self.killed or self._process.poll() is not None
            time.sleep(0.02)


def prepare(caller: Caller) -> None:
    """Open the tenants' runs: one of 10 samples, one of 10^7 and 8 epochs with a finished round, and one of 10^8."""
    rng = np.random.default_rng(0)
    for name, n_samples in (("small", 10), ("large", N_LARGE), ("wide", N_WIDE)):
        opening = json.dumps({"num_samples": n_samples, "expected_epochs": 8}).encode()
        _check_answer(caller.ask("PUT", f"/runs/hostile-{name}", opening, Content_Type="application/json"))
    for round_ in range(2):
        for epoch in range(8):
            path = f"/runs/hostile-large/rounds/{round_}/epochs/{epoch}"
            _check_answer(caller.ask("PUT", path, rng.bytes(N_LARGE // 8), Content_Type=OCTETS))
        if not round_:
            _check_answer(caller.ask("POST", "/runs/hostile-large/rounds/0/finish"))


def warm_up(caller: Caller) -> None:
    """Request a selection that is not cached, so that the workers have started."""
    name = f"warm-{secrets.token_hex(4)}"
    opening = json.dumps({"num_samples": N_SMALL}).encode()
    _check_answer(caller.ask("PUT", f"/runs/{name}", opening, Content_Type="application/json"))
    _check_answer(caller.ask("PUT", f"/runs/{name}/rounds/0/epochs/0", bytes(N_SMALL // 8), Content_Type=OCTETS))
    _check_answer(caller.ask("GET", f"/selection/{name}", Accept=OCTETS))


def _check_answer(answer: tuple[int, bytes]) -> None:
    if answer[0] >= 300:
        raise RuntimeError(f"{answer[0]}: {answer[1][:300]!r}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Log of the small requests with tenants, the greatest memory, and whether the service was killed."""

    log: RequestLog
    peak: int
    killed: bool


def measure_requests(service: RunningService, keys: dict[str, str], tenants: list[str], seconds: float) -> Outcome:
    """Measure small requests while tenants run."""
    context = get_context("spawn")
    stop, started, results = context.Event(), context.Semaphore(0), context.Queue()
    processes = [
        context.Process(target=run_tenant, args=(name, Caller(service.url, keys[name]), stop, started), daemon=True)
        for name in tenants
    ]
    warm_up(Caller(service.url, keys["small"]))
    watch = MemoryWatch(service.process)
    for process in processes:
        process.start()
    for _ in processes:
        started.acquire()
    if processes:
        time.sleep(2.0)
    client = context.Process(target=send_small_requests, args=(Caller(service.url, keys["small"]), seconds, results))
    client.start()
    log = results.get(timeout=seconds + 12 * 120)
    client.join()
    stop.set()
    for process in processes:
        process.kill()
        process.join()
    watch.stop()
    return Outcome(log, watch.peak, watch.killed)


@contextmanager
def serve(store_url: str, keys: dict[str, str]) -> Iterator[RunningService]:
    """Context manager of a service with a memory budget."""
    words = [f"{secrets.token_hex(3)}:admin::{key}" for key in keys.values()]
    variables = {
        **ALLOCATOR,
        "MILD_API_KEYS": ",".join(words),
        "MILD_MEMORY": str(BUDGET),
        "MILD_LOG_LEVEL": "critical",
    }
    with start_service(store_url, variables) as service:
        yield service
        service.process.kill()  # do not wait for its queue


def measure_all(names: Sequence[str], seconds: float) -> dict[str, Outcome]:
    """Measure without tenants, with each one and with all at once, each time with a new service."""
    keys = {name: secrets.token_hex(32) for name in ("small", *TENANTS)}
    outcomes: dict[str, Outcome] = {}
    with start_store() as server:
        for name in ("none", *names, "all at once"):
            tenants = {"none": [], "all at once": list(TENANTS)}.get(name, [name])
            with serve(server.url, keys) as service:
                if name == "none":
                    prepare(Caller(service.url, keys["small"]))
                outcomes[name] = measure_requests(service, keys, tenants, seconds)
            print(f"{name}: {describe(outcomes[name], outcomes['none'])}", flush=True)
    return outcomes


def describe(outcome: Outcome, baseline: Outcome) -> tuple[str, ...]:
    """Return the cells of a row of the table."""
    log = outcome.log
    tail = f"{1000 * log.tail:.0f} ms ({log.tail / baseline.log.tail:.1f}x)"
    failures = ", ".join(f"{what} {n}" for what, n in sorted(log.failed.items()))
    return tail, str(len(log.seconds)), failures or "0", f"{outcome.peak / 2**30:.2f} GiB"


def measure(options: Namespace) -> Report:
    names = [name for name in TENANTS if not options.tenants[0] or any(each in name for each in options.tenants)]
    outcomes = measure_all(names, options.seconds)
    baseline = outcomes["none"]
    ratio = max(outcome.log.tail for outcome in outcomes.values()) / baseline.log.tail
    peak = max(outcome.peak for outcome in outcomes.values()) / 2**30
    fatal_tenants = [name for name, outcome in outcomes.items() if outcome.killed]
    claims = [
        Claim(
            "99th percentile of small requests beside hostile tenants, over that alone",
            ratio,
            "at most",
            BAR_TAIL,
            "{:.1f} x",
        ),
        Claim("most memory of the service and its workers", peak, "at most", BUDGET / 2**30, "{:.2f} GiB"),
        claim_none("tenants that end the service", fatal_tenants),
    ]
    about = (
        "The service, its store, the small requests and, at the least priority, the tenants share the cores; one "
        f"run. A process budget of {BUDGET / 2**30:g} GiB for the service and its workers, beyond which it is killed. "
        "Small requests of one key (an epoch of 10,000 samples, the run, its set, a log of 100 records, a sample, an "
        "event stream), one after the other, beside tenants with keys of their own; a failed request counts "
        f"{_FAILED:g} s."
    )
    rows = [(name, *describe(outcome, baseline)) for name, outcome in outcomes.items()]
    heads = ("tenant", "99th percentile (ratio to that alone)", "answered", "failed", "most memory")
    return Report("Neighbours", claims, about, format_table(heads, rows), fatal_tenants)


BENCHMARK = Benchmark(
    "neighbours",
    "docs/operations.md#what-requests-may-take",
    measure,
    options={"seconds": 6.0, "tenants": ("",)},
    short={"seconds": 3.0, "tenants": ("2^27", "gzip", "400 selections", "1,000 event")},
    packages=("fastapi", "redis", "numpy"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
