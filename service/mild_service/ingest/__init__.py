"""Prediction logs: a byte stream in one of six formats into batches of columns, and those into bits."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mild_service.errors import UnsupportedMediaType
from mild_service.ingest.accumulator import Held, Log, Stored, rounds_of
from mild_service.ingest.columns import Batch, Limits, Place, Reader
from mild_service.ingest.sample_names import Names, NewNames, RunNames

if TYPE_CHECKING:  # the process that reads does without it
    from mild_service.ingest.sandbox import Helper

__all__ = [
    "FORMATS",
    "NDJSON",
    "Batch",
    "Held",
    "Limits",
    "Log",
    "Names",
    "NewNames",
    "Place",
    "Reader",
    "RunNames",
    "Stored",
    "open_reader",
    "rounds_of",
]

_BY_HELPER = ("arrow_stream", "parquet")
"""Formats whose bytes hold places and lengths, which a C++ library follows."""

NDJSON = "application/x-ndjson"
FORMATS = {
    "application/json": "json_array",
    NDJSON: "ndjson",
    "text/csv": "csv_table",
    "application/vnd.apache.arrow.stream": "arrow_stream",
    "application/vnd.apache.parquet": "parquet",
    "application/x-cartography+ndjson": "cartography",
}
"""The module that reads a content type."""


def open_reader(media_type: str, limits: Limits, helper: "Helper") -> Reader:
    """A reader of one body; `helper` reads what must not be read in this process.

    Raises
    ------
    UnsupportedMediaType
        If the type is none of `FORMATS`, or needs pyarrow where there is none.
    Overloaded
        If there is no room to keep the body in until it is read.
    """
    name = FORMATS.get(media_type)
    if name is None:
        raise UnsupportedMediaType(f"content type {media_type!r} is no log; send {', '.join(FORMATS)}")
    reader: Reader
    if name in _BY_HELPER:
        if find_spec("pyarrow") is None:
            raise UnsupportedMediaType(
                f"this service reads no {media_type}, as pyarrow is not installed; install mild-selection[formats] "
                "there, or send application/x-ndjson or text/csv"
            )
        from mild_service.ingest.sandbox import SpoolReader

        reader = SpoolReader(limits, name, helper)
    else:
        reader = import_module(f"mild_service.ingest.{name}").open_reader(limits)
    return reader
