"""CSV logs with a header line that names the columns, separated by commas, semicolons or tabs.

pyarrow reads blocks without quotes and invalid cells. Other blocks are read record by record, so that error messages
name the line. Without pyarrow, all blocks are read record by record.

AUM's records, the file ``full_aum_records.csv`` of the package ``aum`` (Pleiss et al. 2020), have a line for each
measurement: ``sample_id`` is the sample, ``num_measurements`` the number of its measurements so far, from 1, which
stands for the epoch, ``target_logit`` its given label, ``other_logit`` the best other class, and ``margin`` the
difference of their logits: a positive margin means that the given label was predicted.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np

from mild_core.cells import ABSENT, parse_cell
from mild_core.log_columns import FIELDS
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
_AUM_COLUMNS = ("sample_id", "num_measurements", "target_logit", "other_logit", "margin")
"""Columns of AUM's records, in the order in which `_convert_aum_cells` takes them."""
_BOOLEANS = {"1": 1, "true": 1, "True": 1, "TRUE": 1, "0": 0, "false": 0, "False": 0, "FALSE": 0}


def read_csv(pieces: Iterable[bytes], limits: LogLimits) -> Iterator[Batch]:
    """Yield the records of a CSV log. Blank lines are skipped, and empty cells, NA and NaN count as absent."""
    blocks = split_lines(pieces, limits.record_bytes)
    number, header, rest = _find_header(blocks)
    table = _Table(number, header, limits)
    for first, block in chain([(number + 1, rest)] if rest else [], blocks):
        rows, fields = table.read_block(first, block)
        if rows.numbers.size:
            yield make_batch(rows, fields, limits)
    table.check_end()


def _find_header(blocks: Iterable[tuple[int, bytes]]) -> tuple[int, bytes, bytes]:
    """Return the number of the first line that is the header, the line, and the lines after it in its block."""
    for first, block in blocks:
        while block:
            line, _, block = block.partition(b"\n")
            if line.strip() and not _SEPARATOR_LINE.fullmatch(line):
                return first, line, block
            first += 1
    raise record_error("line", 1, None, f"there is no header; name the columns, such as {','.join(FIELDS[1:4])}")


class _Table:
    """Reads blocks of lines of a CSV log.

    Parameters
    ----------
    number, header
        Number of the header's line, and the line.
    limits
        Limits of the log.
    """

    def __init__(self, number: int, header: bytes, limits: LogLimits) -> None:
        self._limits = limits
        self._header, self._separator = _split_header(number, header, limits.options)
        self._is_aum = set(_AUM_COLUMNS) <= set(self._header)
        self._names = self._header if self._is_aum else _check_header(number, self._header, limits.options)
        """The field of each column, ``""`` for others; those of AUM's records keep their names."""
        self._rest, self._rest_line = b"", 0  # the first lines of a record whose quoted value is not complete
        self._sample_type = "int64"  # until a block has texts

    def check_end(self) -> None:
        """Check that no quoted value is cut off."""
        if self._rest:
            reason = "it is not CSV: a quoted value begins here and does not end"
            raise record_error("line", self._rest_line, None, reason)

    def read_block(self, first: int, block: bytes) -> tuple[RowNumbers, Mapping[str, Values]]:
        """Read a block of lines; return the numbers of the lines on which the records begin, and the fields.

        Parameters
        ----------
        first
            Number of the first line.
        block
            The lines.
        """
        rows = RowNumbers.count_from("line", first, block.count(b"\n") + 1)
        is_slow = self._rest or self._is_aum or _needs_slow_path(block)
        fields = None if is_slow else self._read_with_pyarrow(block, rows.numbers.size)
        return self._read_records(first, block) if fields is None else (rows, fields)

    def _read_with_pyarrow(self, block: bytes, n_lines: int) -> dict[str, Values] | None:
        """Read all fields with pyarrow; return None if pyarrow cannot read the block, or not as it is meant."""
        if find_spec("pyarrow") is None:
            return None
        table, sample_type = None, self._sample_type
        if sample_type == "int64" and not _has_padded_number(block):
            table = _read_table(self._names, self._separator, block, "int64")
        if table is None:
            table, sample_type = _read_table(self._names, self._separator, block, "string"), "string"
        if table is None or table.num_rows != n_lines or table["epoch"].null_count or table["sample"].null_count:
            return None
        if not _has_padded_number(block):
            self._sample_type = sample_type  # of the blocks that follow, too
        fields: dict[str, Values] = {}
        for name in table.column_names:
            if name == "sample" and sample_type == "string":
                fields[name] = self._parse_samples(table[name].to_pylist())
            elif (column := _convert_column(name, table[name])) is not None:
                fields[name] = column
            else:
                return None
        return fields

    def _read_records(self, first: int, block: bytes) -> tuple[RowNumbers, dict[str, Values]]:
        """Read all fields record by record; return them with the numbers of the lines on which the records begin."""
        if self._rest:
            first, block, self._rest = self._rest_line, self._rest + b"\n" + block, b""
        numbers, records = [], []
        for number, cells in self._split_records(first, block):
            texts = list(map(str.strip, cells))
            if not any(texts) or texts == self._header:  # written again by a program that appends tables
                continue
            if len(texts) != len(self._names):
                reason = f"it has {len(texts)} cells, the header names {len(self._names)}"
                raise record_error("line", number, None, reason)
            numbers.append(number)
            records.append(texts)
        rows = RowNumbers("line", np.array(numbers, dtype=np.int64))
        cells_by_name = {name: [texts[index] for texts in records] for index, name in enumerate(self._names)}
        if self._is_aum:
            cells_by_name = _convert_aum_cells(rows, cells_by_name)
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
                    reason = "it is not CSV: a quoted value begins here and does not end within MILD_MAX_RECORD_BYTES"
                    raise record_error("line", self._rest_line, None, reason) from error
                return
            yield first + n_read, cells


def _split_header(line: int, text: bytes, options: LogOptions) -> tuple[list[str], str]:
    """Return the header's cells and separator: the one that gives the columns that are needed, else most of them."""
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
    needed = (required, set(_AUM_COLUMNS))
    fitting = [mark for mark, names in headers.items() if any(columns <= set(names) for columns in needed)]
    separator = fitting[0] if fitting else max(headers, key=lambda mark: len(headers[mark]))
    return headers[separator], separator


def _check_header(line: int, names: list[str], options: LogOptions) -> list[str]:
    """Return the field of each column, ``""`` for others, after checking that they are complete and unique."""
    if set(names) == {"sample_id", "aum"}:
        reason = (
            "it is the header of aum_values.csv, which has no epochs; give full_aum_records.csv, which "
            "AUMCalculator(…, compressed=False) writes next to it"
        )
        raise record_error("line", line, None, reason)
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


def _convert_aum_cells(rows: RowNumbers, cells: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Convert the cells of AUM's records to those of a log, by field; a margin of NaN leaves no outcome."""
    names, measurements, labels, others, margins = (cells[name] for name in _AUM_COLUMNS)
    epochs, predicted = [], []
    for position, (count, margin, label, other) in enumerate(zip(measurements, margins, labels, others, strict=True)):
        if not (count.isascii() and count.isdigit() and int(count)):
            reason = f"got {abbreviate(count)}, a number of measurements from 1 on is needed"
            raise rows.make_error(position, "num_measurements", reason)
        difference = _parse_margin(rows, position, margin)
        epochs.append(str(int(count) - 1))
        predicted.append("" if math.isnan(difference) else label if difference > 0 else other)
    return {"epoch": epochs, "sample": list(names), "label": list(labels), "predicted": predicted}


def _parse_margin(rows: RowNumbers, position: int, text: str) -> float:
    """Return the margin in a cell; NaN if the cell is empty, as pandas writes NaN."""
    try:
        return float(text or "nan")
    except ValueError:
        raise rows.make_error(position, "margin", f"got {abbreviate(text)}, a number is needed") from None
