"""How fast the service receives epochs, relative to a bare handler, and records of logs in each format.

Epochs of 1,281,167 bits (160 kB) with all checks on, eight clients, through a real port to one worker, and the same
with the least that a service could do, on the same store with the same fsync: batches of both in turn. Then one log of
20 epochs, samples shuffled, in each format, from a file as the service reads it: decoded, checked and turned into bits,
without the network and the store, in seconds of one core, including the processes that read Arrow and Parquet.
"""

import csv
import io
import os
import sys
import time
from argparse import Namespace
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import orjson
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from benchmarks import puts
from benchmarks.claims import Benchmark, Claim, Report, format_table
from benchmarks.timing import time_interleaved
from mild_service.ingest import read_batches
from mild_service.ingest.accumulator import LogAccumulator
from mild_service.ingest.columns import LogLimits
from mild_service.ingest.sandbox import Sandbox

N_EPOCHS = 20
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
TIMES = {ARROW: 20, PARQUET: 20}
"""How often a log is read in a row: the time of other processes is known in hundredths of a second."""
BARS = {
    "application/x-ndjson": 1,
    "text/csv": 3,
    ARROW: 15,
    PARQUET: 15,
}
"""Least millions of records a second of one core."""


def make_bodies(bits: NDArray[np.bool_]) -> dict[str, bytes]:
    """Make a log in every format from bits, shape (n_epochs, n_samples), with the samples of each epoch shuffled."""
    rng = np.random.default_rng(0)
    n_epochs, n_samples = bits.shape
    epochs = np.repeat(np.arange(n_epochs), n_samples)
    samples = np.concatenate([rng.permutation(n_samples) for _ in range(n_epochs)])
    correct = bits[epochs, samples]
    rows = list(zip(epochs.tolist(), samples.tolist(), correct.tolist(), strict=True))
    objects = [orjson.dumps({"epoch": e, "sample": s, "correct": c}) for e, s, c in rows]
    dynamics = [
        orjson.dumps({"guid": s, f"logits_epoch_{e}": [1.25, -0.5] if c else [-0.5, 1.25], "gold": 0})
        for e, s, c in rows
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("epoch", "sample", "correct"), *rows])
    table = pyarrow.table({"epoch": epochs, "sample": samples, "correct": correct})
    stream, file = io.BytesIO(), io.BytesIO()
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=100_000)
    parquet.write_table(table, file)
    return {
        "application/json": b"[" + b",".join(objects) + b"]",
        "application/x-ndjson": b"\n".join(objects),
        "text/csv": text.getvalue().encode(),
        "application/vnd.apache.arrow.stream": stream.getvalue(),
        "application/vnd.apache.parquet": file.getvalue(),
        "application/x-cartography+ndjson": b"\n".join(dynamics),
    }


def read_log(media_type: str, body: IO[bytes], limits: LogLimits, sandbox: Sandbox) -> LogAccumulator:
    log = LogAccumulator(limits)
    body.seek(0)
    with closing(read_batches(media_type, body, limits, sandbox)) as batches:
        for batch in batches:
            log.add_batch(batch)
    return log


def read_log_repeatedly(media_type: str, body: IO[bytes], limits: LogLimits, sandbox: Sandbox) -> None:
    for _ in range(TIMES.get(media_type, 1)):
        read_log(media_type, body, limits, sandbox)


def read_processor_seconds(sandbox: Sandbox) -> float:
    """Read the processor time of this process, of a sandbox and of the processes that it has started."""
    fields = Path(f"/proc/{sandbox.pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def measure(options: Namespace) -> Report:
    epochs = puts.measure_rates(options.pairs)
    limits = LogLimits(options.records // N_EPOCHS, 1, N_EPOCHS, 2**40, 2**20, 2**40)
    logs = make_bodies(np.random.default_rng(0).random((N_EPOCHS, options.records // N_EPOCHS)) < 0.7)
    with closing(Sandbox(2**29, 600)) as sandbox, ExitStack() as stack:
        files = {media_type: stack.enter_context(TemporaryFile()) for media_type in logs}
        for media_type, file in files.items():
            file.write(logs[media_type])
        works = [partial(read_log_repeatedly, media_type, file, limits, sandbox) for media_type, file in files.items()]
        read_log(PARQUET, files[PARQUET], limits, sandbox)  # which starts the sandbox
        times = time_interleaved(works, options.repeats, warm=1, clock=partial(read_processor_seconds, sandbox))
    rates = {
        media_type: TIMES.get(media_type, 1) * options.records / seconds / 1e6
        for media_type, seconds in zip(logs, times, strict=True)
    }
    claims = [Claim("epochs put a second, over a bare handler's", epochs.ratio, "at least", puts.BAR, "{:.2f} x")]
    claims += [
        Claim(f"records a second and core, {media_type}", rates[media_type], "at least", bar, "{:.1f} million")
        for media_type, bar in BARS.items()
    ]
    about = (
        f"Epochs of {puts.N_SAMPLES:,} bits from {puts.N_CLIENTS} clients to one worker, with key, digest and attempt "
        f"checked: {epochs.ours:.0f} a second; a bare FastAPI and redis handler that checks nothing, on the same store "
        f"(appendfsync always): {epochs.bare:.0f}; medians of {options.pairs} pairs of batches in turn."
    )
    rows = [(media_type, f"{len(body) / 1e6:.1f}", f"{rates[media_type]:.2f}") for media_type, body in logs.items()]
    heads = ("content type", "MB", "million records a second of one core")
    return Report("What the service takes", claims, about, format_table(heads, rows))


BENCHMARK = Benchmark(
    "ingest",
    "docs/operations.md#sizing",
    measure,
    options={"records": 1_000_000, "repeats": 5, "pairs": 10},
    short={"records": 400_000, "repeats": 3},
    packages=("fastapi", "uvicorn", "redis", "numpy", "orjson", "pyarrow"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
