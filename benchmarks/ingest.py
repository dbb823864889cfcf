"""How fast the service takes what it is sent: epochs beside a bare handler, and records of logs, format by format.

usage: python -m benchmarks.ingest [--records 1000000] [--repeats 5] [--pairs 10]

Epochs of 1,281,167 bits (160 kB) with all checks on, eight clients, through a real port to one worker, beside the least
that a service could do, on the same store with the same fsync: batches of both in turn. Then one log of 20 epochs,
samples shuffled, in each format, in blocks of 1 MiB as the service reads it: decoded, checked and gathered into bits,
without the network and the store, in seconds of one core, those of the processes that read Arrow and Parquet with them.
Writes ``results/ingest.md``, exits with 1 if a bar is
missed.
"""

import argparse
import csv
import io
import os
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import orjson
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from benchmarks import puts
from benchmarks.timing import interleaved, machine
from mild_service.ingest import LogAccumulator, LogLimits, open_reader
from mild_service.ingest.sandbox import Sandbox

RESULTS = Path(__file__).parent / "results"
N_EPOCHS = 20
BLOCK_BYTES = 1024 * 1024
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
TIMES = {ARROW: 20, PARQUET: 20}
"""How often they are read in a row: the time of other processes is told in hundredths of a second."""
BARS = {
    "application/x-ndjson": 1e6,
    "text/csv": 3e6,
    ARROW: 15e6,
    PARQUET: 15e6,
}


def bodies(bits: NDArray[np.bool_]) -> dict[str, bytes]:
    """Bits of shape (n_epochs, n_samples) as a log in every format, each epoch's samples shuffled."""
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


def read(media_type: str, body: bytes, limits: LogLimits, sandbox: Sandbox) -> LogAccumulator:
    log = LogAccumulator(limits)
    with closing(open_reader(media_type, limits, sandbox)) as reader:
        for start in range(0, len(body), BLOCK_BYTES):
            for batch in reader.feed(body[start : start + BLOCK_BYTES]):
                log.add_batch(batch)
        for batch in reader.end():
            log.add_batch(batch)
    return log


def read_often(media_type: str, body: bytes, limits: LogLimits, sandbox: Sandbox) -> None:
    for _ in range(TIMES.get(media_type, 1)):
        read(media_type, body, limits, sandbox)


def spent(sandbox: Sandbox) -> float:
    """Seconds that this process, a sandbox and the processes that it has started have computed for."""
    fields = Path(f"/proc/{sandbox.pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=10)
    arguments = parser.parse_args()
    epochs = puts.measure(arguments.pairs)
    limits = LogLimits(arguments.records // N_EPOCHS, 1, N_EPOCHS, 2**40, 2**20, 2**40)
    logs = bodies(np.random.default_rng(0).random((N_EPOCHS, arguments.records // N_EPOCHS)) < 0.7)
    with closing(Sandbox(2**29, 600)) as sandbox:
        works = [partial(read_often, media_type, body, limits, sandbox) for media_type, body in logs.items()]
        read(PARQUET, logs[PARQUET], limits, sandbox)  # it starts with the first
        times = interleaved(works, arguments.repeats, warm=1, clock=partial(spent, sandbox))
    lines = [
        "# What the service takes",
        "",
        f"`python -m benchmarks.ingest --records {arguments.records} --repeats {arguments.repeats} --pairs "
        f"{arguments.pairs}`, {machine('fastapi', 'uvicorn', 'redis', 'numpy', 'orjson', 'pyarrow')}; medians.",
        "",
        f"Epochs of {puts.N_SAMPLES:,} bits from {puts.N_CLIENTS} clients to one worker, with key, digest and attempt "
        "checked, beside a bare FastAPI and redis handler that checks nothing, on the same store (appendfsync always), "
        f"{arguments.pairs} pairs of batches in turn:",
        "",
        "| epochs a second | bare handler | ratio | bar |",
        "|---|---|---|---|",
        f"| {epochs.ours:.0f} | {epochs.bare:.0f} | {epochs.ratio:.2f} | at least {puts.BAR} |",
        "",
        "Prediction logs, records a second of one core:",
        "",
        "| content type | MB | million records a second | bar |",
        "|---|---|---|---|",
    ]
    missed = epochs.ratio < puts.BAR
    for (media_type, body), seconds in zip(logs.items(), times, strict=True):
        rate, bar = TIMES.get(media_type, 1) * arguments.records / seconds, BARS.get(media_type)
        missed |= bar is not None and rate < bar
        lines.append(
            f"| {media_type} | {len(body) / 1e6:.1f} | {rate / 1e6:.2f} | {f'{bar / 1e6:.0f}' if bar else ''} |"
        )
    lines += ["", f"Load average of the machine's {os.cpu_count()} cores at the end: {os.getloadavg()[0]:.1f}."]
    text = "\n".join(lines) + "\n"
    print(text)
    (RESULTS / "ingest.md").write_text(text)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
