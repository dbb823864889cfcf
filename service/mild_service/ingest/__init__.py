"""Prediction logs: readers turn a byte stream in one of six formats into batches of columns, and those into bits."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mild_service.errors import BadRecord, UnsupportedMediaType
from mild_service.ingest.accumulator import (
    LoadEpoch,
    LogAccumulator,
    StoredEpoch,
    check_classes,
    check_indices,
    collect_rounds,
)
from mild_service.ingest.columns import Batch, EpochKey, LogLimits, Reader
from mild_service.ingest.sample_resolvers import (
    NewSampleResolver,
    RunSampleResolver,
    SampleResolver,
    SamplesBy,
)

if TYPE_CHECKING:  # the reading process does not import it
    from mild_service.ingest.sandbox import Sandbox

__all__ = [
    "FORMATS",
    "NDJSON",
    "BadRecord",
    "Batch",
    "EpochKey",
    "LoadEpoch",
    "LogAccumulator",
    "LogLimits",
    "NewSampleResolver",
    "Reader",
    "RunSampleResolver",
    "SampleResolver",
    "SamplesBy",
    "StoredEpoch",
    "check_classes",
    "check_indices",
    "collect_rounds",
    "open_reader",
]

_SANDBOXED = ("arrow", "parquet")
"""Formats of a C++ library that trusts offsets and lengths in the body; a separate process reads each such body."""

NDJSON = "application/x-ndjson"
FORMATS = {
    "application/json": "json_array.JsonReader",
    NDJSON: "ndjson.NdjsonReader",
    "text/csv": "csv_table.CsvReader",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/vnd.apache.arrow.file": "arrow",
    "application/vnd.apache.parquet": "parquet",
    "application/x-cartography+ndjson": "cartography.CartographyReader",
}
"""The reader of each content type: a class in a module of this package, or a format of `sandbox_worker`."""


def open_reader(media_type: str, limits: LogLimits, sandbox: "Sandbox") -> Reader:
    """Return a reader of one body in the format of its media type.

    Parameters
    ----------
    media_type
        One of `FORMATS`.
    limits
        Limits of the log.
    sandbox
        Reads Arrow and Parquet bodies, in separate processes.
    """
    name = FORMATS.get(media_type)
    if name is None:
        raise UnsupportedMediaType(f"content type {media_type!r} is not a log format; send {', '.join(FORMATS)}")
    if name in _SANDBOXED:
        if find_spec("pyarrow") is None:
            raise UnsupportedMediaType(
                f"this service reads no {media_type}, as pyarrow is not installed; install mild-selection[formats] "
                "there, or send application/x-ndjson or text/csv"
            )
        from mild_service.ingest.sandbox import SandboxReader

        return SandboxReader(limits, name, sandbox)
    module, class_name = name.split(".")
    reader: Reader = getattr(import_module(f"mild_service.ingest.{module}"), class_name)(limits)
    return reader
