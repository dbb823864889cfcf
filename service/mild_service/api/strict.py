"""What all JSON requests have in common: they refuse unknown fields, and numbers in strings."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

MAX_ENTRIES = 64
"""Of an object in a request."""


def few(value: object) -> object:
    """Count before anything is looked into: a million unknown fields would be a million errors."""
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries, at most {MAX_ENTRIES} are read")
    return value


def _whole(value: object) -> object:
    """Take 60.0 for 60: to JSON, and to its schemas, that is one number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Strict(BaseModel):
    """A request: no unknown fields, no numbers in strings."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _count(cls, value: object) -> object:
        return few(value)
