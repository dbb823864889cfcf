"""Who may do what: one rule for every route, all of them in this table. A route that is missing here is an admin's."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from starlette.requests import HTTPConnection
from starlette.routing import Match, compile_path
from starlette.types import Scope as Connection

from mild_service.identity import Scope


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route asks for.

    Attributes
    ----------
    scope
        Least scope of the key; None: no key is needed.
    creates
        Whether it makes the run that its path names: outside of the key's prefix it is then refused as such, where any
        other route behaves as if the run were not there.
    """

    scope: Scope | None
    creates: bool = False


OPEN, READ, WRITE, ADMIN = Rule(None), Rule("read"), Rule("write"), Rule("admin")
METRICS = Rule("admin")
"""Stands for what the setting `metrics_access` says."""

RULES: Mapping[str, Rule] = {
    "PUT /runs/{run_id}": Rule("write", creates=True),
    "GET /runs": READ,
    "GET /runs/{run_id}": READ,
    "PATCH /runs/{run_id}": WRITE,
    "DELETE /runs/{run_id}": ADMIN,
    "PUT /runs/{run_id}/labels": WRITE,
    "PUT /runs/{run_id}/sample-ids": WRITE,
    "GET /runs/{run_id}/sample-ids": READ,
    "PUT /runs/{run_id}/audit": WRITE,
    "GET /runs/{run_id}/audit": READ,
    "GET /runs/{run_id}/rounds/{round}": READ,
    "PUT /runs/{run_id}/planted": WRITE,
    "GET /runs/{run_id}/planted": READ,
    "PUT /runs/{run_id}/rounds/{round}/members": WRITE,
    "GET /runs/{run_id}/rounds/{round}/members": READ,
    "PUT /runs/{run_id}/rounds/{round}/epochs/{epoch}": WRITE,
    "GET /runs/{run_id}/rounds/{round}/epochs/{epoch}": READ,
    "PUT /runs/{run_id}/rounds/{round}/epochs/{epoch}/shards/{shard}": WRITE,
    "PUT /runs/{run_id}/rounds/{round}/metrics/{epoch}": WRITE,
    "POST /runs/{run_id}/predictions": WRITE,
    "POST /runs/{run_id}/rounds/{round}/finish": WRITE,
    "GET /runs/{run_id}/rounds/{round}/fit": READ,
    "GET /runs/{run_id}/rounds/{round}/sweep": READ,
    "GET /runs/{run_id}/rounds/{round}/evaluation": READ,
    "GET /runs/{run_id}/events": READ,
    "GET /runs/{run_id}/scores": READ,
    "GET /runs/{run_id}/suggestions": READ,
    "GET /runs/{run_id}/samples/{index}": READ,
    "GET /selection/{run_id}": READ,
    "POST /selection": READ,  # stores nothing
    "GET /metrics": METRICS,
    # Probes, and what is public anyway: the program's documentation.
    "GET /health": OPEN,
    "GET /ready": OPEN,
    "GET /version": OPEN,
    "GET /problems": OPEN,
    "GET /problems/{code}": OPEN,
    "GET /": OPEN,
    "GET /docs": OPEN,
    "GET /docs/oauth2-redirect": OPEN,
    "GET /openapi.json": OPEN,
    "GET /static-offline-docs/{path:path}": OPEN,
    "GET /ui": OPEN,
    "GET /ui/": READ,
    "GET /ui/runs/{run_id}": READ,
    "GET /ui/runs/{run_id}/map": READ,
    "GET /ui/runs/{run_id}/classes": READ,
    "GET /ui/runs/{run_id}/samples": READ,
    "GET /ui/runs/{run_id}/samples/{index}": READ,
    "POST /ui/runs/{run_id}/samples/{index}/mark": WRITE,
    "GET /ui/runs/{run_id}/compare": READ,
    "GET /ui/runs/{run_id}/rounds/{round}/selection": READ,
    "GET /ui/runs/{run_id}/downloads": READ,
    "GET /ui/login": OPEN,
    "POST /ui/login": OPEN,
    "POST /ui/logout": OPEN,  # whoever has no session is just sent back
    "GET /ui/static/{path:path}": OPEN,
}


class Rulebook:
    """Finds the rule of a request by its method and path, before anything else is done with it.

    Parameters
    ----------
    metrics
        What `/metrics` asks for.
    """

    def __init__(self, metrics: Scope | Literal["open"]) -> None:
        scraper = Rule(None if metrics == "open" else metrics)
        # By method and number of slashes (None: any), so that few patterns are tried.
        self._rules: dict[tuple[str, int | None], list[tuple[re.Pattern[str], str, Rule]]] = {}
        for name, rule in RULES.items():
            method, template = name.split(" ")
            known = self._rules.setdefault((method, None if ":path" in template else template.count("/")), [])
            known.append((compile_path(template)[0], template, scraper if rule is METRICS else rule))

    def find(self, connection: Connection) -> tuple[Rule | None, str, str | None]:
        """The rule of a request, its route's path, and the run that it names.

        Without a route there is no rule, as there is nothing to keep: the answer is then a 404 or a 405.
        """
        method = "GET" if connection["method"] == "HEAD" else connection["method"]
        path = _path(connection)
        likely, deep = self._rules.get((method, path.count("/")), ()), self._rules.get((method, None), ())
        for pattern, template, rule in (*likely, *deep):
            if found := pattern.match(path):
                return rule, template, found.groupdict().get("run_id")
        routes = HTTPConnection(connection).app.routes
        if any(route.matches(connection)[0] is Match.FULL for route in routes):
            return ADMIN, "none", None
        return None, "none", None


def _path(connection: Connection) -> str:
    """The path as the router sees it: behind a proxy it may begin with the root path."""
    path: str = connection["path"]
    root: str = connection.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
