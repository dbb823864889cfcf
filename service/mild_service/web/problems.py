"""Errors to answers: the one table from error to status, and RFC 9457 problem details as bodies."""

import json
import logging
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from mild_core import errors as core
from mild_core.errors import MildError
from mild_service import errors
from mild_service.observability import Telemetry

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUSES: Mapping[type[MildError], int] = {
    core.InvalidInput: 422,
    errors.MalformedBody: 400,
    errors.BodyTooLarge: 413,
    errors.ClientTooOld: 400,
    errors.SlowBody: 408,
    errors.UnsupportedMediaType: 415,
    errors.NotAcceptable: 406,
    errors.RunNotFound: 404,
    errors.SampleNotFound: 404,
    errors.AccessError: 403,
    errors.Unauthenticated: 401,
    errors.RateLimited: 429,
    errors.PreconditionFailed: 412,
    errors.Conflict: 409,
    errors.Overloaded: 503,
    errors.DeadlineExceeded: 503,
    errors.ShuttingDown: 503,
    errors.StoreUnavailable: 503,
    errors.StoreFull: 507,
    MildError: 500,
}
"""An error takes the status of its nearest ancestor in this table."""

_RETRY_AFTER = {503: "1"}


class RouteNotFound(MildError):
    """No route has this path."""

    code = "not-found"
    title = "No such route"


class MethodNotAllowed(MildError):
    """The route does not take this method."""

    code = "method-not-allowed"
    title = "Method not allowed"


class InternalError(MildError):
    """The service failed in a way that nobody foresaw; its log has the request id."""

    code = "internal-error"
    title = "Internal error"


_BY_STATUS: Mapping[int, type[MildError]] = {
    400: errors.MalformedBody,
    404: RouteNotFound,
    405: MethodNotAllowed,
    408: errors.SlowBody,
    413: errors.BodyTooLarge,
}
"""What the framework raises by itself."""


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(description="Stable code, `/problems/<code>`; that address describes it.")
    title: str
    status: int
    detail: str = Field(description="The limit, the value got, and the remedy.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    line: int | None = Field(None, description="Line (or row) of the record that is to blame, where a log was sent.")
    request_id: str = Field(description="Names this request in the service's log.")


def status_of(error: type[MildError]) -> int:
    """HTTP status of an error."""
    if error in (RouteNotFound, MethodNotAllowed):
        return 404 if error is RouteNotFound else 405
    return next(STATUSES[ancestor] for ancestor in error.__mro__ if ancestor in STATUSES)


def catalogue() -> dict[str, dict[str, Any]]:
    """Every problem by its code: title, status, retryable and description."""
    return {
        kind.code: {
            "type": f"/problems/{kind.code}",
            "title": kind.title,
            "status": status_of(kind),
            "retryable": kind.retryable,
            "description": (kind.__doc__ or "").strip(),
        }
        for kind in sorted(_kinds(), key=lambda kind: kind.code)
    }


def described(*kinds: type[MildError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the problems that a route may answer with."""
    by_status: dict[int | str, dict[str, Any]] = {}
    everywhere: tuple[type[MildError], ...] = (
        errors.StoreUnavailable,
        errors.DeadlineExceeded,
        errors.ClientTooOld,
        InternalError,
    )
    receiving = (errors.SlowBody,) if errors.BodyTooLarge in kinds else ()
    for kind in kinds + receiving + everywhere:
        entry = by_status.setdefault(
            status_of(kind), {"model": Problem, "content": {MEDIA_TYPE: {}}, "description": ""}
        )
        entry["description"] += f"{', ' if entry['description'] else ''}`{kind.code}`"
    return by_status


def answer(
    request: Request,
    kind: type[MildError],
    detail: str,
    headers: Mapping[str, str] | None = None,
    line: int | None = None,
) -> Response:
    """A problem as a response."""
    status = status_of(kind)
    telemetry: Telemetry = request.app.state.telemetry
    telemetry.problems.labels(kind.code).inc()
    problem = Problem(
        type=f"/problems/{kind.code}",
        title=kind.title,
        status=status,
        detail=detail,
        retryable=kind.retryable,
        line=line,
        request_id=request.state.request_id,
    )
    headers = dict(headers or {})
    if status in _RETRY_AFTER:
        headers["Retry-After"] = _RETRY_AFTER[status]
    # json's escapes, as a detail may quote text that is no valid Unicode
    return Response(json.dumps(problem.model_dump(exclude_none=True)), status, headers, media_type=MEDIA_TYPE)


def refuse(request: Request, error: MildError, headers: Mapping[str, str] | None = None) -> Response:
    """An error as a response; the log is told of those that are the service's own."""
    if status_of(type(error)) >= 500:
        logger.error("request %s: %s: %s", request.state.request_id, error.code, error)
    return answer(request, type(error), str(error), headers, error.line)


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""
    app.add_exception_handler(MildError, _mild_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(ClientDisconnect, _disconnected)


async def _mild_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MildError)
    return refuse(request, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if isinstance(error.body, bytes):
        got = request.headers.get("content-type", "none")
        return answer(
            request, errors.UnsupportedMediaType, f"this body is read as application/json, got content type {got!r}"
        )
    if any(entry["type"] == "json_invalid" for entry in found):
        return answer(request, errors.MalformedBody, f"the body is not JSON: {_reason(found[0])}; send valid JSON")
    return answer(request, errors.InvalidRequest, explain(found))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(error.status_code, InternalError)
    detail, headers = error.detail, dict(error.headers or {})
    if kind is RouteNotFound:
        detail = f"no route has the path {request.url.path!r}; see /docs for those that there are"
    elif kind is MethodNotAllowed:
        headers["Allow"] = _allowed(request) or headers.get("Allow", "")
        detail = f"{request.url.path!r} does not take {request.method}, but {headers['Allow']}"
    return answer(request, kind, detail, headers)


def _allowed(request: Request) -> str:
    """Every method that the path takes; the framework names only those of the first route that has it."""
    paths: Mapping[str, Mapping[str, Any]] = request.app.openapi()["paths"]
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    found = [methods for template, methods in paths.items() if compile_path(template)[0].match(path)]
    return ", ".join(sorted({method.upper() for methods in found for method in methods}))


async def _disconnected(request: Request, error: Exception) -> Response:
    return answer(request, errors.MalformedBody, "the connection was closed before the body had ended; send it again")


def unforeseen(request: Request, error: Exception) -> Response:
    """The answer to an error that nobody foresaw: the log has its cause, the caller a name for it."""
    logger.error("request %s failed: %r", request.state.request_id, error, exc_info=error)
    return answer(
        request, InternalError, f"the service failed; its log has the cause under request {request.state.request_id}"
    )


def explain(found: Iterable[Any]) -> str:
    """Validation errors as one line: where, what is allowed, what was got."""
    lines = []
    for entry in list(found)[:5]:
        place = ".".join(str(part) for part in entry["loc"]) or "body"
        got = "" if entry["type"] == "missing" else f", got {reprlib.repr(entry['input'])}"
        lines.append(f"{place}: {_reason(entry)}{got}")
    return "; ".join(lines) + "; see /docs for what this route takes"


def _reason(entry: Mapping[str, Any]) -> str:
    return str(entry.get("ctx", {}).get("error") or entry["msg"])


def _kinds() -> set[type[MildError]]:
    """Every error that is raised as such: the tree's leaves, and the inner nodes that are."""
    kinds: list[type[MildError]] = [RouteNotFound, MethodNotAllowed, InternalError]
    kinds += [value for module in (core, errors) for value in vars(module).values() if _is_error(value)]
    inner = {parent for kind in kinds for parent in kind.__mro__[1:]} - {core.InvalidInput, errors.StoreUnavailable}
    return set(kinds) - inner


def _is_error(value: object) -> TypeGuard[type[MildError]]:
    """Whether `value` is an error that answers a request; those of commands and of the start-up never do."""
    ends_process = (errors.CommandError, errors.ConfigurationError)
    return isinstance(value, type) and issubclass(value, MildError) and not issubclass(value, ends_process)
