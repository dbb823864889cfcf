"""What every page is made with: templates, their filters, and what they know of the service and of who is looking."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.templating import Jinja2Templates

from mild_service import __version__
from mild_service.identity import ANONYMOUS, ApiKey
from mild_service.ui import assets, formats
from mild_service.ui.tabs import TABS

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
        "asset": lambda name: f"{root}{assets.PATH}/{assets.version()}/{name}",
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
    made.filters.update(formats.FILTERS)
    made.filters["script_data"] = script_data
    return made


_TEMPLATES = Jinja2Templates(env=_environment())
