"""Around every request: an id for the logs, the counters, a line in the log, and an answer whatever happens.

What browsers are told with every answer: to guess nothing, frame nothing, load nothing from elsewhere.

The path under which a proxy serves the service, told to all that makes links.
"""

import base64
import hashlib
import logging
import re
import secrets
import time
from typing import get_args

from fastapi import FastAPI, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_service import observability
from mild_service.api_keys import ANONYMOUS
from mild_service.errors import ConfigurationError
from mild_service.observability import Telemetry
from mild_service.web import problems

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
        self._phases = {name: telemetry.phase_seconds.labels(name) for name in get_args(observability.Phase)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        trace = observability.RequestTrace(
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

        token = observability.current_trace.set(trace)
        try:
            await self._app(scope, counted, named)
        except Exception as error:
            response = problems.unforeseen(Request(scope), error)
            if status:
                raise  # so that the connection breaks: the client must not take what it has got for the whole
            await response(scope, receive, named)
        finally:
            self._tell(scope, status, n_in, n_out, time.perf_counter() - started)
            observability.current_trace.reset(token)

    def _observe(self, phase: observability.Phase, seconds: float) -> None:
        self._phases[phase].observe(seconds)

    def _tell(self, scope: Scope, status: int, n_in: int, n_out: int, seconds: float) -> None:
        """Count and log a request that has ended; status 0 is one that nobody was left to answer."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._telemetry.count_request(method, route, status, seconds, n_in, n_out)
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


_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:{pictures}; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Swagger's page has a script of its own, which is named by its hash, and styles elements as it goes."""
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


class SecurityHeaders:
    """Adds them, and keeps what a key was needed for out of shared caches."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        held: Message | None = None

        async def told(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                _tell(scope, path, message)
                if path == "/docs":
                    held = message
                    return
            elif held is not None:
                # A page in one piece, as FastAPI sends it: what does not come so gets no script through.
                scripts = " ".join(map(_named, _SCRIPT.findall(message.get("body", b""))))
                MutableHeaders(scope=held)["Content-Security-Policy"] = _DOCS_POLICY.format(scripts=scripts)
                await send(held)
                held = None
            await send(message)

        await self._app(scope, receive, told)


def _tell(scope: Scope, path: str, message: Message) -> None:
    headers = MutableHeaders(scope=message)
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"  # with less, browsers hide where our own forms come from
    # A page of samples says where their pictures come from; nothing else may come from there.
    pictures = scope.get("state", {}).get("pictures")
    page_policy = _PAGE_POLICY.format(pictures=f" {pictures}" if pictures else "")
    headers["Content-Security-Policy"] = page_policy if path.startswith("/ui") else _DATA_POLICY
    keyed = scope.get("state", {}).get("caller", ANONYMOUS) is not ANONYMOUS or message["status"] == 401
    if keyed and "Cache-Control" not in headers:
        headers["Cache-Control"] = "private, no-cache" if "ETag" in headers else "no-store"


def _named(script: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


def read_origins(text: str) -> list[str]:
    """The web origins that a setting names.

    Raises
    ------
    ConfigurationError
        If one is no origin, or stands for all.
    """
    named = text.replace(",", " ").split()
    for origin in named:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"MILD_CORS_ORIGINS names {origin!r}; give origins such as https://lab.example, each by its name"
            )
    return named


def cross_origin(app: FastAPI, origins: list[str]) -> None:
    """Let pages of these origins call `app` with a key; cookies are never sent along."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "PUT", "POST", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=["ETag", "Retry-After", "X-Request-ID"],
        )


class RootPath:
    """Puts every request under the root path, whether the proxy strips it from the path or not."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and self._root_path:
            scope["root_path"] = self._root_path
            if not scope["path"].startswith(f"{self._root_path}/"):
                scope["path"] = self._root_path + scope["path"]
        await self._app(scope, receive, send)
