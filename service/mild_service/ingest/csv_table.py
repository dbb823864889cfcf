"""CSV logs with a header line that names the columns, separated by commas, semicolons or tabs.

pyarrow reads blocks without quotes and invalid cells. Other blocks are read record by record, so that error messages
name the line. Without pyarrow, all blocks are read record by record.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np

from mild_core.cells import ABSENT, parse_cell
from mild_core.log_columns import FIELDS
from mild_service.ingest import aum_records
from mild_service.ingest.columns import (
    MAX_WHOLE,
    Batch,
    Column,
    LogLimits,
    RowNumbers,
    abbreviate,
    check_class_numbers,
    make_batch,
    make_class_column,
    make_column,
    make_index_column,
    make_sample_column,
    record_error,
)
from mild_service.ingest.line_splitter import split_lines
from mild_service.ingest.log_options import CLASS_FIELDS, LogOptions
from mild_service.ingest.sample_resolvers import SampleResolver

_SEPARATORS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(rb"sep=.\r?")
"""First line by which spreadsheets name the separator."""
_INDEX = re.compile(r"(0|-?[1-9][0-9]{0,18})(\.0*)?")
"""A number as programs write it; 007 is none, since it may be another sample than 7."""
_BOOLEANS = {"1": 1, "true": 1, "True": 1, "TRUE": 1, "0": 0, "false": 0, "False": 0, "FALSE": 0}


def read_csv(pieces: Iterable[bytes], limits: LogLimits) -> Iterator[Batch]:
    """Yield the records of a CSV log. Blank lines are skipped, and empty cells, NA and NaN count as absent."""
    table = _Table(limits)
    for first, block in split_lines(pieces, limits.record_bytes):
        rows, columns = table.read_block(first, block)
        if rows.numbers.size:
            yield make_batch(rows, columns, limits)
    table.check_end()


class _Table:
    """Reads blocks of lines of a CSV log.

    Parameters
    ----------
    limits
        Limits of the log.
    """

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._names: list[str] | None = None
        self._header: list[str] = []
        self._separator = ","
        self._rest, self._rest_line = b"", 0  # the first lines of a record whose quoted value is not complete
        self._column_types = list(product(("int64", "string"), ("int64", "double"), ("bool", "double")))

    def check_end(self) -> None:
        """Check that there was a header, and that no quoted value is cut off."""
        if self._names is None:
            raise record_error(
                "line", 1, None, f"there is no header; name the columns, such as {','.join(FIELDS[1:4])}"
            )
        if self._rest:
            raise record_error(
                "line", self._rest_line, None, "it is not CSV: a quoted value begins here and does not end"
            )

    def read_block(self, first: int, block: bytes) -> tuple[RowNumbers, dict[str, Column]]:
        """Read the columns of a block of lines; return them with the numbers of the lines on which the records begin.

        Parameters
        ----------
        first
            Number of the first line.
        block
            The lines.
        """
        if self._names is None:
            first, block = self._read_header(first, block)
        if self._names is None or not block:
            return RowNumbers.count_from("line", first, 0), {}
        rows = RowNumbers.count_from("line", first, block.count(b"\n") + 1)
        is_slow = self._rest or aum_records.is_header(self._names) or _needs_slow_path(block)
        columns = None if is_slow else self._read_with_pyarrow(self._names, block, rows)
        return self._read_records(self._names, first, block) if columns is None else (rows, columns)

    def _read_header(self, first: int, block: bytes) -> tuple[int, bytes]:
        """Read the header from a block; return the number of the line after it, and the rest of the block."""
        while block and self._names is None:
            line, _, block = block.partition(b"\n")
            if line.strip() and not _SEPARATOR_LINE.fullmatch(line):
                self._header, self._names, self._separator = _parse_header(first, line, self._limits.options)
            first += 1
        return first, block

    def _read_with_pyarrow(self, names: Sequence[str], block: bytes, rows: RowNumbers) -> dict[str, Column] | None:
        """Read all columns with pyarrow; return None if pyarrow cannot read the block, or not as it is meant."""
        if find_spec("pyarrow") is None:
            return None
        for column_types in self._column_types:
            columns = self._read_typed_columns(names, block, rows, column_types)
            if columns is not None:
                self._column_types.remove(column_types)
                self._column_types.insert(0, column_types)  # the next block most likely has the same types
                return columns
        return None

    def _read_typed_columns(
        self, names: Sequence[str], block: bytes, rows: RowNumbers, column_types: tuple[str, str, str]
    ) -> dict[str, Column] | None:
        """Read columns of these types (of samples, numbers and bits); return None if a cell has another type."""
        sample_type, number_type, correct_type = column_types
        if sample_type == "int64" and _has_padded_number(block):
            return None
        types = {**dict.fromkeys(FIELDS, number_type), "sample": sample_type, "correct": correct_type}
        table = _read_table(names, self._separator, block, {name: types[name] for name in FIELDS if name in names})
        if table is None or table.num_rows != rows.numbers.size:
            return None
        columns: dict[str, Column] = {}
        for name in table.column_names:
            if table[name].type == "string":
                column = _make_sample_column(rows, table[name].to_pylist(), self._limits.resolver)
            elif (converted := _convert_column(table[name])) is not None:
                column = converted
            else:
                return None
            if name in CLASS_FIELDS:
                check_class_numbers(rows, column, name, self._limits.options.class_names)
            columns[name] = column
        has_blanks = columns["epoch"].absent is not None or table["sample"].null_count
        is_named = sample_type == "int64" and not _are_indices(columns["sample"], self._limits.resolver)
        return None if has_blanks or is_named else columns

    def _read_records(self, names: Sequence[str], first: int, block: bytes) -> tuple[RowNumbers, dict[str, Column]]:
        """Read all columns record by record; return them with the numbers of the lines on which the records begin."""
        if self._rest:
            first, block, self._rest = self._rest_line, self._rest + b"\n" + block, b""
        numbers, records = [], []
        for number, cells in self._split_records(first, block):
            texts = list(map(str.strip, cells))
            if not any(texts) or texts == self._header:  # written again by a program that appends tables
                continue
            if len(cells) != len(names):
                raise record_error("line", number, None, f"it has {len(cells)} cells, the header names {len(names)}")
            numbers.append(number)
            records.append(cells)
        rows = RowNumbers("line", np.array(numbers, dtype=np.int64))
        cells_by_name: dict[str, list[str]] = {
            name: [cells[index].strip() for cells in records] for index, name in enumerate(names)
        }
        if aum_records.is_header(names):
            cells_by_name = aum_records.convert_cells(rows, cells_by_name)
        return rows, {
            name: self._convert_cells(rows, name, cells_by_name[name]) for name in FIELDS if name in cells_by_name
        }

    def _convert_cells(self, rows: RowNumbers, name: str, texts: Sequence[str]) -> Column:
        """Convert the cells of one field to a column."""
        if name == "sample":
            return _make_sample_column(rows, texts, self._limits.resolver)
        values = [_parse_cell(name, text, self._separator) for text in texts]
        if name in CLASS_FIELDS:
            return make_class_column(rows, name, values, self._limits.options.class_names)
        return make_column(rows, name, values)

    def _split_records(self, first: int, block: bytes) -> Iterator[tuple[int, list[str]]]:
        """Yield the first line and the cells of each record; keep the lines of one that ends after the block."""
        lines = block.split(b"\n")
        reader = _read_cells(first, lines, self._separator)
        while True:
            n_read = reader.line_num
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" not in str(error):
                    raise _csv_error(first + n_read, lines[n_read], error) from error
                self._rest, self._rest_line = b"\n".join(lines[n_read:]), first + n_read
                if len(self._rest) > self._limits.record_bytes:
                    raise _quote_error(self._rest_line) from error
                return
            yield first + n_read, cells


def _parse_header(line: int, text: bytes, options: LogOptions) -> tuple[list[str], list[str], str]:
    """Return the header's cells, the field of each column and the separator.

    Columns that hold no field are called ``""``; those of AUM's records keep their names.
    """
    required = {column for column, name in options.map_columns(FIELDS).items() if name in ("epoch", "sample")}
    headers: list[list[str]] = []
    error: csv.Error | None = None
    for separator in _SEPARATORS:
        try:
            cells = next(_read_cells(line, [text], separator))
        except csv.Error as raised:
            error = raised
            continue
        names = [name.strip() for name in cells]
        headers.append(names)
        aum_records.check_header(line, names)
        if aum_records.is_header(names):
            return names, names, separator
        if required <= set(names):
            return names, _check_header(line, names, options), separator
    if not headers:
        assert error is not None, "each separator gives a header or an error"
        raise _csv_error(line, text, error)
    names = max(headers, key=len)
    return names, _check_header(line, names, options), ","


def _check_header(line: int, names: list[str], options: LogOptions) -> list[str]:
    """Return the field of each column, ``""`` for others, after checking that they are complete and unique."""
    fields = options.map_columns(FIELDS)
    for name in fields:
        if names.count(name) > 1:
            raise record_error("line", line, name, f"the header names it {names.count(name)} times; name it once")
    absent = [column for column, name in fields.items() if column not in names and name in options.required_fields]
    if absent:
        reason = (
            f"the header lacks {', '.join(absent)}, got {abbreviate(','.join(names))}; add what is missing, and "
            "separate columns by commas, semicolons or tabs"
        )
        raise record_error("line", line, None, reason, missing="field")
    return [fields.get(name, "") for name in names]


def _decode_lines(first: int, lines: Sequence[bytes]) -> Iterator[str]:
    """Yield lines as texts with their line ends; `first` is the number of the first line."""
    for number, line in enumerate(lines, first):
        try:
            yield line.removesuffix(b"\r").decode() + "\n"
        except UnicodeDecodeError as error:
            raise _csv_error(number, line, error) from error


def _read_cells(first: int, lines: Sequence[bytes], separator: str) -> Any:
    """Return a reader of the cells of lines, a `csv.reader`; `first` is the number of the first line."""
    return csv.reader(_decode_lines(first, lines), delimiter=separator, skipinitialspace=True, strict=True)


def _csv_error(number: int, line: bytes, error: Exception) -> Exception:
    hint = "; save the file as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
    return record_error("line", number, None, f"it is not CSV in UTF-8 ({error}), got {abbreviate(line)}{hint}")


def _quote_error(number: int) -> Exception:
    reason = "it is not CSV: a quoted value begins here and does not end within MILD_MAX_RECORD_BYTES"
    return record_error("line", number, None, reason)


def _needs_slow_path(block: bytes) -> bool:
    """Return whether a block has quotes, hexadecimal numbers or lone carriage returns; pyarrow accepts the last two."""
    n_line_ends = block.count(b"\r\n") + block.endswith(b"\r")  # the block lacks its last line feed
    return any(mark in block for mark in (b'"', b"0x", b"0X")) or block.count(b"\r") != n_line_ends


def _has_padded_number(block: bytes) -> bool:
    """Return whether a block may have a number such as 007, which pyarrow reads as 7."""
    is_digit = (text := np.frombuffer(block, dtype=np.uint8)) - np.uint8(48) < 10
    is_zero = text == 48
    is_padded = is_zero[:-1] & is_digit[1:]
    is_padded[1:] &= ~is_digit[:-2]
    return bool(is_padded.any())


def _read_table(names: Sequence[str], separator: str, block: bytes, types: Mapping[str, str]) -> Any:
    """Read a block as a pyarrow table with columns of these types; return None if a cell has another type."""
    import pyarrow
    from pyarrow import csv as arrow_csv

    try:
        return arrow_csv.read_csv(
            pyarrow.BufferReader(block),
            arrow_csv.ReadOptions(
                use_threads=False,
                block_size=len(block) + 1,
                column_names=[name if name in types else f"other {i}" for i, name in enumerate(names)],
            ),
            arrow_csv.ParseOptions(delimiter=separator, quote_char=False, ignore_empty_lines=False),
            arrow_csv.ConvertOptions(
                column_types={name: pyarrow.type_for_alias(kind) for name, kind in types.items()},
                include_columns=list(types),
                null_values=list(ABSENT),
                true_values=[text for text, bit in _BOOLEANS.items() if bit],
                false_values=[text for text, bit in _BOOLEANS.items() if not bit],
            ),
        )
    except pyarrow.ArrowInvalid:
        return None


def _convert_column(values: Any) -> Column | None:
    """Return a pyarrow column of numbers or booleans as integers; None if a number has a fraction."""
    import pyarrow

    absent = None
    if values.null_count:
        absent = values.is_null().to_numpy()
        values = values.fill_null(False if pyarrow.types.is_boolean(values.type) else 0)
    numbers = values.to_numpy()
    if numbers.dtype.kind == "f" and not ((np.trunc(numbers) == numbers) & (np.abs(numbers) <= MAX_WHOLE)).all():
        return None
    return Column(numbers.astype(np.int64, copy=False), absent)


def _are_indices(numbers: Column, resolver: SampleResolver | None) -> bool:
    """Return whether the numbers of a column are indices rather than ids."""
    if resolver is None:
        return True
    present = numbers.values if numbers.absent is None else numbers.values[~numbers.absent]
    return bool(present.size) and resolver.are_indices(int(present[0]))


def _make_sample_column(rows: RowNumbers, texts: Sequence[str], resolver: SampleResolver | None) -> Column:
    """Convert cells to the column ``sample``: to indices, or to the samples that the texts name."""
    texts = [text.strip() for text in texts]
    first = _parse_index(next(filter(None, texts), ""))
    if resolver is None or (type(first) is int and resolver.are_indices(first)):
        return make_index_column(rows, [_parse_index(text) for text in texts], resolver)
    return make_sample_column(rows, [text or None for text in texts], resolver)


def _parse_index(text: str) -> int | str | None:
    """Return the number in a cell; None if the cell is empty, and its text if it holds something else."""
    match = _INDEX.fullmatch(text)
    return int(match[1]) if match else text or None


def _parse_cell(name: str, text: str, separator: str) -> float | str | None:
    """Return the number in a cell; None if the cell is empty, and its text if it holds something else."""
    return _BOOLEANS[text] if name == "correct" and text in _BOOLEANS else parse_cell(text, separator)
