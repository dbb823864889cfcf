"""Middleware around every request: request ids, metrics and logs, security headers, CORS and the root path."""

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
from mild_service.web.auth import API_VERSION
from mild_service.web.request_limits import PROBES, HttpMiddleware

logger = logging.getLogger(__name__)

_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
"""Methods with a label of their own in the metrics; all others share one, so that labels stay bounded."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestContext(HttpMiddleware):
    """Gives each request an id, counts and logs it with its duration, and answers exceptions that no handler caught."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        super().__init__(app)
        self._telemetry = telemetry
        self._phases = {name: telemetry.phase_seconds.labels(name) for name in get_args(observability.Phase)}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        client_id = Headers(scope=scope).get("x-request-id", "")
        trace = observability.RequestTrace(
            request_id=client_id if _REQUEST_ID.fullmatch(client_id) else secrets.token_hex(8),
            observe=self._observe_phase,
        )
        scope.setdefault("state", {})["request_id"] = trace.request_id
        status, n_in, n_out, started = 0, 0, 0, time.perf_counter()

        async def receive_and_count() -> Message:
            nonlocal n_in
            message = await receive()
            n_in += len(message.get("body", b""))
            return message

        async def send_and_count(message: Message) -> None:
            nonlocal status, n_out
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = trace.request_id
                headers["Mild-API"] = str(API_VERSION)  # by which clients tell the service from a proxy
                if trace.seconds:
                    headers["Server-Timing"] = trace.server_timing
            n_out += 0 if scope["method"] == "HEAD" else len(message.get("body", b""))
            await send(message)

        token = observability.current_trace.set(trace)
        try:
            await self._app(scope, receive_and_count, send_and_count)
        except Exception as error:
            response = problems.make_internal_error_response(Request(scope), error)
            if status:
                raise  # closes the connection, so that the client does not take the part sent for the whole response
            await response(scope, receive, send_and_count)
        finally:
            self._record_request(scope, status, n_in, n_out, time.perf_counter() - started)
            observability.current_trace.reset(token)

    def _observe_phase(self, phase: observability.Phase, seconds: float) -> None:
        """Add the duration of one phase of a request to the metrics."""
        self._phases[phase].observe(seconds)

    def _record_request(self, scope: Scope, status: int, n_in: int, n_out: int, seconds: float) -> None:
        """Count and log a request that has ended; its status is 0 if the client disconnected before the response."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._telemetry.count_request(method, route, status, seconds, n_in, n_out)
        level = logging.DEBUG if route in PROBES else logging.INFO
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
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:{image_origin}; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Swagger's page has an inline script, which the policy allows by its hash, and sets inline styles."""
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")


class SecurityHeaders(HttpMiddleware):
    """Adds security headers to every response, and forbids shared caches to store responses that needed a key."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        docs_start: Message | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal docs_start
            if message["type"] == "http.response.start":
                _add_security_headers(scope, path, message)
                if path == "/docs":
                    docs_start = message
                    return
            elif docs_start is not None:
                # FastAPI sends the page in one message; scripts in later messages would not be allowed.
                scripts = " ".join(map(_hash_script, _SCRIPT.findall(message.get("body", b""))))
                MutableHeaders(scope=docs_start)["Content-Security-Policy"] = _DOCS_POLICY.format(scripts=scripts)
                await send(docs_start)
                docs_start = None
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _add_security_headers(scope: Scope, path: str, message: Message) -> None:
    """Add the headers to the message that starts the response for `path`."""
    headers = MutableHeaders(scope=message)
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"  # with less, browsers hide where our own forms come from
    # Pages of samples set the origin of their images; it is allowed for images only.
    image_origin = scope.get("state", {}).get("image_origin")
    page_policy = _PAGE_POLICY.format(image_origin=f" {image_origin}" if image_origin else "")
    headers["Content-Security-Policy"] = page_policy if path.startswith("/ui") else _DATA_POLICY
    needed_key = scope.get("state", {}).get("caller", ANONYMOUS) is not ANONYMOUS or message["status"] == 401
    if needed_key and "Cache-Control" not in headers:
        headers["Cache-Control"] = "private, no-cache" if "ETag" in headers else "no-store"


def _hash_script(script: bytes) -> str:
    """Return the hash that allows an inline script in a Content Security Policy (level 3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


def parse_origins(text: str) -> list[str]:
    """Parse web origins that are separated by commas or spaces."""
    origins = text.replace(",", " ").split()
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"MILD_CORS_ORIGINS names {origin!r}; give origins such as https://lab.example, each by its name"
            )
    return origins


def allow_origins(app: FastAPI, origins: list[str]) -> None:
    """Allow web pages of `origins` to call `app` (CORS), with an API key but without cookies."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "PUT", "POST", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=["ETag", "Retry-After", "X-Request-ID"],
        )


class HeadRequests(HttpMiddleware):
    """Handles HEAD like GET, wherever there is a GET; the server sends the headers alone.

    ``request.state.is_head`` lets a route spare a body that would not end.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}
        as_get.setdefault("state", {})["is_head"] = True
        try:
            await self._app(as_get, receive, send)
        finally:
            scope["route"] = as_get.get("route")  # for metrics and logs


class RootPath(HttpMiddleware):
    """Sets the root path of every request, whether or not a proxy has removed it from the request's path."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        super().__init__(app)
        self._root_path = root_path

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if self._root_path:
            scope["root_path"] = self._root_path
            if not scope["path"].startswith(f"{self._root_path}/"):
                scope["path"] = self._root_path + scope["path"]
        await self._app(scope, receive, send)
