"""Memory of the service while it receives a long prediction log, an NDJSON body that is never held as a whole.

A service and an embedded store in separate processes receive one NDJSON body over loopback that is made while it is
sent: whole epochs of shuffled records with `predicted` and `label` until it has that many bytes. The peak of the
service's resident memory is measured; every epoch must be committed with as many right predictions as were sent.
``--ids`` names the samples by external ids instead of by integers.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from itertools import zip_longest

import httpx
import numpy as np

from benchmarks.claims import Benchmark, Claim, Report, claim_none
from benchmarks.proc import read_peak_kib
from benchmarks.serving import start_service, start_store

BAR_MIB = 300
N_CLASSES = 10
_BLOCK_RECORDS = 20_000


class Body:
    """A log that is made while it is sent.

    Attributes
    ----------
    n_bytes, n_records
        Size so far.
    n_correct
        Number of right predictions of each epoch so far.
    """

    def __init__(self, n_bytes: int, n_samples: int, ids: bool) -> None:
        self._min_bytes = n_bytes
        self._samples = [f'"{name}"' for name in list_ids(n_samples)] if ids else [str(n) for n in range(n_samples)]
        self.n_bytes = self.n_records = 0
        self.n_correct: list[int] = []

    def __iter__(self) -> Iterator[bytes]:
        rng = np.random.default_rng(0)
        n_samples = len(self._samples)
        labels = rng.integers(0, N_CLASSES, n_samples)
        while self.n_bytes < self._min_bytes:
            epoch = len(self.n_correct)
            predicted = np.where(rng.random(n_samples) < 0.7, labels, rng.integers(0, N_CLASSES, n_samples))
            self.n_correct.append(int((predicted == labels).sum()))
            order = rng.permutation(n_samples)
            for start in range(0, n_samples, _BLOCK_RECORDS):
                part = order[start : start + _BLOCK_RECORDS]
                names = map(self._samples.__getitem__, part.tolist())
                rows = zip(names, predicted[part].tolist(), labels[part].tolist(), strict=True)
                lines = [f'{{"epoch": {epoch}, "sample": {s}, "predicted": {p}, "label": {c}}}\n' for s, p, c in rows]
                block = "".join(lines).encode()
                self.n_bytes += len(block)
                self.n_records += len(lines)
                yield block


def list_ids(n_samples: int) -> list[str]:
    """List external ids like those of a data set of images."""
    return [f"train/class-{number % 1000:04}/image-{number:09}.jpeg" for number in range(n_samples)]


def measure(options: Namespace) -> Report:
    body = Body(options.bytes, options.samples, options.ids)
    with (
        start_store() as server,
        start_service(server.url) as service,
        httpx.Client(base_url=service.url, timeout=None) as client,
    ):
        client.put("/runs/a", json={"num_samples": options.samples}).raise_for_status()
        if options.ids:
            lines = "\n".join(list_ids(options.samples))
            client.put("/runs/a/sample-ids", content=lines, headers={"Content-Type": "text/plain"}).raise_for_status()
        before = read_peak_kib(service.process.pid, alone=True) / 1024
        started = time.perf_counter()
        answer = client.post(
            "/runs/a/predictions", content=iter(body), headers={"Content-Type": "application/x-ndjson"}
        )
        seconds = time.perf_counter() - started
        peak = read_peak_kib(service.process.pid, alone=True) / 1024
    if answer.is_error:
        raise RuntimeError(answer.text)
    epochs = answer.json()["epochs"]
    states = [(epoch["state"], epoch["num_correct"]) for epoch in epochs]
    expected = [("committed", n_correct) for n_correct in body.n_correct]
    wrong = [state for state, right in zip_longest(states, expected) if state != right]
    claims = [
        Claim(
            "memory of the service's process while a log of any length streams in", peak, "below", BAR_MIB, "{:.0f} MiB"
        ),
        claim_none("epochs of it with other counts than were sent", wrong),
    ]
    about = (
        f"{body.n_bytes / 1e9:.3f} GB of NDJSON, {body.n_records:,} records, {len(epochs)} epochs, in {seconds:.0f} s: "
        f"{body.n_records / seconds / 1e6:.2f} million records a second, with the making of the body. The service took "
        f"{before:.0f} MiB before. It and an embedded store in processes of their own, on loopback; one run."
    )
    return Report("A long prediction log, streamed", claims, about, complaints=list(map(str, wrong)))


BENCHMARK = Benchmark(
    "stream",
    "docs/operations.md#what-requests-may-take",
    measure,
    options={"bytes": 2_000_000_000, "samples": 1_000_000, "ids": False},
    short={"bytes": 200_000_000},
    packages=("fastapi", "uvicorn", "orjson", "numpy"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
