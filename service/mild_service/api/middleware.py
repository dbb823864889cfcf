"""Around every request: an id for the logs, the counters, a line in the log, and an answer whatever happens."""

import logging
import re
import secrets
import time
from typing import get_args

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_service import tracing
from mild_service.api import problems
from mild_service.telemetry import Telemetry

logger = logging.getLogger(__name__)

_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
"""Counted by name; what else is sent must not make labels without bound."""
_PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Asked for every few seconds, so logged for those only who want to know everything."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestContext:
    """Names each request, times it, counts it and logs it."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry
        self._phases = {name: telemetry.phase_seconds.labels(name) for name in get_args(tracing.Phase)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        trace = tracing.Trace(
            request_id=given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8),
            observe=self._observe,
        )
        scope.setdefault("state", {})["request_id"] = trace.request_id
        status, n_in, n_out, started = 0, 0, 0, time.perf_counter()

        async def counted() -> Message:
            nonlocal n_in
            message = await receive()
            n_in += len(message.get("body", b""))
            return message

        async def named(message: Message) -> None:
            nonlocal status, n_out
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = trace.request_id
                if trace.seconds:
                    headers["Server-Timing"] = trace.server_timing
            n_out += len(message.get("body", b""))
            await send(message)

        token = tracing.current.set(trace)
        try:
            await self._app(scope, counted, named)
        except Exception as error:
            response = problems.unforeseen(Request(scope), error)
            if status:
                raise  # so that the connection breaks: the client must not take what it has got for the whole
            await response(scope, receive, named)
        finally:
            self._tell(scope, status, n_in, n_out, time.perf_counter() - started)
            tracing.current.reset(token)

    def _observe(self, phase: tracing.Phase, seconds: float) -> None:
        self._phases[phase].observe(seconds)

    def _tell(self, scope: Scope, status: int, n_in: int, n_out: int, seconds: float) -> None:
        """Count and log a request that has ended; status 0 is one that nobody was left to answer."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._telemetry.answered(method, route, status, seconds, n_in, n_out)
        level = logging.DEBUG if route in _PROBES else logging.INFO
        if not logger.isEnabledFor(level):
            return
        logger.log(
            level,
            "%s %r: %d in %.1f ms",
            method,
            scope["path"],
            status,
            1000 * seconds,
            extra={
                "method": method,
                "route": route,
                "path": scope["path"],
                "status": status,
                "milliseconds": round(1000 * seconds, 1),
                "bytes_in": n_in,
                "bytes_out": n_out,
                "client": (scope.get("client") or ("",))[0],
            },
        )
