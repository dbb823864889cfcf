"""A body on disk: for formats that are read from a file, with seeking."""

import tempfile
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray

from mild_core.ids import MAX_ID_BYTES
from mild_service.errors import MalformedBody
from mild_service.ingest.lines import numbered
from mild_service.ingest.names import Names
from mild_service.ingest.records import (
    FIELDS,
    Batch,
    Column,
    Limits,
    Rows,
    assemble,
    numbered_samples,
    samples_of,
)

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
        The record batches in the file at a path, of any length; they check that none takes too much memory.
    """

    def __init__(self, limits: Limits, name: str, tables: Callable[[str, Limits], Iterator[Any]]) -> None:
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
            for table in self._tables(self._file.name, self._limits):
                table.validate()
                for start in range(0, table.num_rows, BATCH_ROWS):
                    part = table.slice(start, BATCH_ROWS)
                    rows = Rows("row", numbered(n_read + 1, part.num_rows))
                    yield assemble(rows, _columns(rows, part, self._limits.names), self._limits)
                    n_read += part.num_rows
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise MalformedBody(
                f"the body is no {self._name} ({error}), behind row {n_read}; write it again"
            ) from error

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def _columns(rows: Rows, table: Any, ids: Names | None) -> dict[str, Column]:
    found = {
        name: _column(rows, name, table.column(name))
        for name in FIELDS
        if name in table.schema.names and name != "sample"
    }
    if "sample" in table.schema.names:
        found["sample"] = _samples(rows, table.column("sample"), ids)
    return found


def _samples(rows: Rows, values: Any, ids: Names | None) -> Column:
    types = pyarrow.types
    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    if ids is not None and (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        return samples_of(rows, _texts(rows, values), ids)
    return numbered_samples(rows, _column(rows, "sample", values), ids)


def _texts(rows: Rows, values: Any) -> list[str | None]:
    """External ids. Where many rows share a text it is held once: few bytes may stand for many long ones."""
    values.validate(full=True)  # places in the text are the sender's
    if pyarrow.types.is_dictionary(values.type):
        places = values.indices.fill_null(-1).cast(pyarrow.int64()).to_numpy()
        n_bytes = np.append(_n_bytes(values.dictionary), 0)[places]
    else:
        n_bytes = _n_bytes(values)
    rows.check(n_bytes > MAX_ID_BYTES, "sample", f"it has more than {MAX_ID_BYTES} bytes in UTF-8, an id has no more")
    if not pyarrow.types.is_dictionary(values.type):
        return cast("list[str | None]", values.to_pylist())
    used = np.unique(places[places >= 0])
    texts = dict(zip(used.tolist(), values.dictionary.take(pyarrow.array(used)).to_pylist(), strict=True))
    return [texts.get(place) for place in places.tolist()]


def _n_bytes(values: Any) -> NDArray[np.int64]:
    """Bytes of texts, 0 for none; shape (n_texts,)."""
    if not pyarrow.types.is_string_view(values.type):
        return np.asarray(pyarrow.compute.binary_length(values).fill_null(0), dtype=np.int64)
    views = np.frombuffer(values.buffers()[1], dtype=np.int32)[4 * values.offset :: 4][: len(values)]
    absent = values.is_null().to_numpy(zero_copy_only=False)
    return np.where(absent, 0, views).astype(np.int64)


def _column(rows: Rows, name: str, values: Any) -> Column:
    kind, types = values.type, pyarrow.types
    if types.is_null(kind):
        return Column(np.zeros(len(values), dtype=np.int64), np.ones(len(values), dtype=bool))
    if not (types.is_integer(kind) or (name == "correct" and types.is_boolean(kind))):
        wanted = "booleans or integers are" if name == "correct" else "integers are"
        hint = ", or external ids once the run has sample ids" if name == "sample" else ""
        raise rows.bad(0, name, f"the column holds {kind}, {wanted} needed{hint}")
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
