"""Tables as pyarrow reads them, as columns of integers and texts. Only `reading` imports this, beside the service.

Arrow's IPC stream. Only `reading` imports this, beside the service.

Parquet. Only `reading` imports this, beside the service.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray
from pyarrow import parquet

from mild_core.sample_ids import MAX_ID_BYTES
from mild_service.errors import MalformedBody
from mild_service.ingest.column_ipc import BATCH_ROWS, Block, Texts
from mild_service.ingest.columns import FIELDS, Column, Flags, Rows


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


def block_of(rows: Rows, table: Any, ids: bool) -> Block:
    """A record batch's columns; where `ids` are wanted, samples may be texts.

    Raises
    ------
    BadRecord
        If a column holds something else, a number has more than 64 bits, or a text is longer than an id.
    """
    names = [name for name in FIELDS if name in table.schema.names]
    return Block(table.num_rows, {name: _column(rows, name, table.column(name), ids) for name in names})


def _column(rows: Rows, name: str, values: Any, ids: bool) -> Column | Texts:
    types = pyarrow.types
    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    if (
        name == "sample"
        and ids
        and (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
    ):
        return _texts(rows, values)
    return _integers(rows, name, values)


def _texts(rows: Rows, values: Any) -> Texts:
    """External ids. Where many rows share a text it is held once: few bytes may stand for many long ones."""
    values.validate(full=True)  # places in the text are the sender's
    if not pyarrow.types.is_dictionary(values.type):
        _check_bytes(rows, _n_bytes(values))
        return Texts(values.to_pylist())
    places, absent = _numbers(values.indices)
    told = np.flatnonzero(~absent) if absent is not None else np.arange(places.size)
    used, found = np.unique(places[told].astype(np.int64), return_inverse=True)
    among = np.full(places.size, -1, dtype=np.int64)
    among[told] = found
    _check_bytes(rows, np.append(_n_bytes(values.dictionary)[used], 0)[among])
    taken = pyarrow.Array.from_buffers(pyarrow.int64(), used.size, [None, pyarrow.py_buffer(used)])
    return Texts(cast("list[str | None]", values.dictionary.take(taken).to_pylist()), among)


def _check_bytes(rows: Rows, n_bytes: NDArray[np.int64]) -> None:
    rows.check(n_bytes > MAX_ID_BYTES, "sample", f"it has more than {MAX_ID_BYTES} bytes in UTF-8, an id has no more")


def _n_bytes(values: Any) -> NDArray[np.int64]:
    """Bytes of texts, 0 for none; shape (n_texts,)."""
    if not pyarrow.types.is_string_view(values.type):
        return _numbers(pyarrow.compute.binary_length(values))[0].astype(np.int64)
    views = np.frombuffer(values.buffers()[1], dtype=np.int32)[4 * values.offset :: 4][: len(values)]
    return np.where(_absent(values), 0, views).astype(np.int64)


def _integers(rows: Rows, name: str, values: Any) -> Column:
    kind, types = values.type, pyarrow.types
    if types.is_null(kind):
        return Column(np.zeros(len(values), dtype=np.int64), np.ones(len(values), dtype=bool))
    if not (types.is_integer(kind) or (name == "correct" and types.is_boolean(kind))):
        wanted = "booleans or integers are" if name == "correct" else "integers are"
        hint = ", or external ids once the run has sample ids" if name == "sample" else ""
        raise rows.bad(0, name, f"the column holds {kind}, {wanted} needed{hint}")
    numbers, absent = _numbers(values.cast(pyarrow.uint8()) if types.is_boolean(kind) else values)
    if types.is_uint64(kind):
        rows.check(numbers > np.uint64(2**63 - 1), name, "an integer of 64 bits is needed", numbers)
    return Column(numbers, absent)


def _numbers(values: Any) -> tuple[NDArray[Any], Flags | None]:
    """An array of integers, 0 where there is none, and where that is (None: nowhere)."""
    if not values.null_count:
        return _raw(values), None
    absent = _absent(values)
    return np.where(absent, 0, _raw(values)), absent


def _absent(values: Any) -> Flags:
    absent: Flags = _raw(values.is_null().cast(pyarrow.uint8())) != 0
    return absent


def _raw(values: Any) -> NDArray[Any]:
    """An array's bytes as numbers. pyarrow's own way imports pandas, where there is one: for every body anew."""
    kind = values.type.to_pandas_dtype()
    buffer = values.buffers()[1]
    return np.zeros(0, kind) if buffer is None else np.frombuffer(buffer, kind)[values.offset :][: len(values)]


def read_arrow_stream(source: Any) -> Iterator[Any]:
    """The record batches in a file of pyarrow's, of any length."""
    schema = pyarrow.ipc.open_stream(source).schema
    known = wanted(schema.names, "stream")
    source.seek(0)
    options = pyarrow.ipc.IpcReadOptions(
        use_threads=False, included_fields=[schema.names.index(name) for name in known]
    )
    yield from pyarrow.ipc.open_stream(source, options=options)


def read_parquet(source: Any) -> Iterator[Any]:
    """The record batches in a file of pyarrow's, of any length."""
    metadata = parquet.read_metadata(source)
    known = wanted(metadata.schema.to_arrow_schema().names, "file")
    source.seek(0)
    leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    # Ids stay in their dictionary: spelt out, one long text may stand in every row.
    shared = [name for name in leaves if name == "sample"]
    with parquet.ParquetFile(source, metadata=metadata, read_dictionary=shared) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=known, use_threads=False)
