"""Parts of the OpenAPI document: the key that each route needs, groups of errors, and bodies of bits."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from mild_core.errors import BitmapLengthError, MildError, TrailingBitsError
from mild_service.errors import (
    BodyTooLarge,
    CrossSite,
    DigestMismatch,
    Forbidden,
    InvalidRequest,
    LimitExceeded,
    MalformedBody,
    RateLimited,
    RoundFinished,
    RoundNotOpen,
    RunNotFound,
    StaleAttempt,
    StoreFull,
    Unauthenticated,
    UnsupportedMediaType,
)
from mild_service.web import media_types
from mild_service.web.auth import RULES, SESSION_COOKIE, Rule
from mild_service.web.problems import get_http_status

_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key; not needed where the service runs open."},
    "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE, "description": "A login at /ui/login."},
}


def declare_security(app: FastAPI) -> None:
    """Add the scopes that routes require, and the errors of access control, to the OpenAPI document of `app`."""
    generate: Callable[[], dict[str, Any]] = app.openapi

    def generate_with_security() -> dict[str, Any]:
        document = generate()
        components = document.setdefault("components", {})
        if "securitySchemes" not in components:  # FastAPI caches the document
            components["securitySchemes"] = _SCHEMES
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    rule = RULES.get(f"{method.upper()} {path}")
                    if rule is not None and rule.scope is not None:
                        _declare_operation_security(operation, method, path, rule)
        return document

    app.openapi = generate_with_security  # type: ignore[method-assign]  # as FastAPI documents it


def _declare_operation_security(operation: dict[str, Any], method: str, path: str, rule: Rule) -> None:
    """Add the scope of a rule, and the errors of access control, to one operation of the document."""
    operation["security"] = [{"key": [rule.scope]}, {"session": [rule.scope]}]
    errors: list[type[MildError]] = [Unauthenticated, Forbidden, RateLimited]
    if method != "get":
        errors.append(CrossSite)
    if "{run_id}" in path and not rule.creates_run:
        errors.append(RunNotFound)
    for error in errors:
        _add_error_response(operation["responses"], error)


def _add_error_response(responses: dict[str, Any], error: type[MildError]) -> None:
    """Add an error to the responses of an operation, if they do not have it yet."""
    content = {media_types.PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    entry = responses.setdefault(str(get_http_status(error)), {"description": "", "content": content})
    if f"`{error.code}`" not in entry["description"]:
        entry["description"] += f"{', ' if entry['description'] else ''}`{error.code}`"


ROUND_ERRORS = (InvalidRequest, LimitExceeded, RunNotFound, RoundNotOpen)
"""Errors of a path whose run or round does not exist, or whose numbers are out of range."""
WRITE_ERRORS = (*ROUND_ERRORS, StaleAttempt, RoundFinished, StoreFull)
"""Errors of a write to a round."""
BODY_ERRORS = (MalformedBody, BodyTooLarge, UnsupportedMediaType)
"""Errors of a body that cannot be read."""
BITMAP_ERRORS = (*BODY_ERRORS, DigestMismatch, BitmapLengthError, TrailingBitsError)
"""Errors of a body that is not a bitmap of the run."""


def describe_bitmap_body(description: str, **content: Any) -> dict[str, Any]:
    """Return the `openapi_extra` of a route whose body is one or more bitmaps.

    Parameters
    ----------
    description
        What the bitmaps are.
    content
        OpenAPI description of further media types, by name.
    """
    schema = {"type": "string", "format": "binary", "description": description}
    return {"requestBody": {"required": True, "content": {media_types.BITMAP: {"schema": schema}, **content}}}
