"""Fields of the records of a prediction log, the columns that hold them, and the names of classes in them, as texts."""

import csv
import io
from collections.abc import Mapping, Sequence

from mild_core.errors import ParameterError

FIELDS = ("round", "epoch", "sample", "correct", "predicted", "label")
"""Fields of a record; all others are ignored."""


def parse_columns(text: str, option: str = "columns") -> dict[str, str]:
    """Return the column of each field in a text such as ``sample=id,label=target``; `option` names it in messages."""
    columns: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or name not in FIELDS or not column:
            raise ParameterError(
                f"{option} has {part!r}; give FIELD=COLUMN with one of {', '.join(FIELDS)}, such as sample=id"
            )
        if name in columns or column in columns.values():
            raise ParameterError(f"{option} names {name if name in columns else column} twice; name each once")
        columns[name] = column
    return columns


def format_columns(columns: Mapping[str, str]) -> str:
    """Return the text that `parse_columns` reads; raise `ParameterError` if it would read another one."""
    text = ",".join(f"{name}={column}" for name, column in columns.items())
    if parse_columns(text) != dict(columns):
        raise ParameterError(
            f"columns are {dict(columns)!r:.200}, and a name with a comma or blanks around it cannot be sent; rename "
            "the column"
        )
    return text


def parse_class_names(text: str, option: str = "class_names") -> list[str]:
    """Return the names of classes in a text such as ``cat,dog,"tench, tinca tinca"``; `option` names it in messages."""
    try:
        return next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise ParameterError(
            f"{option} is {text[:60]!r}, which is no line of CSV ({error}); give names such as cat,dog,owl"
        ) from None


def format_class_names(names: Sequence[str]) -> str:
    """Return the text that `parse_class_names` reads."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(names)
    return out.getvalue()
