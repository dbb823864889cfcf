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

from mild_core.fields import field_types
from mild_core.types import SelectionOptions
from mild_service.web.bodies import RequestModel, WholeNumber

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_NONE: Mapping[str, Any] = MappingProxyType({})


def request_fields(
    cls: "type[DataclassInstance]",
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    types: Mapping[str, Any] = _NONE,
    optional: bool = False,
) -> type[RequestModel]:
    """Base model of a request with the fields of `cls`.

    Whole numbers are checked against their limits here. The limits of other numbers are only documented: the
    dataclass checks them itself, and its message names the remedy.

    Parameters
    ----------
    cls
        A dataclass whose fields have `mild_core.fields.describe` for metadata.
    only, without
        Names of the fields to take, or to leave out.
    types
        Types of fields that the web narrows further, by name.
    optional
        Whether each field may be left out, or be null, whatever its own default is.
    """
    definitions: dict[str, Any] = {}
    for field in fields(cls):
        if field.name in without or (only is not None and field.name not in only):
            continue
        annotation = types.get(field.name) or _request_type(field_types(cls)[field.name], field)
        info = _field_info(field)
        if optional:
            definitions[field.name] = (annotation | None, PydanticField(None, **info))
        elif field.default_factory is not MISSING:
            make = annotation if field.name in types and isinstance(annotation, type) else field.default_factory
            definitions[field.name] = (annotation, PydanticField(default_factory=make, **info))
        else:
            default = ... if field.default is MISSING else field.default
            definitions[field.name] = (annotation, PydanticField(default, **info))
    return create_model(f"{cls.__name__}Fields", __base__=RequestModel, **definitions)


@cache
def response_model(cls: "type[DataclassInstance]", complete: bool = False) -> type[BaseModel]:
    """Model of a response with the name, documentation and described fields of `cls`, nested dataclasses included.

    Fields with a default may be left out of an answer, unless it is `complete`.
    """
    definitions: dict[str, Any] = {}
    for field in fields(cls):
        if field.metadata:
            default = ... if complete or field.default is MISSING else field.default
            annotation = _response_type(field_types(cls)[field.name], complete)
            definitions[field.name] = (annotation, PydanticField(default, **_field_info(field)))
    config = ConfigDict(populate_by_name=True, from_attributes=True)
    return create_model(cls.__name__, __config__=config, __doc__=cls.__doc__, **definitions)


def query_parameters(cls: "type[DataclassInstance]") -> Callable[..., Any]:
    """A dependency that reads the fields of `cls` from the query and returns a dict of those that are there."""
    types = field_types(cls)

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
    """Type of a field in a JSON request: 60.0 is read as 60, and limits of whole numbers hold."""
    low, high = field.metadata.get("low"), field.metadata.get("high")
    bounded = Annotated[WholeNumber, PydanticField(ge=low, le=high)]
    if annotation is int:
        return bounded
    if annotation == (int | None):
        return bounded | None
    return _documented_type(annotation, field)


def _documented_type(annotation: Any, field: "Field[Any]") -> Any:
    """Type of a field whose limits the dataclass checks: finite, with the limits in OpenAPI."""
    if annotation not in (float, float | None):
        return annotation
    limits = {"minimum": field.metadata["low"], "maximum": field.metadata["high"]}
    number = Annotated[FiniteFloat, PydanticField(json_schema_extra=limits)]
    return number if annotation is float else number | None


def _response_type(annotation: Any, complete: bool) -> Any:
    """`annotation` with a model in place of each dataclass."""
    if is_dataclass(annotation) and isinstance(annotation, type):
        return response_model(annotation, complete)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None or origin is Literal:
        return annotation
    replaced = tuple(_response_type(argument, complete) for argument in arguments)
    return reduce(or_, replaced) if origin in (Union, UnionType) else origin[replaced]


def _field_info(field: "Field[Any]") -> dict[str, Any]:
    info = {"description": field.metadata.get("text")}
    return info | ({"alias": alias} if (alias := field.metadata.get("alias")) else {})


if TYPE_CHECKING:
    _OptionFields = RequestModel
else:
    _OptionFields = request_fields(SelectionOptions)


class SelectionRequest(_OptionFields):
    """Options of a selection; what is left out has its default."""

    def sent_options(self) -> dict[str, Any]:
        """The options that the request holds, by name."""
        return self.model_dump(exclude_unset=True)

    def options(self) -> SelectionOptions:
        """All options, checked.

        Raises
        ------
        ParameterError
            If one is out of its range.
        """
        return SelectionOptions(**self.model_dump()).checked()
