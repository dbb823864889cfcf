"""What the rules mean for callers, in OpenAPI: the key that each route asks for, and how it refuses.

What routes have in common in refusing, for OpenAPI; and how it describes a body of bits.
"""

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
from mild_service.web import bodies
from mild_service.web.auth import COOKIE, RULES, Rule
from mild_service.web.problems import MEDIA_TYPE, status_of

_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key; not needed where the service runs open."},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "A login at /ui/login."},
}


def declare_access(app: FastAPI) -> None:
    """Add to `app`'s OpenAPI document what its rules ask for."""
    plain: Callable[[], dict[str, Any]] = app.openapi

    def described() -> dict[str, Any]:
        document = plain()
        components = document.setdefault("components", {})
        if "securitySchemes" not in components:  # else it is the one from before, which is kept
            components["securitySchemes"] = _SCHEMES
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    rule = RULES.get(f"{method.upper()} {path}")
                    if rule is not None and rule.scope is not None:
                        _declare(operation, method, path, rule)
        return document

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _declare(operation: dict[str, Any], method: str, path: str, rule: Rule) -> None:
    operation["security"] = [{"key": [rule.scope]}, {"session": [rule.scope]}]
    kinds: list[type[MildError]] = [Unauthenticated, Forbidden, RateLimited]
    if method != "get":
        kinds.append(CrossSite)
    if "{run_id}" in path and not rule.creates:
        kinds.append(RunNotFound)
    for kind in kinds:
        _add(operation["responses"], kind)


def _add(responses: dict[str, Any], kind: type[MildError]) -> None:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    entry = responses.setdefault(str(status_of(kind)), {"description": "", "content": content})
    if f"`{kind.code}`" not in entry["description"]:
        entry["description"] += f"{', ' if entry['description'] else ''}`{kind.code}`"


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
