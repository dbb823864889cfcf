"""What a response says: that the request is done, why the service refused it, or that something else answered."""

from collections.abc import Container, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from mild_client import errors
from mild_client.errors import IntermediaryError, ServiceError
from mild_client.requests import JSON, JsonObject

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses of the service after which the same request may succeed."""
_SERVICE_HEADER = "Mild-API"
"""Header of every response of the service; a response without it comes from a proxy, a portal or another service."""
_PROBLEM = "application/problem+json"
_LONGEST_RETRY_AFTER = 60.0
"""Seconds that are waited at most because of ``Retry-After``: a training waits, and the header may name years."""
_ERROR_CLASSES = {401: errors.NotAllowed, 403: errors.NotAllowed, 404: errors.NotFound, 409: errors.Conflict}


def find_failure(response: httpx.Response) -> ServiceError | IntermediaryError | None:
    """Return the error of a response; None if the service has done what was asked for.

    Only a problem document of the service (RFC 9457) is a `ServiceError`. Whatever else comes, of any status, was
    written by something in between, such as a proxy or a login page, and says nothing about the request.
    """
    if response.is_success:
        is_own = _SERVICE_HEADER in response.headers and _is_whole(response)
        return None if is_own else make_intermediary_error(response)
    problem = _parse_problem(response)
    return make_intermediary_error(response) if problem is None else _make_service_error(response, problem)


def parse_json_object(response: httpx.Response, *names: str) -> JsonObject:
    """Parse the JSON object of a response.

    Raises
    ------
    IntermediaryError
        If the response is not a JSON object, or lacks one of the fields `names`.
    """
    answer = _parse_json(response)
    if not isinstance(answer, dict) or not all(name in answer for name in names):
        raise make_intermediary_error(response)
    return answer


def _make_service_error(response: httpx.Response, problem: Mapping[str, Any]) -> ServiceError:
    """Convert a problem document of the service into a ServiceError."""
    status, code = response.status_code, str(problem["type"]).rpartition("/")[2]
    return _choose_error_class(status, code)(
        code=code,
        status=status,
        detail=str(problem.get("detail") or problem.get("title") or code),
        retryable=bool(problem.get("retryable", status in RETRIED_STATUSES)),
        request_id=problem.get("request_id") or response.headers.get("X-Request-Id"),
    )


def make_intermediary_error(response: httpx.Response) -> IntermediaryError:
    """Make the error for a response that the service did not write, or that was cut or changed on its way."""
    status, request = response.status_code, response.request
    is_changed = response.is_success and _SERVICE_HEADER in response.headers
    author = "the service, cut or changed on its way" if is_changed else "something between here and the service"
    location = f", and leads to {response.headers['Location']}" if "Location" in response.headers else ""
    body = f": {response.text[:100]!r}" if response.is_closed and response.content else ""
    return IntermediaryError(
        f"{request.method} {request.url} got an answer of status {status} by {author}{location}{body}; "
        f"{next(remedy for statuses, remedy in _REMEDIES if status in statuses)}",
        status,
    )


_REMEDIES: Sequence[tuple[Container[int], str]] = (
    (range(300, 400), "give the address that it leads to, if that is the service's, or sign in there"),
    ((401, 403, 407, 511), "give the proxy or portal what it asks for, or have it let the service's requests through"),
    ((411, 413, 414, 431, 494), "have the proxy's limits on requests raised, or give an address that avoids it"),
    (range(500, 1000), "see in the proxy's log whether it reaches the service, and whether that runs"),
    (range(1000), f"check that the address is the service's, and that proxies pass the header {_SERVICE_HEADER} on"),
)
"""What helps against responses of an intermediary, by their status; the first match counts."""


def parse_retry_after(response: httpx.Response) -> float:
    """Return the seconds to wait by the header ``Retry-After``, a number or a date, from 0 to 60."""
    value = response.headers.get("Retry-After", "")
    try:
        seconds = float(value) if value.isdecimal() else _parse_date(value) - _parse_date(response.headers["Date"])
    except (ValueError, KeyError, OverflowError):  # absent, or nothing that HTTP defines
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


def _parse_date(value: str) -> float:
    """Return the Unix time in seconds of a date in a header; raise ValueError if it is none."""
    return parsedate_to_datetime(value).timestamp()


def _is_whole(response: httpx.Response) -> bool:
    """Return whether a successful response may be whole and unchanged, or the beginning of a stream of events.

    HTTP itself shows that a body of declared length was cut; one of HTTP/1.0 without a length shows it only by what is
    in it.
    """
    headers, media_type = response.headers, _parse_media_type(response)
    if response.status_code == httpx.codes.NO_CONTENT:
        return True
    if not response.is_closed:
        return media_type == "text/event-stream"
    has_end = "Content-Length" in headers or "Transfer-Encoding" in headers
    return has_end or media_type != JSON or _parse_json(response) is not None


def _parse_media_type(response: httpx.Response) -> str:
    """Return the media type of a response, without its parameters."""
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _parse_problem(response: httpx.Response) -> Mapping[str, Any] | None:
    """Return the problem document of a response; None if it has none of the service."""
    problem = _parse_json(response) if _parse_media_type(response) == _PROBLEM else None
    is_own = isinstance(problem, dict) and str(problem.get("type", "")).startswith("/problems/")
    return problem if is_own else None


def _parse_json(response: httpx.Response) -> Any:
    """Return the JSON value of a response; None if it is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def _choose_error_class(status: int, code: str) -> type[ServiceError]:
    if code == "stale-attempt":
        return errors.StaleAttempt
    if status in RETRIED_STATUSES or status >= 500:
        return errors.Unavailable
    return _ERROR_CLASSES.get(status, errors.BadRequest)
