"""Descriptions and limits of dataclass fields, declared once for the checks, the service and the command line.

A field is described where it is declared::

    p: float = declare_field(0.5, "posterior: largest noisy posterior kept.", 0, 1)
"""

from collections.abc import Mapping
from dataclasses import Field, field, fields
from functools import cache
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from mild_core.errors import ParameterError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def describe(
    text: str, low: float | None = None, high: float | None = None, *, alias: str | None = None, **extra: Any
) -> Mapping[str, Any]:
    """Return the metadata of a dataclass field: its description and its limits.

    Parameters
    ----------
    text
        Description of the field: one sentence that ends with a full stop.
    low, high
        Smallest and largest value that is accepted; None for no limit.
    alias
        Name of the field on the wire, if the name is a Python keyword; else None.
    extra
        Further metadata for one reader, such as the group of an option in the help of the command line.
    """
    return MappingProxyType({"text": text, "low": low, "high": high, "alias": alias, **extra})


def declare_field(default: Any, text: str, low: float | None = None, high: float | None = None, **extra: Any) -> Any:
    """Create a dataclass field with a default and the metadata of `describe`."""
    return field(default=default, metadata=describe(text, low, high, **extra))


def describe_field(text: str) -> Any:
    """Create a dataclass field without a default, which `text` describes."""
    return field(metadata=describe(text))


def get_wire_name(described_field: "Field[Any]") -> str:
    """Return the name of a field on the wire: its alias, or its own name if it has none."""
    return described_field.metadata.get("alias") or described_field.name


@cache
def resolve_field_types(cls: "type[DataclassInstance]") -> Mapping[str, Any]:
    """Return the types of the fields of a dataclass by field name, with string annotations resolved."""
    return MappingProxyType(get_type_hints(cls))


def get_literal_values(annotation: Any) -> tuple[Any, ...]:
    """Return the values of a Literal type; empty for any other type."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def check_fields(values: "DataclassInstance") -> None:
    """Check the values of a dataclass instance against the choices and limits of its fields.

    A value of None passes the limits.
    """
    types = resolve_field_types(type(values))
    for dataclass_field in fields(values):
        value = getattr(values, dataclass_field.name)
        choices = get_literal_values(types[dataclass_field.name])
        if choices and value not in choices:
            raise ParameterError(f"{dataclass_field.name} is {value!r}; choose one of {', '.join(choices)}")
        low, high = dataclass_field.metadata.get("low"), dataclass_field.metadata.get("high")
        if value is None or (low is None and high is None):
            continue
        if not isinstance(value, Real):
            raise ParameterError(f"{dataclass_field.name} is {value!r}; give a number")
        if not (low is None or low <= value) or not (high is None or value <= high):
            limits = f"{_format_limit(low)}..{_format_limit(high)}"
            raise ParameterError(f"{dataclass_field.name} is {value}; give a number in {limits}")


def _format_limit(number: float | None) -> str:
    """Format a limit for an error message; empty for no limit."""
    return "" if number is None else f"{number:g}" if isinstance(number, float) else str(number)
