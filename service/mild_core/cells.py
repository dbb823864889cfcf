"""Cells of tables of text, which logs and files of labels read alike."""

import re
from collections.abc import Sequence

ABSENT = ("", "NA", "NaN", "nan")
"""Cells without a value, as spreadsheets, R and pandas write them."""
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


def parse_cell(text: str, separator: str = ",") -> float | str | None:
    """Return the number in a cell; None if the cell is empty, and its text if it holds something else.

    A decimal comma is read where `separator` is not the comma.
    """
    if text in ABSENT:
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    number = text if separator == "," else text.replace(",", ".")
    return float(number) if _NUMBER.fullmatch(number) else text


def parse_column(texts: Sequence[str], separator: str = ",") -> list[float | str | None]:
    """Return the numbers in cells, or their texts if any cell holds something else; None for empty cells."""
    values = [parse_cell(text, separator) for text in texts]
    if any(isinstance(value, str) for value in values):
        return [None if value is None else text for text, value in zip(texts, values, strict=True)]
    return values
