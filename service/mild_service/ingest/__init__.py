"""Prediction logs: readers turn a byte stream in one of six formats into batches of columns, and those into bits."""

from collections.abc import Generator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING

from mild_service.errors import UnsupportedMediaType
from mild_service.ingest.columns import Batch, LogLimits

if TYPE_CHECKING:  # the reading process does not import it
    from mild_service.ingest.sandbox import Sandbox

SANDBOXED = ("arrow", "parquet")
"""Formats of a C++ library that trusts offsets and lengths in the body; a separate process reads each such body."""

NDJSON = "application/x-ndjson"
FORMATS = {
    "application/json": "json_array.read_json",
    NDJSON: "ndjson.read_ndjson",
    "text/csv": "csv_table.read_csv",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/vnd.apache.arrow.file": "arrow",
    "application/vnd.apache.parquet": "parquet",
    "application/x-cartography+ndjson": "cartography.read_cartography",
}
"""The reader of each content type: a function in a module of this package, or a format of `sandbox_worker`."""
_PIECE_BYTES, _CSV_PIECE_BYTES = 256 * 1024, 1024 * 1024
"""Bytes of a text that are parsed at once. More than some thousand objects do not fit into the processor's caches."""


def read_batches(media_type: str, content: IO[bytes], limits: LogLimits, sandbox: "Sandbox") -> Generator[Batch]:
    """Return a generator of the records of a log.

    The generator raises `BadRecord` if a record is invalid, or `MalformedBody` if the log as a whole is.

    Parameters
    ----------
    media_type
        One of `FORMATS`.
    content
        The log; a log in Arrow or Parquet must be in a file of the operating system, or in a `SpooledTemporaryFile`.
    limits
        Limits of the log.
    sandbox
        Reads Arrow and Parquet, in separate processes.
    """
    name = FORMATS.get(media_type)
    if name is None:
        raise UnsupportedMediaType(f"content type {media_type!r} is not a log format; send {', '.join(FORMATS)}")
    if name in SANDBOXED:
        if find_spec("pyarrow") is None:
            raise UnsupportedMediaType(
                f"this service reads no {media_type}, as pyarrow is not installed; install mild-selection[formats] "
                "there, or send application/x-ndjson or text/csv"
            )
        from mild_service.ingest.sandbox import read_table

        return read_table(name, content, limits, sandbox)
    module, function = name.split(".")
    read = getattr(import_module(f"mild_service.ingest.{module}"), function)
    n_bytes = _CSV_PIECE_BYTES if media_type == "text/csv" else _PIECE_BYTES
    batches: Generator[Batch] = read(iter(partial(content.read, n_bytes), b""), limits)
    return batches
