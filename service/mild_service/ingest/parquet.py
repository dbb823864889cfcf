"""Parquet."""

from collections.abc import Iterator
from typing import Any

import pyarrow
from pyarrow import parquet

from mild_service.ingest.parquet_pages import check_pages
from mild_service.ingest.records import Limits
from mild_service.ingest.spool import BATCH_ROWS, SpoolReader, wanted


def _tables(path: str, limits: Limits) -> Iterator[Any]:
    with pyarrow.memory_map(path) as source:
        metadata = parquet.read_metadata(source)
        known = wanted(metadata.schema.to_arrow_schema().names, "file")
        source.seek(0)
        check_pages(memoryview(source.read_buffer()).cast("B"), metadata, known, limits)
        leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        # Ids stay in their dictionary: spelt out, one long text may stand in every row.
        shared = [name for name in leaves if name == "sample"]
        with parquet.ParquetFile(source, metadata=metadata, read_dictionary=shared) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=known, use_threads=False)


def open_reader(limits: Limits) -> SpoolReader:
    """A reader of one body."""
    return SpoolReader(limits, "Parquet file", _tables)
