"""Parquet. Only `reading` imports this, beside the service."""

from collections.abc import Iterator
from typing import Any

from pyarrow import parquet

from mild_service.ingest.blocks import BATCH_ROWS
from mild_service.ingest.tables import wanted


def tables(source: Any) -> Iterator[Any]:
    """The record batches in a file of pyarrow's, of any length."""
    metadata = parquet.read_metadata(source)
    known = wanted(metadata.schema.to_arrow_schema().names, "file")
    source.seek(0)
    leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    # Ids stay in their dictionary: spelt out, one long text may stand in every row.
    shared = [name for name in leaves if name == "sample"]
    with parquet.ParquetFile(source, metadata=metadata, read_dictionary=shared) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=known, use_threads=False)
