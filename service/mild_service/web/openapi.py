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
from mild_service.web.problems import status_of

_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key; not needed where the service runs open."},
    "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE, "description": "A login at /ui/login."},
}


def declare_security(app: FastAPI) -> None:
    """Add the keys that routes need, and the errors of access control, to the OpenAPI document of `app`."""
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
                        _declare_operation(operation, method, path, rule)
        return document

    app.openapi = generate_with_security  # type: ignore[method-assign]  # as FastAPI documents it


def _declare_operation(operation: dict[str, Any], method: str, path: str, rule: Rule) -> None:
    operation["security"] = [{"key": [rule.scope]}, {"session": [rule.scope]}]
    errors: list[type[MildError]] = [Unauthenticated, Forbidden, RateLimited]
    if method != "get":
        errors.append(CrossSite)
    if "{run_id}" in path and not rule.creates:
        errors.append(RunNotFound)
    for error in errors:
        _add_error(operation["responses"], error)


def _add_error(responses: dict[str, Any], error: type[MildError]) -> None:
    content = {media_types.PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    entry = responses.setdefault(str(status_of(error)), {"description": "", "content": content})
    if f"`{error.code}`" not in entry["description"]:
        entry["description"] += f"{', ' if entry['description'] else ''}`{error.code}`"


ROUND_ERRORS = (InvalidRequest, LimitExceeded, RunNotFound, RoundNotOpen)
"""Errors of a path that names no round or epoch."""
WRITE_ERRORS = (*ROUND_ERRORS, StaleAttempt, RoundFinished, StoreFull)
"""Errors of a write to a round."""
BODY_ERRORS = (MalformedBody, BodyTooLarge, UnsupportedMediaType)
"""Errors of a body that cannot be read."""
BITMAP_ERRORS = (*BODY_ERRORS, DigestMismatch, BitmapLengthError, TrailingBitsError)
"""Errors of a body that is not a bitmap of the run."""


def bitmap_body(description: str, **content: Any) -> dict[str, Any]:
    """Describe a request body of bitmaps, as a route's `openapi_extra`; `content` adds media types."""
    schema = {"type": "string", "format": "binary", "description": description}
    return {"requestBody": {"required": True, "content": {media_types.BITMAP: {"schema": schema}, **content}}}
