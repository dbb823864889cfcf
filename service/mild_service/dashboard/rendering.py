"""What every page is made with: templates, their filters, and what they know of the service and of who is looking.

Numbers and times as people read them; Jinja's filters.

Styles, scripts and fonts: under an address that names their content, so that browsers may keep them for good.

The pages of one run, in the order of their tabs.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
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
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import Scope

from mild_service import __version__
from mild_service.api_keys import ANONYMOUS, ApiKey

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
NONE = "–"
"""Stands where there is no number."""


def number(value: float | None) -> str:
    """A count, with thousands apart."""
    return NONE if value is None else f"{value:,.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share."""
    return NONE if value is None else f"{100 * value:.{digits}f}%"


def score(value: float | None) -> str:
    """A metric's value: whole numbers as such, others with a digit or two."""
    return NONE if value is None else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def sentence(text: str) -> str:
    """Words as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def interval(estimate: Mapping[str, float] | None, digits: int = 0) -> str:
    """The interval of an estimate of a share."""
    if estimate is None:
        return NONE
    return f"{100 * estimate['low']:.{digits}f}–{100 * estimate['high']:.{digits}f}%"


def ago(seconds: float) -> str:
    """How long ago something was, in its largest unit."""
    for size, name in _UNITS:
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {name}{'' if n == 1 else 's'} ago"
    return "just now"


def moment(at: float | None) -> str:
    """Unix time in seconds as a date and time of day in UTC."""
    return NONE if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def machine_moment(at: float) -> str:
    """Unix time in seconds as ISO 8601, for `<time datetime>`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def plural(count: int, noun: str, several: str | None = None) -> str:
    """A count with its noun: 1 round, 2 rounds."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


FILTERS: Mapping[str, Any] = {
    "number": number,
    "percent": percent,
    "score": score,
    "sentence": sentence,
    "interval": interval,
    "ago": ago,
    "moment": moment,
    "machine_moment": machine_moment,
    "plural": plural,
}


FOLDER = Path(__file__).parent / "static"
PATH = "/ui/static"
_YEAR = "public, max-age=31536000, immutable"


@cache
def version() -> str:
    """Names the content of all assets together; modules then find each other by relative paths."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(FOLDER).as_posix()}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:12]


class Assets(StaticFiles):
    """Serves them. Under another version's address, as while replicas change, they are served but not kept."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file at ``<version>/<name>``."""
        named, _, name = path.replace("\\", "/").partition("/")
        response = await super().get_response(name, scope)
        response.headers["Cache-Control"] = _YEAR if named == version() else "no-cache"
        return response


@dataclass(frozen=True, slots=True)
class Tab:
    """One of them.

    Attributes
    ----------
    name
        What a page calls itself: ``{% set tab = "overview" %}``.
    title
        As shown.
    path
        Behind ``/ui/runs/{run_id}``.
    """

    name: str
    title: str
    path: str


TABS = (
    Tab("overview", "Overview", ""),
    Tab("map", "Data map", "/map"),
    Tab("classes", "Classes", "/classes"),
    Tab("samples", "Samples", "/samples"),
    Tab("compare", "Compare", "/compare"),
    Tab("downloads", "Downloads", "/downloads"),
)


_SCRIPT_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def render(
    request: Request,
    template: str,
    context: Mapping[str, Any] | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """A page.

    Every template knows ``root`` (the path that the service lies under), ``asset(name)``, ``link(path, **query)``,
    ``key`` (who is looking; None where nobody has to log in), ``now`` and ``service_version``, besides its `context`.
    """
    root = request.scope.get("root_path", "")
    caller: ApiKey = getattr(request.state, "caller", ANONYMOUS)
    known = {
        "root": root,
        "asset": lambda name: f"{root}{PATH}/{version()}/{name}",
        "link": lambda path, **query: root + link(path, **query),
        "key": None if caller is ANONYMOUS else caller,
        "now": time.time(),
        "service_version": __version__,
        "tabs": TABS,
    }
    return _TEMPLATES.TemplateResponse(
        request,
        template,
        {**known, **(context or {})},
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def link(path: str, **query: Any) -> str:
    """A path with a query; what is None or empty is left out."""
    said = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(said)}" if said else path


def script_data(value: Any) -> Markup:
    """A value as JSON for a ``<script type="application/json">``; nothing in it can end that element."""
    return Markup(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode().translate(_SCRIPT_ESCAPES))


def _environment() -> Environment:
    # Undefined names are errors: a page with a hole in it would pass for one without data.
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS)
    made.filters["script_data"] = script_data
    return made


_TEMPLATES = Jinja2Templates(env=_environment())
