"""CSV logs with a header line that names the columns, separated by commas, semicolons or tabs.

pyarrow reads blocks without quotes and invalid cells. Other blocks are read record by record, so that error messages
name the line. Without pyarrow, all blocks are read record by record.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from mild_core.cells import ABSENT, parse_cell
from mild_core.log_columns import FIELDS
from mild_service.ingest import aum_records
from mild_service.ingest.columns import (
    NO_VALUE,
    Batch,
    LogLimits,
    LogOptions,
    Numbers,
    RowNumbers,
    Values,
    abbreviate,
    make_batch,
    record_error,
)
from mild_service.ingest.line_splitter import split_lines

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
        rows, fields = table.read_block(first, block)
        if rows.numbers.size:
            yield make_batch(rows, fields, limits)
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
        self._sample_type = "int64"  # until a block has texts

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

    def read_block(self, first: int, block: bytes) -> tuple[RowNumbers, Mapping[str, Values]]:
        """Read a block of lines; return the numbers of the lines on which the records begin, and the fields.

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
        fields = None if is_slow else self._read_with_pyarrow(self._names, block, rows.numbers.size)
        return self._read_records(self._names, first, block) if fields is None else (rows, fields)

    def _read_header(self, first: int, block: bytes) -> tuple[int, bytes]:
        """Read the header from a block; return the number of the line after it, and the rest of the block."""
        while block and self._names is None:
            line, _, block = block.partition(b"\n")
            if line.strip() and not _SEPARATOR_LINE.fullmatch(line):
                self._header, self._names, self._separator = _parse_header(first, line, self._limits.options)
            first += 1
        return first, block

    def _read_with_pyarrow(self, names: Sequence[str], block: bytes, n_lines: int) -> dict[str, Values] | None:
        """Read all fields with pyarrow; return None if pyarrow cannot read the block, or not as it is meant."""
        if find_spec("pyarrow") is None:
            return None
        table = None
        if self._sample_type == "int64" and not _has_padded_number(block):
            table = _read_table(names, self._separator, block, "int64")
        if table is None:
            self._sample_type = "string"  # of all blocks that follow, too
            table = _read_table(names, self._separator, block, "string")
        if table is None or table.num_rows != n_lines or table["epoch"].null_count or table["sample"].null_count:
            return None
        fields: dict[str, Values] = {}
        for name in table.column_names:
            if name == "sample" and self._sample_type == "string":
                fields[name] = self._parse_samples(table[name].to_pylist())
            elif (column := _convert_column(name, table[name])) is not None:
                fields[name] = column
            else:
                return None
        return fields

    def _read_records(self, names: Sequence[str], first: int, block: bytes) -> tuple[RowNumbers, dict[str, Values]]:
        """Read all fields record by record; return them with the numbers of the lines on which the records begin."""
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
            name: self._parse_samples(cells)
            if name == "sample"
            else [_parse_cell(name, text, self._separator) for text in cells]
            for name, cells in cells_by_name.items()
            if name in FIELDS
        }

    def _parse_samples(self, texts: Sequence[str]) -> Values:
        """Return the numbers in the cells of ``sample`` if they are indices, else the texts; None for empty cells."""
        texts = [text.strip() for text in texts]
        indices, resolver = [_parse_index(text) for text in texts], self._limits.resolver
        first = next((index for index in indices if index is not None), None)
        if resolver is None or (type(first) is int and resolver.are_indices(first)):
            return indices
        return [text or None for text in texts]

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
    required = {column for column, name in options.fields.items() if name in ("epoch", "sample")}
    headers: dict[str, list[str]] = {}
    errors: list[csv.Error] = []
    for separator in _SEPARATORS:
        try:
            headers[separator] = [name.strip() for name in next(_read_cells(line, [text], separator))]
        except csv.Error as error:
            errors.append(error)
    if not headers:
        raise _csv_error(line, text, errors[-1])
    fitting = [mark for mark, names in headers.items() if aum_records.is_header(names) or required <= set(names)]
    separator = fitting[0] if fitting else max(headers, key=lambda mark: len(headers[mark]))
    names = headers[separator]
    aum_records.check_header(line, names)
    return names, names if aum_records.is_header(names) else _check_header(line, names, options), separator


def _check_header(line: int, names: list[str], options: LogOptions) -> list[str]:
    """Return the field of each column, ``""`` for others, after checking that they are complete and unique."""
    fields = options.fields
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
    has_hexadecimals = any(mark in block and b"0" + mark in block for mark in (b"x", b"X"))  # most have no such letter
    return b'"' in block or has_hexadecimals or block.count(b"\r") != n_line_ends


def _has_padded_number(block: bytes) -> bool:
    """Return whether a block may have a number such as 007, which pyarrow reads as 7."""
    text = np.frombuffer(block, dtype=np.uint8)
    is_digit = text - np.uint8(ord("0")) < 10
    is_padded = (text[:-1] == ord("0")) & is_digit[1:]
    is_padded[1:] &= ~(is_digit | (text == ord(".")))[:-2]
    return bool(is_padded.any())


def _read_table(names: Sequence[str], separator: str, block: bytes, sample_type: str) -> Any:
    """Read the fields of a block as a pyarrow table; return None if it is not regular, or a sample has another type."""
    import pyarrow
    from pyarrow import csv as arrow_csv

    try:
        return arrow_csv.read_csv(
            pyarrow.BufferReader(block),
            arrow_csv.ReadOptions(
                use_threads=False,
                block_size=len(block) + 1,
                column_names=[name or f"other {i}" for i, name in enumerate(names)],
            ),
            arrow_csv.ParseOptions(delimiter=separator, quote_char=False, ignore_empty_lines=False),
            arrow_csv.ConvertOptions(
                column_types={"sample": pyarrow.type_for_alias(sample_type)},
                include_columns=[name for name in FIELDS if name in names],
                null_values=list(ABSENT),
                true_values=[text for text, bit in _BOOLEANS.items() if bit],
                false_values=[text for text, bit in _BOOLEANS.items() if not bit],
            ),
        )
    except pyarrow.ArrowInvalid:
        return None


def _convert_column(name: str, values: Any) -> Numbers | None:
    """Return a pyarrow column of numbers, or of booleans if it is ``correct``, as integers; None for other values."""
    import pyarrow

    if values.type not in ("int64", "double", "null") and (name, values.type) != ("correct", "bool"):
        return None
    try:
        numbers = values.cast("int64")
    except pyarrow.ArrowInvalid:  # a number has a fraction
        return None
    integers: Numbers = numbers.fill_null(NO_VALUE).to_numpy()
    return integers


def _parse_index(text: str) -> int | str | None:
    """Return the number in a cell; None if the cell is empty, and its text if it holds something else."""
    match = _INDEX.fullmatch(text)
    return int(match[1]) if match else text or None


def _parse_cell(name: str, text: str, separator: str) -> float | str | None:
    """Return the number in a cell; None if the cell is empty, and its text if it holds something else."""
    return _BOOLEANS[text] if name == "correct" and text in _BOOLEANS else parse_cell(text, separator)
