"""What routes have in common in refusing, for OpenAPI; and how it describes a body of bits."""

from typing import Any

from mild_core.errors import BitmapLengthError, TrailingBitsError
from mild_service.api import bodies
from mild_service.conflicts import RoundFinished, RoundNotOpen, StaleAttempt
from mild_service.errors import (
    BodyTooLarge,
    DigestMismatch,
    InvalidRequest,
    LimitExceeded,
    MalformedBody,
    RunNotFound,
    StoreFull,
    UnsupportedMediaType,
)

PLACE = (InvalidRequest, LimitExceeded, RunNotFound, RoundNotOpen)
"""The round or epoch is none."""
WRITE = (*PLACE, StaleAttempt, RoundFinished, StoreFull)
"""The run does not take a write."""
BODY = (MalformedBody, BodyTooLarge, UnsupportedMediaType)
"""The body cannot be read."""
BITS = (*BODY, DigestMismatch, BitmapLengthError, TrailingBitsError)
"""The body is no bitmap of this run."""


def binary(description: str, **more: Any) -> dict[str, Any]:
    """A body of bits, as OpenAPI's extra of a route; `more` adds content types."""
    schema = {"type": "string", "format": "binary", "description": description}
    return {"requestBody": {"required": True, "content": {bodies.BITMAP: {"schema": schema}, **more}}}
