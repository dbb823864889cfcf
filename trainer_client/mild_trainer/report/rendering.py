"""Jinja's environment with the templates of the report and of the model card."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape


def format_cell(text: str) -> str:
    """Escape bars, line ends and tags for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


# Undefined names are errors: otherwise a page would silently lack data.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {"cell": format_cell, "json": json.dumps}


def render(template: str, **context: Any) -> str:
    """Return a template with the values of `context`, which are escaped in HTML unless they are `Markup`."""
    return _ENVIRONMENT.get_template(template).render(context)
