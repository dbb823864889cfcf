"""Epochs put a second, and those of a bare handler on the same store; a part of `benchmarks.ingest`."""

import base64
import hashlib
import json
import secrets
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from benchmarks.serving import start_server, start_service, start_store
from benchmarks.wire import Connection
from mild_core import bitmap

BAR = 0.5
"""Least ratio to the rate of the bare handler."""
N_SAMPLES = 1_281_167
N_CLIENTS = 8
PER_CLIENT = 25


@dataclass(frozen=True)
class Rates:
    """Epochs a second, medians over the pairs of batches."""

    ours: float
    bare: float

    @property
    def ratio(self) -> float:
        """Our rate over that of the bare handler."""
        return self.ours / self.bare


class PutLoad:
    """`N_CLIENTS` clients that put epochs of one run each, one after another."""

    def __init__(self, url: str, key: str, stack: ExitStack) -> None:
        self._clients = [stack.enter_context(Connection(url)) for _ in range(N_CLIENTS)]
        self._pool = stack.enter_context(ThreadPoolExecutor(N_CLIENTS))
        self._body = bitmap.pack(np.random.default_rng(0).random(N_SAMPLES) < 0.5).tobytes()
        digest = base64.b64encode(hashlib.sha256(self._body).digest()).decode()
        self._key = ("Authorization", f"Bearer {key}")
        self._headers = [
            self._key,
            ("Content-Type", "application/octet-stream"),
            ("Content-Digest", f"sha-256=:{digest}:"),
            ("Mild-Attempt", "1"),
        ]
        self._n_put = 0

    def open_runs(self) -> None:
        """Open a run for each client."""
        opening = json.dumps({"num_samples": N_SAMPLES}).encode()
        for number, client in enumerate(self._clients):
            headers = [self._key, ("Content-Type", "application/json")]
            assert client.send("PUT", f"/runs/put-{number}", headers, opening).status == 201

    def put_batch(self) -> float:
        """Put some epochs; return the rate a second."""
        epochs = range(self._n_put, self._n_put + PER_CLIENT)
        self._n_put += PER_CLIENT
        started = time.perf_counter()
        list(self._pool.map(lambda number: self._put(number, epochs), range(N_CLIENTS)))
        return N_CLIENTS * PER_CLIENT / (time.perf_counter() - started)

    def _put(self, number: int, epochs: range) -> None:
        for epoch in epochs:
            answer = self._clients[number].send(
                "PUT", f"/runs/put-{number}/rounds/0/epochs/{epoch}", self._headers, self._body
            )
            assert answer.status == 201, answer


def measure_rates(pairs: int) -> Rates:
    """Put batches to the service and to the bare handler in turn, on one store, with one worker each."""
    with ExitStack() as stack:
        server = stack.enter_context(start_store())
        key = secrets.token_urlsafe(32)
        # A rate limit that is checked and not reached, and connections that stay open during the other side's turn.
        rate = {"MILD_RATE_PER_KEY": "100000", "MILD_RATE_BURST": "100000"}
        environment = {"MILD_API_KEYS": key, "MILD_IDLE_SECONDS": "600", **rate}
        service = stack.enter_context(start_service(server.url, environment))
        bare_url, _ = stack.enter_context(start_server([sys.executable, "-m", "benchmarks.bare", server.url], {}))
        loads = [PutLoad(service.url, key, stack), PutLoad(bare_url, key, stack)]
        loads[0].open_runs()
        rates = [[load.put_batch() for load in loads] for _ in range(pairs + 2)][2:]
    return Rates(*(statistics.median(column) for column in zip(*rates, strict=True)))
