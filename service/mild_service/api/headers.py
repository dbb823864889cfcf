"""What browsers are told with every answer: to guess nothing, frame nothing, load nothing from elsewhere."""

import base64
import hashlib
import re

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_service.command_errors import ConfigurationError
from mild_service.identity import ANONYMOUS

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
