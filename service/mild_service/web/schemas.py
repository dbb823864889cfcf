"""Pydantic models and query parameters made of described dataclasses, so that a field is declared once.

The declarations are in `mild_core.types`.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache, reduce
from operator import or_
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from fastapi import Query
from pydantic import BaseModel, ConfigDict, FiniteFloat, create_model
from pydantic import Field as PydanticField

from mild_core.fields import resolve_field_types
from mild_core.types import SelectionOptions
from mild_service.web.bodies import RequestModel, WholeNumber

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_NONE: Mapping[str, Any] = MappingProxyType({})


def make_request_model(
    cls: "type[DataclassInstance]",
    include: Collection[str] | None = None,
    exclude: Collection[str] = (),
    types: Mapping[str, Any] = _NONE,
    all_optional: bool = False,
) -> type[RequestModel]:
    """Make a base class for JSON requests with the fields of a dataclass.

    Whole numbers are checked against their limits here. The limits of other numbers are only documented: the
    dataclass checks them itself, and its message names the remedy.

    Parameters
    ----------
    cls
        A dataclass whose fields have `mild_core.fields.describe` for metadata.
    include, exclude
        Names of the only fields to take (None for all), and of fields to leave out.
    types
        Types of fields that requests restrict further than the dataclass, by name.
    all_optional
        Whether every field may be absent or null, whatever its default in the dataclass is.
    """
    definitions: dict[str, Any] = {}
    for field in fields(cls):
        if field.name in exclude or (include is not None and field.name not in include):
            continue
        annotation = types.get(field.name) or _request_type(resolve_field_types(cls)[field.name], field)
        info = _field_info(field)
        if all_optional:
            definitions[field.name] = (annotation | None, PydanticField(None, **info))
        elif field.default_factory is not MISSING:
            definitions[field.name] = (annotation, PydanticField(default_factory=field.default_factory, **info))
        else:
            default = ... if field.default is MISSING else field.default
            definitions[field.name] = (annotation, PydanticField(default, **info))
    return create_model(f"{cls.__name__}Fields", __base__=RequestModel, **definitions)


@cache
def make_response_model(cls: "type[DataclassInstance]", all_required: bool = False) -> type[BaseModel]:
    """Make a response model with the name, docstring and described fields of a dataclass, nested ones included.

    Parameters
    ----------
    cls
        A dataclass. Only its fields with `mild_core.fields.describe` as metadata are taken.
    all_required
        Whether every field is in each response. Otherwise, fields with a default may be absent.
    """
    definitions: dict[str, Any] = {}
    for field in fields(cls):
        if field.metadata:
            default = ... if all_required or field.default is MISSING else field.default
            annotation = _response_type(resolve_field_types(cls)[field.name], all_required)
            definitions[field.name] = (annotation, PydanticField(default, **_field_info(field)))
    config = ConfigDict(populate_by_name=True, from_attributes=True)
    return create_model(cls.__name__, __config__=config, __doc__=cls.__doc__, **definitions)


def make_query_dependency(cls: "type[DataclassInstance]") -> Callable[..., Any]:
    """Return a FastAPI dependency that reads the fields of `cls` from the query, as a dict of those that it has."""
    types = resolve_field_types(cls)

    async def read(**sent: Any) -> dict[str, Any]:
        return {name: value for name, value in sent.items() if value is not None}

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _documented_type(types[field.name], field) | None, Query(description=field.metadata["text"])
            ],
        )
        for field in fields(cls)
    ]
    read.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what FastAPI reads
    return read


def _request_type(annotation: Any, field: "Field[Any]") -> Any:
    """Return the type of a field in a JSON request, in which 60.0 counts as 60 and limits of integers are checked."""
    low, high = field.metadata.get("low"), field.metadata.get("high")
    bounded = Annotated[WholeNumber, PydanticField(ge=low, le=high)]
    if annotation is int:
        return bounded
    if annotation == (int | None):
        return bounded | None
    return _documented_type(annotation, field)


def _documented_type(annotation: Any, field: "Field[Any]") -> Any:
    """Return the type of a field with its limits in OpenAPI only, since the dataclass checks them."""
    if annotation not in (float, float | None):
        return annotation
    limits = {"minimum": field.metadata["low"], "maximum": field.metadata["high"]}
    number = Annotated[FiniteFloat, PydanticField(json_schema_extra=limits)]
    return number if annotation is float else number | None


def _response_type(annotation: Any, all_required: bool) -> Any:
    """Return `annotation` with a response model in place of each dataclass."""
    if is_dataclass(annotation) and isinstance(annotation, type):
        return make_response_model(annotation, all_required)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None or origin is Literal:
        return annotation
    replaced = tuple(_response_type(argument, all_required) for argument in arguments)
    return reduce(or_, replaced) if origin in (Union, UnionType) else origin[replaced]


def _field_info(field: "Field[Any]") -> dict[str, Any]:
    """Return the description and the alias of a field, as arguments of pydantic's `Field`."""
    info = {"description": field.metadata.get("text")}
    return info | ({"alias": alias} if (alias := field.metadata.get("alias")) else {})


if TYPE_CHECKING:
    _OptionFields = RequestModel
else:
    _OptionFields = make_request_model(SelectionOptions)


class SelectionRequest(_OptionFields):
    """Options of a selection. Options that are absent have their defaults."""

    def sent_options(self) -> dict[str, Any]:
        """Return the options that the request contains, by name."""
        return self.model_dump(exclude_unset=True)

    def make_options(self) -> SelectionOptions:
        """Return all options, with defaults for those that the request does not contain."""
        return SelectionOptions(**self.model_dump()).validate()
