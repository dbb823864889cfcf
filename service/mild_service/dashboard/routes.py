"""Adds the dashboard to the application: its pages, its assets, and problems as pages."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_service.dashboard import (
    audit_page,
    login_page,
    rendering,
    run_page,
    runs_page,
    sample_pages,
    selection_pages,
)
from mild_service.dashboard.rendering import link, redirect, render
from mild_service.web import media_types

_PAGES = (login_page, runs_page, run_page, selection_pages, sample_pages, audit_page)


def add_pages(router: APIRouter) -> None:
    """Add the pages and their assets to a router."""
    for page in _PAGES:
        router.include_router(page.router)
    router.mount(rendering.STATIC_PATH, rendering.Assets(), name="ui-static")


class ProblemPages:
    """Middleware that answers problems under ``/ui/`` with a page or a redirect to the login, if HTML is accepted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not _requests_page(scope):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def send_as_page(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                if Headers(raw=message["headers"]).get("content-type") == media_types.PROBLEM:
                    start = message
                    return
            elif start is not None:
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await _render_problem(Request(scope), json.loads(bytes(body)), start)(scope, receive, send)
                return
            await send(message)

        await self._app(scope, receive, send_as_page)


def _requests_page(scope: Scope) -> bool:
    """Return whether a request is for the dashboard and accepts HTML."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith("/ui") and "text/html" in Headers(scope=scope).get("accept", "")


def _render_problem(request: Request, problem: Mapping[str, Any], start: Message) -> Response:
    """Render a problem as a page, or redirect to the login; `start` is the message with the problem's headers."""
    status: int = problem["status"]
    if status == 401 and request.method in ("GET", "HEAD"):
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        query = request.scope["query_string"].decode("latin-1")
        return redirect(request, link("/ui/login", next=f"{path}?{query}" if query else path))
    retry = Headers(raw=start["headers"]).get("retry-after")
    headers = {"Retry-After": retry} if retry else {}
    return render(request, "problem.html", {"problem": problem}, status, headers)
