"""Arrow's IPC stream."""

from collections.abc import Iterator
from typing import Any

import pyarrow

from mild_service.ingest.arrow_messages import check_messages
from mild_service.ingest.records import Limits
from mild_service.ingest.spool import SpoolReader, wanted


def _tables(path: str, limits: Limits) -> Iterator[Any]:
    with pyarrow.memory_map(path) as source:  # nothing is allocated for what a header only claims
        schema = pyarrow.ipc.open_stream(source).schema
        known = wanted(schema.names, "stream")
        source.seek(0)
        check_messages(source, limits)
        source.seek(0)
        options = pyarrow.ipc.IpcReadOptions(
            use_threads=False, included_fields=[schema.names.index(name) for name in known]
        )
        yield from pyarrow.ipc.open_stream(source, options=options)


def open_reader(limits: Limits) -> SpoolReader:
    """A reader of one body."""
    return SpoolReader(limits, "Arrow IPC stream", _tables)
