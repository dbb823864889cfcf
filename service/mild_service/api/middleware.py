"""Around every request: an id for the logs, a bound on the body, and the counters."""

import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_service.telemetry import Telemetry

_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
"""Counted by name; what else is sent must not make labels without bound."""
_LONG = (("POST", "/predictions"), ("POST", "/selection"), ("PUT", "/sample-ids"))
"""Routes that read a body piece by piece, and so may be sent long ones."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestContext:
    """Names each request, counts it, and stops reading a body at the limit."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry, max_body_bytes: int, max_log_bytes: int) -> None:
        self._app = app
        self._telemetry = telemetry
        self._limit = max_body_bytes
        self._log_limit = max_log_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status, n_read, started = 500, 0, time.perf_counter()
        long = any(scope["method"] == method and scope["path"].endswith(path) for method, path in _LONG)
        limit, setting = (self._log_limit, "LOG") if long else (self._limit, "BODY")

        async def bounded() -> Message:
            nonlocal n_read
            _check(int(length) if (length := headers.get("content-length", "")).isdecimal() else 0, limit, setting)
            message = await receive()
            n_read += len(message.get("body", b""))
            _check(n_read, limit, setting)
            return message

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, bounded, named)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._telemetry.requests.labels(method, route, status).inc()
            self._telemetry.seconds.labels(method, route).observe(time.perf_counter() - started)


def _check(n_bytes: int, limit: int, setting: str) -> None:
    if n_bytes > limit:
        raise HTTPException(
            413,
            f"the body has {n_bytes} bytes or more, at most {limit} are read; send less at once, "
            f"or have MILD_MAX_{setting}_BYTES raised",
        )
