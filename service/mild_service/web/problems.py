"""Errors as HTTP responses: their status codes, and problem details (RFC 9457) as bodies."""

import gc
import json
import logging
import reprlib
import traceback
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
from mild_service.web import media_types

logger = logging.getLogger(__name__)


class RouteNotFound(MildError):
    """No route has this path."""

    code = "not-found"
    title = "No such route"


class MethodNotAllowed(MildError):
    """The route does not take this method."""

    title = "Method not allowed"


class InternalError(MildError):
    """The service failed unexpectedly; its log has the cause under the request id."""

    code = "internal-error"
    title = "Internal error"


STATUSES: Mapping[type[MildError], int] = {
    core.InvalidInput: 422,
    errors.MalformedBody: 400,
    errors.BodyTooLarge: 413,
    errors.ClientTooOld: 400,
    errors.SlowBody: 408,
    errors.UnsupportedMediaType: 415,
    errors.NotAcceptable: 406,
    RouteNotFound: 404,
    MethodNotAllowed: 405,
    errors.RunNotFound: 404,
    errors.SampleNotFound: 404,
    errors.AccessError: 403,
    errors.Unauthenticated: 401,
    errors.RateLimited: 429,
    errors.PreconditionFailed: 412,
    core.EmptySetError: 409,
    errors.Conflict: 409,
    errors.Overloaded: 503,
    errors.WorkersUnavailable: 503,
    errors.DeadlineExceeded: 503,
    errors.ShuttingDown: 503,
    errors.StoreUnavailable: 503,
    errors.StoreFull: 507,
    errors.MemoryExceeded: 507,
    MildError: 500,
}
"""Status codes; an error has the status of its nearest ancestor in this table."""

_RETRY_AFTER = {503: "1"}
"""Seconds that the header Retry-After names, by status."""


_ERRORS_BY_STATUS: Mapping[int, type[MildError]] = {
    400: errors.MalformedBody,
    404: RouteNotFound,
    405: MethodNotAllowed,
    408: errors.SlowBody,
    413: errors.BodyTooLarge,
}
"""Errors for the statuses that the framework raises itself."""


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(description="Stable code, `/problems/<code>`; that address describes it.")
    title: str
    status: int
    detail: str = Field(description="The limit, the value got, and the remedy.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    line: int | None = Field(None, description="Line (or row) of the faulty record, where a log was sent.")
    request_id: str = Field(description="Id of this request in the service's log.")


def get_http_status(error: type[MildError]) -> int:
    """Return the HTTP status of an error type."""
    return next(STATUSES[ancestor] for ancestor in error.__mro__ if ancestor in STATUSES)


def describe_problems() -> dict[str, dict[str, Any]]:
    """Return the type, title, status, retryability and description of every problem, by its code."""
    return {
        error_type.code: {
            "type": f"/problems/{error_type.code}",
            "title": error_type.title,
            "status": get_http_status(error_type),
            "retryable": error_type.retryable,
            "description": (error_type.__doc__ or "").strip(),
        }
        for error_type in sorted(_list_error_types(), key=lambda error_type: error_type.code)
    }


def make_problem_response(
    request: Request,
    error_type: type[MildError],
    detail: str,
    headers: Mapping[str, str] | None = None,
    line: int | None = None,
) -> Response:
    """Return a response whose body, or page, describes a problem, and count the problem in the metrics.

    Parameters
    ----------
    request
        The request.
    error_type
        Gives the code, the title and the status.
    detail
        What is wrong with this request, and the remedy.
    headers
        Further headers of the response.
    line
        Line or row of the record at fault, for a log.
    """
    status = get_http_status(error_type)
    telemetry: Telemetry = request.app.state.telemetry
    telemetry.problems.labels(error_type.code).inc()
    problem = Problem(
        type=f"/problems/{error_type.code}",
        title=error_type.title,
        status=status,
        detail=detail,
        retryable=error_type.retryable,
        line=line,
        request_id=request.state.request_id,
    )
    headers = dict(headers or {})
    if status in _RETRY_AFTER:
        headers["Retry-After"] = _RETRY_AFTER[status]
    fields = problem.model_dump(exclude_none=True)
    page: Response | None = request.app.state.render_problem(request, fields, headers)
    # json escapes what is not ASCII: a detail may quote text that is not valid Unicode
    return page or Response(json.dumps(fields), status, headers, media_type=media_types.PROBLEM)


def make_error_response(request: Request, error: MildError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response to an error of the service; errors with a status of 500 or more are also logged."""
    if get_http_status(type(error)) >= 500:
        logger.error("request %s: %s: %s", request.state.request_id, error.code, error)
    return make_problem_response(request, type(error), str(error), headers, error.line)


def make_internal_error_response(request: Request, error: Exception) -> Response:
    """Return the response to an unexpected exception, and log the exception with the id of the request."""
    if isinstance(error, MemoryError):
        logger.error("request %s ran out of memory: %s", request.state.request_id, error)
        _release_frames(error)
        return make_problem_response(
            request,
            errors.Overloaded,
            f"the system gave the request no memory ({error}); try again in a second, ask for less at once, or have "
            "MILD_MEMORY set to what the service may take",
        )
    logger.error("request %s failed: %r", request.state.request_id, error, exc_info=error)
    return make_problem_response(
        request, InternalError, f"the service failed; its log has the cause under request {request.state.request_id}"
    )


def _release_frames(error: BaseException | None) -> None:
    """Drop what the frames of an error and of its causes refer to; in cycles they would hold it for a long time."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
    gc.collect()


def add_error_handlers(app: FastAPI) -> None:
    """Make `app` answer every exception with a problem (RFC 9457)."""
    for kind in (MildError, MemoryError, RequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, _handle_error)


async def _handle_error(request: Request, error: Exception) -> Response:
    match error:
        case MildError():
            return make_error_response(request, error)
        case RequestValidationError():
            return _make_validation_response(request, error)
        case HTTPException():
            return _make_http_response(request, error)
        case ClientDisconnect():
            return make_problem_response(
                request, errors.MalformedBody, "the connection was closed before the body had ended; send it again"
            )
    return make_internal_error_response(request, error)  # the system gave no memory, and what there was is freed


def _make_validation_response(request: Request, error: RequestValidationError) -> Response:
    """Return the response to a request that FastAPI could not validate."""
    entries = error.errors()
    if isinstance(error.body, bytes):
        content_type = request.headers.get("content-type", "none")
        return make_problem_response(
            request,
            errors.UnsupportedMediaType,
            f"this body is read as application/json, got content type {content_type!r}",
        )
    if any(entry["type"] == "json_invalid" for entry in entries):
        return make_problem_response(
            request,
            errors.MalformedBody,
            f"the body is not JSON: {_describe_validation_error(entries[0])}; send valid JSON",
        )
    return make_problem_response(request, errors.InvalidRequest, format_validation_errors(entries))


def _make_http_response(request: Request, error: HTTPException) -> Response:
    """Return the response to a request for which the framework or a middleware raised an HTTP status."""
    error_type = _ERRORS_BY_STATUS.get(error.status_code, InternalError)
    detail, headers = error.detail, dict(error.headers or {})
    if error_type is RouteNotFound:
        detail = f"no route has the path {request.url.path!r}; see /docs for those that there are"
    elif error_type is MethodNotAllowed:
        headers["Allow"] = _find_allowed_methods(request) or headers.get("Allow", "")
        detail = f"{request.url.path!r} does not take {request.method}, but {headers['Allow']}"
    return make_problem_response(request, error_type, detail, headers)


def _find_allowed_methods(request: Request) -> str:
    """Return all methods of the request's path; the framework names only those of the first matching route."""
    paths: Mapping[str, Mapping[str, Any]] = request.app.openapi()["paths"]
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    matching = [methods for template, methods in paths.items() if compile_path(template)[0].match(path)]
    allowed = {method.upper() for methods in matching for method in methods}
    return ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))


def format_validation_errors(entries: Iterable[Any]) -> str:
    """Format up to five of pydantic's validation errors as one line: field, allowed values and received value."""
    parts = []
    for entry in list(entries)[:5]:
        field = ".".join(str(part) for part in entry["loc"]) or "body"
        received = "" if entry["type"] == "missing" else f", got {reprlib.repr(entry['input'])}"
        parts.append(f"{field}: {_describe_validation_error(entry)}{received}")
    return "; ".join(parts) + "; see /docs for what this route takes"


def _describe_validation_error(entry: Mapping[str, Any]) -> str:
    """Return the message of one of pydantic's validation errors."""
    return str(entry.get("ctx", {}).get("error") or entry["msg"])


def _list_error_types() -> set[type[MildError]]:
    """Return all error types that are raised: those without subclasses, and two more that are raised themselves."""
    error_types: list[type[MildError]] = [RouteNotFound, MethodNotAllowed, InternalError]
    error_types += [value for module in (core, errors) for value in vars(module).values() if _is_request_error(value)]
    inner = {parent for error_type in error_types for parent in error_type.__mro__[1:]} - {
        core.InvalidInput,
        errors.StoreUnavailable,
    }
    return set(error_types) - inner - {errors.CommandForbidden}


def _is_request_error(value: object) -> TypeGuard[type[MildError]]:
    """Return whether `value` is an error type of requests, not one of commands or of the start-up."""
    ends_process = (errors.CommandError, errors.ConfigurationError)
    return isinstance(value, type) and issubclass(value, MildError) and not issubclass(value, ends_process)
