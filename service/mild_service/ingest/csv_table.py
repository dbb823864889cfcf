"""CSV with a header line: comma-separated, a record a line.

pyarrow reads what is plain, block by block. What it does not read, or would read otherwise (quotes, blank lines, a
wrong cell), is read line by line: so every fault has its true line, and without pyarrow all of it works too.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from mild_service.ingest.columns import (
    FIELDS,
    Batch,
    Column,
    Limits,
    Rows,
    assemble,
    bad_record,
    column_of,
    numbered_samples,
    samples_of,
    short,
)
from mild_service.ingest.line_splitter import LineSplitter, numbered
from mild_service.ingest.sample_names import Names

_BLOCK_BYTES = 1024 * 1024
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_TRUTH = {"1": 1, "true": 1, "True": 1, "TRUE": 1, "0": 0, "false": 0, "False": 0, "FALSE": 0}


class CsvReader:
    """Reads CSV; blank lines are skipped, an empty cell counts as absent."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lines = LineSplitter(limits.record_bytes, _BLOCK_BYTES)
        self._names: list[str] | None = None

    def feed(self, data: bytes) -> Iterator[Batch]:
        """The records that `data` completes."""
        for first, block in self._lines.feed(data):
            yield from self._batches(first, block)

    def end(self) -> Iterator[Batch]:
        """The last line, where it has no line end."""
        for first, block in self._lines.end():
            yield from self._batches(first, block)
        if self._names is None:
            raise bad_record("line", 1, None, f"there is no header; name the columns, such as {','.join(FIELDS[1:4])}")

    def close(self) -> None:
        """Nothing is held."""

    def _batches(self, first: int, block: bytes) -> Iterator[Batch]:
        if self._names is None:
            first, block = self._take_header(first, block)
        if self._names is None or not block:
            return
        rows = Rows("line", numbered(first, block.count(b"\n") + 1))
        columns = None if _special(block) else _fast(self._names, block, rows, self._limits.names)
        if columns is None:
            rows, columns = _careful(self._names, block, rows, self._limits.names)
        if rows.numbers.size:
            yield assemble(rows, columns, self._limits)

    def _take_header(self, first: int, block: bytes) -> tuple[int, bytes]:
        """Read the header off a block; return what is behind it."""
        while block and self._names is None:
            line, _, block = block.partition(b"\n")
            if line.strip():
                self._names = _header(first, _cells(first, line.removeprefix(b"\xef\xbb\xbf")))
            first += 1
        return first, block


def _header(line: int, names: list[str]) -> list[str]:
    names = [name.strip() for name in names]
    for name in FIELDS:
        if names.count(name) > 1:
            raise bad_record("line", line, name, f"the header names it {names.count(name)} times; name it once")
    for name in ("epoch", "sample"):
        if name not in names:
            raise bad_record("line", line, name, f"the header lacks it, got {short(','.join(names))}; add the column")
    return names


def _special(block: bytes) -> bool:
    """Whether there are quotes, or what pyarrow takes and we do not: hexadecimal numbers and lone carriage returns."""
    return any(mark in block for mark in (b'"', b"0x", b"0X")) or block.count(b"\r") != block.count(b"\r\n")


def _fast(names: Sequence[str], block: bytes, rows: Rows, ids: Names | None) -> dict[str, Column] | None:
    """All columns by pyarrow, or None where the block is not plain."""
    if find_spec("pyarrow") is None:
        return None
    import pyarrow

    types = {name: pyarrow.bool_() if name == "correct" else pyarrow.int64() for name in FIELDS if name in names}
    table = None if ids is not None and ids.cells_are_ids else _table(names, block, types)
    if table is None and ids is not None:
        table = _table(names, block, {**types, "sample": pyarrow.string()})
    if table is None or table.num_rows != rows.numbers.size:
        return None
    found = {name: Column(table[name].cast(pyarrow.int64()).to_numpy()) for name in types if name != "sample"}
    if table["sample"].type == pyarrow.string():
        found["sample"] = samples_of(rows, [_sample(cell, ids) for cell in table["sample"].to_pylist()], ids)
    else:
        found["sample"] = numbered_samples(rows, Column(table["sample"].to_numpy()), ids)
    return found


def _table(names: Sequence[str], block: bytes, types: Mapping[str, Any]) -> Any:
    """A block as pyarrow's table with columns of these types; None where it does not read as such."""
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
                true_values=[text for text, bit in _TRUTH.items() if bit],
                false_values=[text for text, bit in _TRUTH.items() if not bit],
            ),
        )
    except pyarrow.ArrowInvalid:
        return None


def _careful(names: Sequence[str], block: bytes, rows: Rows, ids: Names | None) -> tuple[Rows, dict[str, Column]]:
    """All columns line by line."""
    lines = block.split(b"\n")
    filled = [position for position, line in enumerate(lines) if line.strip()]
    rows = Rows("line", rows.numbers[filled])
    records = []
    for number, position in zip(rows.numbers, filled, strict=True):
        cells = _cells(int(number), lines[position])
        if len(cells) != len(names):
            raise bad_record("line", int(number), None, f"it has {len(cells)} cells, the header names {len(names)}")
        records.append(cells)
    found = {}
    for name in FIELDS:
        if name in names:
            place = names.index(name)
            texts = [cells[place].strip() for cells in records]
            if name == "sample":
                found[name] = samples_of(rows, [_sample(text, ids) for text in texts], ids)
            else:
                found[name] = column_of(rows, name, [_value(name, text) for text in texts])
    return rows, found


def _cells(number: int, line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode().rstrip("\r")], strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        says = f"it is not CSV in UTF-8 ({error}), got {short(line)}; a quoted value must not hold a line end"
        raise bad_record("line", number, None, says) from error


def _value(name: str, text: str) -> int | str | None:
    if not text:
        return None
    if name == "correct":
        return _TRUTH.get(text, text)
    return int(text) if _INTEGER.fullmatch(text) else text


def _sample(text: str, ids: Names | None) -> int | str | None:
    if ids is not None and ids.cells_are_ids:
        return text.strip() or None
    return _value("sample", text.strip())


def open_reader(limits: Limits) -> CsvReader:
    """A reader of one body."""
    return CsvReader(limits)
