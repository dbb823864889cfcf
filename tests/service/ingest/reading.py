"""A log read as the service reads it, in pieces, and a log to read."""

import io
import itertools
import tempfile
from collections.abc import Sequence
from contextlib import closing
from typing import IO, cast

from mild_service import ingest
from mild_service.ingest import FORMATS, SANDBOXED
from mild_service.ingest.columns import Batch, LogLimits
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


class _Pieces(io.RawIOBase):
    """A stream whose reads end at the cuts."""

    def __init__(self, body: bytes, cuts: Sequence[int]) -> None:
        edges = sorted({0, *(cut % (len(body) + 1) for cut in cuts), len(body)})
        self._pieces = [body[a:b] for a, b in itertools.pairwise(edges)]

    def read(self, size: int = -1) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]


def read_batches(media_type: str, body: bytes, cuts: Sequence[int] = (), limits: LogLimits = LIMITS) -> list[Batch]:
    with tempfile.TemporaryFile() as file:
        file.write(body)
        content = file if FORMATS[media_type] in SANDBOXED else cast(IO[bytes], _Pieces(body, cuts))
        with closing(ingest.read_batches(media_type, content, limits, SANDBOX)) as batches:
            return list(batches)


def read(media_type: str, body: bytes, cuts: Sequence[int] = (), limits: LogLimits = LIMITS) -> list[tuple[int, ...]]:
    """Number, round, epoch, sample and correct of every record."""
    out: list[tuple[int, ...]] = []
    for batch in read_batches(media_type, body, cuts, limits):
        columns = (batch.rows.numbers, batch.rounds, batch.epochs, batch.samples, batch.correct)
        out += zip(*(column.tolist() for column in columns), strict=True)
    return out
