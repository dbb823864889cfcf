"""Descriptions and limits of dataclass fields: declared once, read by checks, by the service and by the command line.

A field says what it is where it is declared::

    p: float = declare_field(0.5, "posterior: largest noisy posterior kept.", 0, 1)
"""

from collections.abc import Mapping
from dataclasses import Field, field, fields
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from mild_core.errors import ParameterError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def describe(
    text: str, low: float | None = None, high: float | None = None, *, alias: str | None = None, **more: Any
) -> Mapping[str, Any]:
    """Metadata of a dataclass field.

    Parameters
    ----------
    text
        What the field is, in one sentence; ends with a full stop.
    low, high
        Smallest and largest value that is accepted; None: no limit.
    alias
        Name on the wire, where that is a Python keyword.
    more
        What one reader needs beyond that, such as the help's group of an option.
    """
    return MappingProxyType({"text": text, "low": low, "high": high, "alias": alias, **more})


def declare_field(default: Any, text: str, low: float | None = None, high: float | None = None, **more: Any) -> Any:
    """A dataclass field with a default and the metadata of `describe`."""
    return field(default=default, metadata=describe(text, low, high, **more))


def wire_name(described_field: "Field[Any]") -> str:
    """Name of a field on the wire."""
    return described_field.metadata.get("alias") or described_field.name


@cache
def field_types(cls: "type[DataclassInstance]") -> Mapping[str, Any]:
    """Types of a dataclass' fields by name, annotations resolved."""
    return MappingProxyType(get_type_hints(cls))


def literal_values(annotation: Any) -> tuple[Any, ...]:
    """Values of a Literal type; empty for any other type."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def check_fields(values: "DataclassInstance") -> None:
    """Check every described field of a dataclass against its choices and limits.

    Raises
    ------
    ParameterError
        If a choice is unknown or a number is outside its limits; None passes.
    """
    types = field_types(type(values))
    for each in fields(values):
        value = getattr(values, each.name)
        choices = literal_values(types[each.name])
        if choices and value not in choices:
            raise ParameterError(f"{each.name} is {value!r}; choose one of {', '.join(choices)}")
        low, high = each.metadata.get("low"), each.metadata.get("high")
        if value is None or (low is None and high is None):
            continue
        if not (low is None or low <= value) or not (high is None or value <= high):
            raise ParameterError(f"{each.name} is {value}; give a number in {_limit(low)}..{_limit(high)}")


def _limit(number: float | None) -> str:
    return "" if number is None else f"{number:g}" if isinstance(number, float) else str(number)
