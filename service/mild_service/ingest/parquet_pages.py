"""What Parquet's page headers claim, looked at before a page is inflated: its reader takes whatever they say.

The headers are structs of Thrift's compact protocol; pyarrow does not show them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from mild_service.errors import MalformedBody
from mild_service.ingest.records import Limits, too_large

_DELTA_BYTE_ARRAY = 7
_DEEPEST = 8
"""Page headers hold structs in structs in structs."""
_TYPE, _UNCOMPRESSED, _COMPRESSED, _DATA, _DATA_V2 = 1, 2, 3, 5, 8
_ENCODING = {_DATA: 2, _DATA_V2: 4}
"""Where the header of a data page says how it is encoded."""
Struct: TypeAlias = dict[int, Any]


@dataclass(frozen=True)
class _Page:
    """What a page's header says, narrowed to what may be relied on."""

    n_bytes: int
    """Once inflated."""
    n_stored: int
    encodings: tuple[object, ...]
    """Of a data page; none of them need be known."""


def check_pages(data: memoryview, metadata: Any, names: list[str], limits: Limits) -> None:
    """Refuse a file whose pages take too much memory.

    Parameters
    ----------
    data
        The whole file.
    metadata
        Its footer, as pyarrow has read it.
    names
        The columns that are read; others are not looked at.

    Raises
    ------
    LimitExceeded
        If a page of one is too large.
    MalformedBody
        If a page has no header, or an encoding in which few bytes may stand for any number of them.
    """
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            # A column may be nested, and without values no page of it is looked for.
            if column.path_in_schema.partition(".")[0] in names and column.num_values > 0:
                _check_column(data, column, limits)


def _check_column(data: memoryview, column: Any, limits: Limits) -> None:
    name, start = column.path_in_schema, column.data_page_offset
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
        start = column.dictionary_page_offset
    for page in _pages(data, start, start + column.total_compressed_size):
        if column.compression != "UNCOMPRESSED" and page.n_bytes > limits.block_bytes:
            raise too_large(f"a page of column {name} has {page.n_bytes} bytes when inflated", "smaller pages", limits)
        if _DELTA_BYTE_ARRAY in page.encodings:
            raise MalformedBody(
                f"column {name} is encoded as DELTA_BYTE_ARRAY, which is not read here; write it as plain, or with a "
                "dictionary"
            )


def _pages(data: memoryview, start: int, end: int) -> Iterator[_Page]:
    """What the headers of all pages of a column say."""
    if not 0 <= start <= end <= len(data):
        raise MalformedBody(f"the body is no Parquet file (a column from byte {start} to {end}); write it again")
    at = start
    while at < end:
        try:
            header, at = _struct(data[:end], at, 0)
            page = _page(header)
        except IndexError:
            page = None
        if page is None or at + page.n_stored > end:
            raise MalformedBody(f"the body is no Parquet file (a page header before byte {at}); write it again")
        at += page.n_stored
        yield page


def _page(header: Struct) -> _Page | None:
    """None if the header is not a page's: any field may be of any type, or missing."""
    n_bytes, n_stored = header.get(_UNCOMPRESSED), header.get(_COMPRESSED)
    kinds = [(header.get(kind, {}), field) for kind, field in _ENCODING.items()]
    if not (isinstance(n_bytes, int) and isinstance(n_stored, int)) or n_bytes < 0 or n_stored < 0:
        return None
    if not all(isinstance(kind, dict) for kind, _ in kinds):
        return None
    return _Page(n_bytes, n_stored, tuple(kind.get(field) for kind, field in kinds))


def _struct(data: memoryview, at: int, depth: int) -> tuple[Struct, int]:
    """A struct by its fields' numbers, and the place behind it. May raise `IndexError`, as all below."""
    if depth > _DEEPEST:
        raise IndexError
    found: Struct = {}
    field = 0
    while (byte := data[at]) != 0:
        at += 1
        if byte >> 4:
            field += byte >> 4
        else:
            field, at = _integer(data, at)
        found[field], at = _value(data, at, byte & 15, depth)
    return found, at + 1


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        n_bytes, at = _varint(data, at)
        return None, at + n_bytes
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise IndexError  # page headers hold no lists, sets and maps


def _integer(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError
