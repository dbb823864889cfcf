"""From refusing answers to the error tree: problem documents (RFC 9457), and whatever else a proxy may send."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import httpx

from mild_client import errors
from mild_client.errors import ServiceError

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""

_KINDS: Mapping[int, type[ServiceError]] = MappingProxyType(
    {
        401: errors.NotAllowed,
        403: errors.NotAllowed,
        404: errors.NotFound,
        409: errors.Conflict,
    }
)


def refusal(response: httpx.Response) -> ServiceError:
    """The typed error for a refusing answer, whether the service or something in between wrote it."""
    status = response.status_code
    problem = _document(response)
    code = str(problem.get("type", f"/problems/status-{status}")).rpartition("/")[2]
    detail = problem.get("detail") or f"{response.request.url} answered {status}: {response.text[:200]!r}"
    return _kind(status, code)(
        code=code,
        status=status,
        detail=str(detail),
        retryable=bool(problem.get("retryable", status in RETRIED)),
        request_id=problem.get("request_id") or response.headers.get("X-Request-Id"),
    )


def unexpected(response: httpx.Response) -> ServiceError:
    """The error for an answer that succeeds and is not the service's."""
    return errors.BadRequest(
        code="unexpected-answer",
        status=response.status_code,
        detail=f"{response.request.url} answered with {response.text[:200]!r}, which is no JSON object; "
        "check that the address is that of the selection service",
        retryable=False,
        request_id=response.headers.get("X-Request-Id"),
    )


def retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks to wait; the header's date form counts as none."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def _document(response: httpx.Response) -> Mapping[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _kind(status: int, code: str) -> type[ServiceError]:
    if code == "stale-attempt":
        return errors.StaleAttempt
    if status in RETRIED or status >= 500:
        return errors.Unavailable
    return _KINDS.get(status, errors.BadRequest)
