"""Reads Arrow IPC streams and files, and Parquet files, with pyarrow, in the sandbox only."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, cast

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray
from pyarrow import parquet

from mild_core.errors import MildError
from mild_core.sample_ids import MAX_ID_BYTES
from mild_service.errors import MalformedBody
from mild_service.ingest.column_ipc import BATCH_ROWS, TextColumn
from mild_service.ingest.columns import CLASS_FIELDS, MAX_WHOLE, NAME_HINTS, NO_VALUE, Flags, RowNumbers

TEXT_FIELDS = ("sample", *CLASS_FIELDS)
"""Fields that may hold texts."""


_ARROW_FILE = b"ARROW1"
"""First bytes of an Arrow IPC file, as Feather is, too; a stream has none of its own."""


def _read_arrow(source: Any, fields: Mapping[str, str]) -> Iterator[Any]:
    """Yield the record batches of an Arrow IPC stream or file.

    Parameters
    ----------
    source
        A pyarrow file.
    fields
        The field of each column to read. All other columns are left out.
    """
    is_file = source.read(len(_ARROW_FILE)) == _ARROW_FILE
    open_source = pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream
    source.seek(0)
    schema = open_source(source).schema
    columns = _select_columns(schema.names, fields, "file" if is_file else "stream")
    source.seek(0)
    options = pyarrow.ipc.IpcReadOptions(
        use_threads=False, included_fields=[schema.names.index(name) for name in columns]
    )
    reader = open_source(source, options=options)
    yield from map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader


def _read_parquet(source: Any, fields: Mapping[str, str]) -> Iterator[Any]:
    """Yield the record batches of a Parquet file; see `_read_arrow` for the parameters."""
    metadata = parquet.read_metadata(source)
    columns = _select_columns(metadata.schema.to_arrow_schema().names, fields, "file")
    source.seek(0)
    leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    # Ids stay dictionary-encoded: decoded, one long text could fill every row.
    dictionaries = [name for name in leaves if fields.get(name) in TEXT_FIELDS]
    with parquet.ParquetFile(source, metadata=metadata, read_dictionary=dictionaries) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False)


def _select_columns(names: list[str], fields: Mapping[str, str], container: str) -> list[str]:
    """Return the names of the columns to read; error messages call their container `container`."""
    columns = [name for name in names if name in fields]
    if len(columns) != len(set(columns)):
        raise MalformedBody(f"the {container} names a column twice: {', '.join(columns)}; name it once")
    return columns


def read_blocks(
    source: Any, format_name: str, fields: Mapping[str, str], text_fields: Collection[str]
) -> Iterator[tuple[int, dict[str, NDArray[Any] | TextColumn]]]:
    """Yield the rows of a body in blocks: the number of rows, and columns by the name of their field.

    Parameters
    ----------
    source
        A pyarrow file.
    format_name
        One of `FORMATS`.
    fields
        The field of each column to read.
    text_fields
        The fields that may hold texts: external ids, and names of classes.
    """
    name, read_tables = FORMATS[format_name]
    n_read = 0
    try:
        for table in read_tables(source, fields):
            table.validate()
            columns = {fields[column]: table.column(column) for column in table.schema.names if column in fields}
            for start in range(0, table.num_rows, BATCH_ROWS):
                n_rows = min(BATCH_ROWS, table.num_rows - start)
                rows = RowNumbers.count_from("row", n_read + 1, n_rows)
                yield (
                    n_rows,
                    {
                        name: _convert_column(rows, name, values.slice(start, n_rows), name in text_fields)
                        for name, values in columns.items()
                    },
                )
                n_read += n_rows
    except (MildError, MemoryError):
        raise
    except Exception as error:  # any exception of a library is the body's fault
        raise MalformedBody(f"the body is not a valid {name} ({error}), after row {n_read}; write it again") from error


def _convert_column(rows: RowNumbers, name: str, values: Any, allow_texts: bool) -> NDArray[Any] | TextColumn:
    """Convert a pyarrow array to integers, or to texts if it holds some and may do so."""
    types = pyarrow.types
    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    if allow_texts and (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        return _convert_texts(rows, name, values)
    return _convert_integers(rows, name, values)


def _convert_texts(rows: RowNumbers, name: str, values: Any) -> TextColumn:
    """Convert external ids, or names of classes, to texts.

    Each dictionary-encoded text is decoded once only, since few bytes may stand for many long ids.
    """
    values.validate(full=True)  # the sender chooses the offsets of the texts
    if not pyarrow.types.is_dictionary(values.type):
        _check_text_lengths(rows, name, _compute_text_lengths(values))
        return TextColumn(values.to_pylist())
    present = np.flatnonzero(~_find_absent(values))
    used_codes, inverse = np.unique(_view_integers(values.indices)[present].astype(np.int64), return_inverse=True)
    positions = np.full(len(values), -1, dtype=np.int64)
    positions[present] = inverse
    _check_text_lengths(rows, name, np.append(_compute_text_lengths(values.dictionary)[used_codes], 0)[positions])
    indices = pyarrow.Array.from_buffers(pyarrow.int64(), used_codes.size, [None, pyarrow.py_buffer(used_codes)])
    return TextColumn(cast("list[str | None]", values.dictionary.take(indices).to_pylist()), positions)


def _check_text_lengths(rows: RowNumbers, name: str, n_bytes: NDArray[np.int64]) -> None:
    """Raise `BadRecord` for the first row whose text is too long; `n_bytes` has shape (n_rows,)."""
    rows.reject_faulty(
        n_bytes > MAX_ID_BYTES, name, f"it has more than {MAX_ID_BYTES} bytes in UTF-8, an id has no more"
    )


def _compute_text_lengths(values: Any) -> NDArray[np.int64]:
    """Return the length of each text in UTF-8 bytes, 0 for an absent text; shape (n_texts,)."""
    if not pyarrow.types.is_string_view(values.type):
        return _view_integers(pyarrow.compute.fill_null(pyarrow.compute.binary_length(values), 0)).astype(np.int64)
    views = np.frombuffer(values.buffers()[1], dtype=np.int32)[4 * values.offset :: 4][: len(values)]
    return np.where(_find_absent(values), 0, views).astype(np.int64)


def _convert_integers(rows: RowNumbers, name: str, values: Any) -> NDArray[Any]:
    """Convert a pyarrow array of integers or whole floats, or of booleans if it is the column ``correct``."""
    kind, types = values.type, pyarrow.types
    if types.is_null(kind):
        return np.full(len(values), NO_VALUE)
    is_bit = name == "correct" and types.is_boolean(kind)
    if not (types.is_integer(kind) or types.is_floating(kind) or is_bit):
        expected = "booleans or integers are" if name == "correct" else "integers are"
        reason = f"the column holds {kind}, {expected} needed{NAME_HINTS.get(name, '')}"
        raise rows.make_error(0, name, reason)
    numbers = _view_integers(values.cast(pyarrow.uint8()) if is_bit else values)
    absent = _find_absent(values)
    if types.is_floating(kind):
        absent |= np.isnan(numbers)
        numbers = np.where(absent, 0, numbers)
        is_whole = (np.trunc(numbers) == numbers) & (np.abs(numbers) <= MAX_WHOLE)
        rows.reject_faulty(~is_whole, name, "an integer is needed", numbers)
    if types.is_uint64(kind):
        is_large = ~absent & (numbers > np.uint64(2**63 - 1))
        rows.reject_faulty(is_large, name, "an integer of 64 bits is needed", numbers)
    if absent.any() or types.is_floating(kind):
        return np.where(absent, NO_VALUE, numbers.astype(np.int64))
    return numbers


def _find_absent(values: Any) -> Flags:
    """Return whether each value is absent; shape (n_values,)."""
    if not values.null_count:
        return np.zeros(len(values), dtype=bool)
    absent: Flags = _view_integers(values.is_null().cast(pyarrow.uint8())) != 0
    return absent


def _view_integers(values: Any) -> NDArray[Any]:
    """Return a numpy view of a pyarrow array of integers, without `to_numpy`, which imports pandas in each process."""
    kind = values.type.to_pandas_dtype()
    buffer = values.buffers()[1]
    return np.zeros(0, kind) if buffer is None else np.frombuffer(buffer, kind)[values.offset :][: len(values)]


FORMATS: Mapping[str, tuple[str, Callable[[Any, Mapping[str, str]], Iterator[Any]]]] = {
    "arrow": ("Arrow IPC stream or file", _read_arrow),
    "parquet": ("Parquet file", _read_parquet),
}
"""The name of each format, and the function that yields its record batches."""
