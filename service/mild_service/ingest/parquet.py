"""Parquet."""

from collections.abc import Iterator
from typing import Any

import pyarrow
from pyarrow import parquet

from mild_service.ingest.records import Limits
from mild_service.ingest.spool import BATCH_ROWS, SpoolReader, wanted


def _tables(path: str) -> Iterator[Any]:
    with pyarrow.memory_map(path) as source, parquet.ParquetFile(source) as file:
        known = wanted(file.schema_arrow.names, "file")
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=known, use_threads=False)


def open_reader(limits: Limits) -> SpoolReader:
    """A reader of one body."""
    return SpoolReader(limits, "Parquet file", _tables)
