"""A body on disk: for formats that are read from a file, with seeking."""

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow

from mild_service.errors import MalformedBody
from mild_service.ingest.lines import numbered
from mild_service.ingest.records import FIELDS, Batch, Column, Limits, Rows, assemble

BATCH_ROWS = 64 * 1024


class SpoolReader:
    """Writes a body to a temporary file, and reads it when it has ended; a record's number is its row, from 1.

    Parameters
    ----------
    limits
        Of the log.
    name
        The format's.
    tables
        The record batches in the file at a path, of any length.
    """

    def __init__(self, limits: Limits, name: str, tables: Callable[[str], Iterator[Any]]) -> None:
        self._limits = limits
        self._name = name
        self._tables = tables
        self._file = tempfile.NamedTemporaryFile(prefix="mild-log-")  # noqa: SIM115  # closed by close

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Nothing yet."""
        self._file.write(data)
        yield from ()

    def end(self) -> Iterator[Batch]:
        """All records."""
        self._file.flush()
        n_read = 0
        try:
            for table in self._tables(self._file.name):
                table.validate()
                for start in range(0, table.num_rows, BATCH_ROWS):
                    part = table.slice(start, BATCH_ROWS)
                    rows = Rows("row", numbered(n_read + 1, part.num_rows))
                    yield assemble(rows, _columns(rows, part), self._limits)
                    n_read += part.num_rows
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise MalformedBody(
                f"the body is no {self._name} ({error}), behind row {n_read}; write it again"
            ) from error

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def _columns(rows: Rows, table: Any) -> dict[str, Column]:
    return {name: _column(rows, name, table.column(name)) for name in FIELDS if name in table.schema.names}


def _column(rows: Rows, name: str, values: Any) -> Column:
    kind, types = values.type, pyarrow.types
    if types.is_null(kind):
        return Column(np.zeros(len(values), dtype=np.int64), np.ones(len(values), dtype=bool))
    if not (types.is_integer(kind) or (name == "correct" and types.is_boolean(kind))):
        wanted = "booleans or integers are" if name == "correct" else "integers are"
        raise rows.bad(0, name, f"the column holds {kind}, {wanted} needed")
    try:
        filled = values.fill_null(False if types.is_boolean(kind) else 0).cast(pyarrow.int64())
    except pyarrow.ArrowInvalid:
        plain = values.to_pylist()
        first = next(i for i, value in enumerate(plain) if value is not None and value >= 2**63)
        raise rows.bad(first, name, f"got {plain[first]}, an integer of 64 bits is needed") from None
    absent = values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None
    return Column(filled.to_numpy(zero_copy_only=False), absent)


def wanted(names: list[str], what: str) -> list[str]:
    """The columns of a table that are read.

    Raises
    ------
    MalformedBody
        If one is there twice.
    """
    known = [name for name in names if name in FIELDS]
    if len(known) != len(set(known)):
        raise MalformedBody(f"the {what} names a column twice: {', '.join(known)}; name it once")
    return known
