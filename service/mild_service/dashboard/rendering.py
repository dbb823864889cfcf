"""Rendering of the pages: the templates, their filters, static assets, and problems as pages."""

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import Scope

from mild_core.statements import format_at_most
from mild_service import __version__
from mild_service.api_keys import ANONYMOUS, ApiKey

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
NONE = "–"
"""Placeholder for a missing number."""


def format_number(value: float | None) -> str:
    """Format a number as an integer with separators of thousands."""
    return NONE if value is None else f"{value:,.0f}"


def format_percent(value: float | None, digits: int = 1) -> str:
    """Format a share as a percentage."""
    return NONE if value is None else f"{100 * value:.{digits}f}%"


def format_score(value: float | None) -> str:
    """Format the value of a metric with up to four significant digits."""
    return NONE if value is None else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def format_sentence(text: str) -> str:
    """Return a phrase as a sentence: with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def format_interval(estimate: Mapping[str, float] | None) -> str:
    """Format the interval from ``low`` to ``high`` of a share as percentages."""
    return NONE if estimate is None else f"{100 * estimate['low']:.0f}–{100 * estimate['high']:.0f}%"


def format_age(seconds: float) -> str:
    """Format the time since an event by its largest unit, such as '2 hours ago'."""
    for size, name in _UNITS:
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {name}{'' if n == 1 else 's'} ago"
    return "just now"


def format_time(at: float | None) -> str:
    """Format Unix time in seconds as a date and time in UTC."""
    return NONE if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def format_iso_time(at: float) -> str:
    """Format Unix time in seconds as ISO 8601, for `<time datetime>`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def format_count(count: int, noun: str, several: str | None = None) -> str:
    """Format a count with its noun, such as '1 round' or '2 rounds'; `several` is an irregular plural."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


STATIC_DIR = Path(__file__).parent / "static"
STATIC_PATH = "/ui/static"
_CACHE_FOREVER = "public, max-age=31536000, immutable"


@cache
def compute_assets_version() -> str:
    """Return a digest of all assets, which is part of their paths, so that browsers may cache them forever."""
    digest = hashlib.sha256()
    for path in sorted(STATIC_DIR.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(STATIC_DIR).as_posix()}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:12]


class Assets(StaticFiles):
    """Serves the assets. Those requested under another version, as during an update of replicas, are not cached."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC_DIR)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file at ``<version>/<name>``."""
        version, _, name = path.replace("\\", "/").partition("/")
        response = await super().get_response(name, scope)
        response.headers["Cache-Control"] = _CACHE_FOREVER if version == compute_assets_version() else "no-cache"
        return response


_SCRIPT_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def render(
    request: Request,
    template: str,
    context: Mapping[str, Any] | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """Render a template as the response to a request.

    In addition to `context`, every template has ``root`` (the service's root path), ``asset(name)``,
    ``link(path, **query)``, ``key`` (the caller's key; None if the service requires no key), ``now`` and
    ``service_version``.
    """
    root = request.scope.get("root_path", "")
    caller: ApiKey = getattr(request.state, "caller", ANONYMOUS)
    shared_context = {
        "root": root,
        "asset": lambda name: f"{root}{STATIC_PATH}/{compute_assets_version()}/{name}",
        "link": lambda path, **query: root + link(path, **query),
        "key": None if caller is ANONYMOUS else caller,
        "now": time.time(),
        "service_version": __version__,
    }
    return _TEMPLATES.TemplateResponse(
        request,
        template,
        {**shared_context, **(context or {})},
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


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


def link(path: str, **query: Any) -> str:
    """Return a path with a query string, without the parameters that are None or empty."""
    parameters = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(parameters)}" if parameters else path


def redirect(request: Request, path: str) -> RedirectResponse:
    """Redirect the browser to a path below the root of the service, with GET."""
    return RedirectResponse(request.scope.get("root_path", "") + path, 303, headers={"Cache-Control": "no-store"})


def script_data(value: Any) -> Markup:
    """Return a value as JSON for a ``<script type="application/json">`` element, which the JSON cannot end."""
    return Markup(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode().translate(_SCRIPT_ESCAPES))


_TEMPLATES = Jinja2Templates(
    env=Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,  # otherwise a page would silently lack data
        trim_blocks=True,
        lstrip_blocks=True,
    )
)
_TEMPLATES.env.filters.update(
    {
        "number": format_number,
        "percent": format_percent,
        "at_most": format_at_most,
        "score": format_score,
        "sentence": format_sentence,
        "interval": format_interval,
        "ago": format_age,
        "moment": format_time,
        "machine_moment": format_iso_time,
        "plural": format_count,
        "script_data": script_data,
    }
)
