"""A log read as the service reads it, in pieces, and a log to read."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing

from mild_service.ingest import LogLimits, open_reader
from mild_service.ingest.sandbox import Sandbox
from tests.service.ingest.logs import Record

LIMITS = LogLimits(
    n_samples=100,
    n_rounds=4,
    n_epochs=50,
    n_records=10_000,
    record_bytes=1000,
    n_cells=5000,
)

SANDBOX = Sandbox(n_bytes=2**27, seconds=60)

RECORDS: list[Record] = [
    {"epoch": int(e), "sample": int(s), "correct": bool((e * s) % 3)} for e in range(7) for s in range(0, 100, 3)
]


def pieces(body: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    yield from (body[a:b] for a, b in itertools.pairwise(edges))


def read(media_type: str, body: bytes, cuts: Sequence[int] = (), limits: LogLimits = LIMITS) -> list[tuple[int, ...]]:
    """Number, round, epoch, sample and correct of every record."""
    out: list[tuple[int, ...]] = []
    with closing(open_reader(media_type, limits, SANDBOX)) as reader:
        batches = [batch for piece in pieces(body, cuts) for batch in reader.feed(piece)]
        for batch in [*batches, *reader.end()]:
            columns = (batch.rows.numbers, batch.rounds, batch.epochs, batch.samples, batch.correct)
            out += zip(*(column.tolist() for column in columns), strict=True)
    return out
