"""Arrow's IPC stream. Only `reading` imports this, beside the service."""

from collections.abc import Iterator
from typing import Any

import pyarrow

from mild_service.ingest.tables import wanted


def tables(source: Any) -> Iterator[Any]:
    """The record batches in a file of pyarrow's, of any length."""
    schema = pyarrow.ipc.open_stream(source).schema
    known = wanted(schema.names, "stream")
    source.seek(0)
    options = pyarrow.ipc.IpcReadOptions(
        use_threads=False, included_fields=[schema.names.index(name) for name in known]
    )
    yield from pyarrow.ipc.open_stream(source, options=options)
