"""CSV logs with a header line and one record per line.

pyarrow reads blocks without quotes, blank lines and invalid cells. Other blocks are read line by line, so that error
messages name the line. Without pyarrow, all blocks are read line by line.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mild_service.ingest import aum_records
from mild_service.ingest.columns import (
    FIELDS,
    Batch,
    Column,
    LogLimits,
    RowNumbers,
    abbreviate,
    check_class_numbers,
    check_sample_numbers,
    make_batch,
    make_class_column,
    make_column,
    make_sample_column,
    record_error,
)
from mild_service.ingest.line_splitter import LineSplitter, line_numbers
from mild_service.ingest.log_options import CLASS_FIELDS, LogOptions
from mild_service.ingest.sample_resolvers import SampleResolver

_BLOCK_BYTES = 1024 * 1024
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_BOOLEANS = {"1": 1, "true": 1, "True": 1, "TRUE": 1, "0": 0, "false": 0, "False": 0, "FALSE": 0}


class CsvReader:
    """Reads a CSV log. Blank lines are skipped, and empty cells count as absent."""

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self._lines = LineSplitter(limits.record_bytes, _BLOCK_BYTES)
        self._names: list[str] | None = None

    def feed(self, data: bytes) -> Iterator[Batch]:
        """Read the next bytes of the log, and yield the records that are complete with them."""
        for first, block in self._lines.feed(data):
            yield from self._parse_batches(first, block)

    def end(self) -> Iterator[Batch]:
        """Yield the record of a last line without a line end, and check that there was a header."""
        for first, block in self._lines.end():
            yield from self._parse_batches(first, block)
        if self._names is None:
            raise record_error(
                "line", 1, None, f"there is no header; name the columns, such as {','.join(FIELDS[1:4])}"
            )

    def close(self) -> None:
        """Do nothing: the reader holds no resources."""

    def _parse_batches(self, first: int, block: bytes) -> Iterator[Batch]:
        if self._names is None:
            first, block = self._read_header(first, block)
        if self._names is None or not block:
            return
        rows = RowNumbers("line", line_numbers(first, block.count(b"\n") + 1))
        is_aum = aum_records.is_header(self._names)
        columns = (
            None if is_aum or _needs_slow_path(block) else _read_with_pyarrow(self._names, block, rows, self._limits)
        )
        if columns is None:
            rows, cells = _split_lines(self._names, block, rows)
            columns = _convert_cells(rows, aum_records.convert_cells(rows, cells) if is_aum else cells, self._limits)
        if rows.numbers.size:
            yield make_batch(rows, columns, self._limits)

    def _read_header(self, first: int, block: bytes) -> tuple[int, bytes]:
        """Read the header from a block; return the number of the line after it, and the rest of the block."""
        while block and self._names is None:
            line, _, block = block.partition(b"\n")
            if line.strip():
                names = [name.strip() for name in _split_cells(first, line.removeprefix(b"\xef\xbb\xbf"))]
                aum_records.check_header(first, names)
                options = self._limits.options
                self._names = names if aum_records.is_header(names) else _check_header(first, names, options)
            first += 1
        return first, block


def _check_header(line: int, names: list[str], options: LogOptions) -> list[str]:
    """Return the field of each column, ``""`` for others, after checking that they are complete and unique."""
    fields = options.map_columns(FIELDS)
    for name in fields:
        if names.count(name) > 1:
            raise record_error("line", line, name, f"the header names it {names.count(name)} times; name it once")
    for column, name in fields.items():
        if column not in names and name in options.required_fields:
            raise record_error(
                "line", line, column, f"the header lacks it, got {abbreviate(','.join(names))}; add the column"
            )
    return [fields.get(name, "") for name in names]


def _needs_slow_path(block: bytes) -> bool:
    """Return whether a block has quotes, hexadecimal numbers or lone carriage returns; pyarrow accepts the last two."""
    return any(mark in block for mark in (b'"', b"0x", b"0X")) or block.count(b"\r") != block.count(b"\r\n")


def _read_with_pyarrow(
    names: Sequence[str], block: bytes, rows: RowNumbers, limits: LogLimits
) -> dict[str, Column] | None:
    """Read all columns with pyarrow; return None if pyarrow cannot read the block."""
    if find_spec("pyarrow") is None:
        return None
    import pyarrow

    resolver = limits.resolver
    types = {name: pyarrow.bool_() if name == "correct" else pyarrow.int64() for name in FIELDS if name in names}
    table = None if resolver is not None and resolver.cells_are_ids else _read_table(names, block, types)
    if table is None and resolver is not None:
        table = _read_table(names, block, {**types, "sample": pyarrow.string()})
    if table is None or table.num_rows != rows.numbers.size:
        return None
    columns = {name: Column(table[name].cast(pyarrow.int64()).to_numpy()) for name in types if name != "sample"}
    if table["sample"].type == pyarrow.string():
        columns["sample"] = make_sample_column(
            rows, [_parse_sample(cell, resolver) for cell in table["sample"].to_pylist()], resolver
        )
    else:
        columns["sample"] = check_sample_numbers(rows, Column(table["sample"].to_numpy()), resolver)
    for name in CLASS_FIELDS:
        if name in columns:
            check_class_numbers(rows, columns[name], name, limits.options.class_names)
    return columns


def _read_table(names: Sequence[str], block: bytes, types: Mapping[str, Any]) -> Any:
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
            arrow_csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            arrow_csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=[],
                true_values=[text for text, bit in _BOOLEANS.items() if bit],
                false_values=[text for text, bit in _BOOLEANS.items() if not bit],
            ),
        )
    except pyarrow.ArrowInvalid:
        return None


def _split_lines(names: Sequence[str], block: bytes, rows: RowNumbers) -> tuple[RowNumbers, dict[str, list[str]]]:
    """Split a block line by line; return the cells of each column, and the numbers of the lines that are not blank."""
    lines = block.split(b"\n")
    filled = [position for position, line in enumerate(lines) if line.strip()]
    rows = RowNumbers("line", rows.numbers[filled])
    records = []
    for number, position in zip(rows.numbers, filled, strict=True):
        cells = _split_cells(int(number), lines[position])
        if len(cells) != len(names):
            raise record_error("line", int(number), None, f"it has {len(cells)} cells, the header names {len(names)}")
        records.append(cells)
    return rows, {name: [cells[index].strip() for cells in records] for index, name in enumerate(names)}


def _convert_cells(rows: RowNumbers, cells: Mapping[str, Sequence[str]], limits: LogLimits) -> dict[str, Column]:
    """Convert the cells of the fields to columns."""
    columns = {}
    for name in FIELDS:
        if name not in cells:
            continue
        if name == "sample":
            samples = [_parse_sample(text, limits.resolver) for text in cells[name]]
            columns[name] = make_sample_column(rows, samples, limits.resolver)
        elif name in CLASS_FIELDS:
            classes = [_parse_cell(name, text) for text in cells[name]]
            columns[name] = make_class_column(rows, name, classes, limits.options.class_names)
        else:
            columns[name] = make_column(rows, name, [_parse_cell(name, text) for text in cells[name]])
    return columns


def _split_cells(number: int, line: bytes) -> list[str]:
    """Return the cells of the line with this number."""
    try:
        return next(csv.reader([line.decode().rstrip("\r")], strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        reason = f"it is not CSV in UTF-8 ({error}), got {abbreviate(line)}; a quoted value must not hold a line end"
        raise record_error("line", number, None, reason) from error


def _parse_cell(name: str, text: str) -> int | str | None:
    """Return the integer in a cell; None if the cell is empty, and its text if it holds something else."""
    if not text:
        return None
    if name == "correct":
        return _BOOLEANS.get(text, text)
    return int(text) if _INTEGER.fullmatch(text) else text


def _parse_sample(text: str, resolver: SampleResolver | None) -> int | str | None:
    """Return the index or the external id in a cell; None if the cell is empty."""
    if resolver is not None and resolver.cells_are_ids:
        return text.strip() or None
    return _parse_cell("sample", text.strip())


def open_reader(limits: LogLimits) -> CsvReader:
    """Return a reader of one log in this format."""
    return CsvReader(limits)
