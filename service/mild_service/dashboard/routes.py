"""Adds the dashboard to the application: its pages, its assets, and problems as pages."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

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

_PAGES = (login_page, runs_page, run_page, selection_pages, sample_pages, audit_page)


def add_pages(router: APIRouter) -> None:
    """Add the pages and their assets to a router."""
    for page in _PAGES:
        router.include_router(page.router)
    router.mount(rendering.STATIC_PATH, rendering.Assets(), name="ui-static")


def render_problem(request: Request, problem: Mapping[str, Any], headers: Mapping[str, str]) -> Response | None:
    """Return a problem under ``/ui/`` as a page, or a redirect to the login; None if no HTML is asked for.

    Parameters
    ----------
    request
        The request.
    problem, headers
        Fields of the problem, and headers of its response.
    """
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if not (path.startswith("/ui") and "text/html" in request.headers.get("accept", "")):
        return None
    if problem["status"] == 401 and request.method in ("GET", "HEAD"):
        query = request.scope["query_string"].decode("latin-1")
        return redirect(request, link("/ui/login", next=f"{path}?{query}" if query else path))
    retry = {name: value for name, value in headers.items() if name == "Retry-After"}
    return render(request, "problem.html", {"problem": problem}, problem["status"], retry)
