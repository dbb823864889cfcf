"""What a long prediction log costs the service in memory: an NDJSON body that is never held.

usage: python -m benchmarks.stream [--bytes 2000000000] [--samples 1000000] [--ids] [--out DIR]

A service and an embedded store in processes of their own take one NDJSON body over loopback that is made while it is
sent: whole epochs of shuffled records with `predicted` and `label` until it has that many bytes. Prints the peak of the
service's resident memory; every epoch must be committed with as many right predictions as were sent. Exits with 1 if
that is not so or a bar is missed. ``--ids`` names the samples by external ids instead of by integers.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np

from benchmarks.serving import service, store
from benchmarks.timing import machine

RESULTS = Path(__file__).parent / "results"
BAR_BYTES = 300 * 2**20
N_CLASSES = 10
_BLOCK_RECORDS = 20_000


class Body:
    """A log that is made while it is sent.

    Attributes
    ----------
    n_bytes, n_records
        So far.
    n_correct
        Right predictions of each epoch so far.
    """

    def __init__(self, n_bytes: int, n_samples: int, ids: bool) -> None:
        self._wanted = n_bytes
        self._samples = [f'"{name}"' for name in id_lines(n_samples)] if ids else [str(n) for n in range(n_samples)]
        self.n_bytes = self.n_records = 0
        self.n_correct: list[int] = []

    def __iter__(self) -> Iterator[bytes]:
        rng = np.random.default_rng(0)
        n_samples = len(self._samples)
        labels = rng.integers(0, N_CLASSES, n_samples)
        while self.n_bytes < self._wanted:
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


def id_lines(n_samples: int) -> list[str]:
    """External ids as a data set of images has them."""
    return [f"train/class-{number % 1000:04}/image-{number:09}.jpeg" for number in range(n_samples)]


def resident(pid: int, name: str) -> int:
    """Bytes of resident memory: ``VmRSS`` now, ``VmHWM`` at its peak (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no {name}; this benchmark needs Linux")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=2_000_000_000)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--ids", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    body = Body(arguments.bytes, arguments.samples, arguments.ids)
    with store() as server, service(server.url) as served, httpx.Client(base_url=served.url, timeout=None) as client:
        client.put("/runs/a", json={"num_samples": arguments.samples}).raise_for_status()
        if arguments.ids:
            lines = "\n".join(id_lines(arguments.samples))
            client.put("/runs/a/sample-ids", content=lines, headers={"Content-Type": "text/plain"}).raise_for_status()
        before = resident(served.process.pid, "VmHWM")
        started = time.perf_counter()
        answer = client.post(
            "/runs/a/predictions", content=iter(body), headers={"Content-Type": "application/x-ndjson"}
        )
        seconds = time.perf_counter() - started
        peak = resident(served.process.pid, "VmHWM")
    print(answer.text if answer.is_error else "", end="")
    answer.raise_for_status()
    epochs = answer.json()["epochs"]
    told = [(epoch["state"], epoch["num_correct"]) for epoch in epochs]
    right = told == [("committed", n_correct) for n_correct in body.n_correct]
    options = f"--bytes {arguments.bytes} --samples {arguments.samples}{' --ids' if arguments.ids else ''}"
    text = "\n".join(
        [
            "# A long prediction log, streamed",
            "",
            f"`python -m benchmarks.stream {options}`, {machine('fastapi', 'uvicorn', 'orjson', 'numpy')}; a service "
            "and an embedded store in processes of their own, on loopback, on 2 cores where the body was made too and "
            "other work ran; one run.",
            "",
            "| what | measured | bar |",
            "| --- | --- | --- |",
            f"| body | {body.n_bytes / 1e9:.3f} GB of NDJSON, {body.n_records:,} records, {len(epochs)} epochs | |",
            f"| peak resident memory of the service | {peak / 2**20:.0f} MiB | under {BAR_BYTES // 2**20} MiB |",
            f"| the same before the body | {before / 2**20:.0f} MiB | |",
            f"| time | {seconds:.0f} s, {body.n_records / seconds / 1e6:.2f} million records a second | |",
            f"| epochs committed, with the right counts | {'all' if right else 'not all'} | all |",
            "",
        ]
    )
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "stream.md").write_text(text)
    return 0 if right and peak < BAR_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
