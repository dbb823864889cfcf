"""The guard before every route: who asks, with what, may they, and not too often. It looks at no body.

Who may do what: one rule for every route, all of them in this table. A route that is missing here is an admin's.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from starlette.requests import HTTPConnection, Request
from starlette.routing import Match, compile_path
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from mild_core.errors import MildError
from mild_service import api_keys
from mild_service.api_keys import ANONYMOUS, ApiKey, Scope
from mild_service.auth import Authenticator, hidden_run_error
from mild_service.errors import AccessError, Forbidden, RateLimited, Unauthenticated
from mild_service.web import problems
from mild_service.web.client_versions import check_client
from mild_service.web.csrf import check_not_rebound, check_same_site
from mild_service.web.request_limits import Buckets


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


COOKIE = "mild_session"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Lets a request through to its route with the caller in its state, or answers with the problem.

    Parameters
    ----------
    app
        What lies behind.
    authenticator
        Knows the keys.
    rulebook
        Knows what each route asks for.
    buckets
        Count the requests of each key.
    origins
        Web origins whose pages may call an open service; others might do so behind their reader's back.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        rulebook: Rulebook,
        buckets: Buckets,
        origins: Collection[str] = (),
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._rulebook = rulebook
        self._buckets = buckets
        self._origins = origins

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rule, route, run_id = self._rulebook.find(scope)
        state = scope.setdefault("state", {})
        state["caller"] = ANONYMOUS
        if rule is None or rule.scope is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refused: MildError | None = None
        try:
            try:
                check_client(request.headers.get("user-agent", ""))
                state["caller"] = key = await self._caller(request)
                self._check_rate(key)
                _check_reach(key, rule, run_id)
                state["again"] = partial(self._again, request)
            except MildError as error:
                refused = error
                await problems.refuse(request, error, _headers(error))(scope, receive, noted)
            else:
                await self._app(scope, receive, noted)
        finally:
            _tell(request, state["caller"], route, run_id, status, refused)

    async def _caller(self, request: Request) -> ApiKey:
        """Whose request this is.

        Raises
        ------
        Unauthenticated, CrossSite
            If that is not shown.
        """
        if not await self._authenticator.requires_key():
            self._check_page(request)
            return ANONYMOUS
        header, session = request.headers.get("authorization"), request.cookies.get(COOKIE)
        if header is None and session:
            if request.method not in _SAFE:
                check_same_site(request)
            key = await self._authenticator.find_by_session(session)
        else:
            scheme, _, secret = (header or "").partition(" ")
            if scheme.lower() != "bearer" or not secret.strip():
                raise Unauthenticated(
                    "the request carries no API key, this service asks for one; send `Authorization: Bearer <key>` "
                    "(mild: --api-key or MILD_API_KEY), or log in at /ui/login"
                )
            key = await self._authenticator.find_by_secret(secret.strip())
        if key is None:
            raise Unauthenticated(
                "the API key or login is unknown, revoked or expired; ask whoever runs the service for another one"
            )
        return key

    async def _again(self, request: Request) -> None:
        """Check once more who asks, where an answer takes its time.

        Raises
        ------
        Unauthenticated
            If the key counts no more.
        """
        await self._caller(request)

    def _check_page(self, request: Request) -> None:
        """Where nobody logs in, any page could write in the name of its reader."""
        origin = request.headers.get("origin")
        by_page = origin is not None or "sec-fetch-site" in request.headers
        if by_page and request.method not in _SAFE and origin not in self._origins:
            check_same_site(request)
            check_not_rebound(request)

    def _check_rate(self, key: ApiKey) -> None:
        wait = 0.0 if key is ANONYMOUS else self._buckets.take(key.key_id)
        if wait:
            seconds = math.ceil(wait)
            raise RateLimited(
                f"the key {key.name!r} has sent more than {self._buckets.rate:g} requests per second; try again in "
                f"{seconds} s, send less often, or have MILD_RATE_PER_KEY raised",
                seconds,
            )


def _check_reach(key: ApiKey, rule: Rule, run_id: str | None) -> None:
    """Refuse what the key does not allow.

    Raises
    ------
    Forbidden, RunNotFound
        A run outside of the key's prefix cannot be told from one that is not there.
    """
    if rule.scope is not None and not key.allows(rule.scope):
        raise Forbidden(f"this needs a key with scope {rule.scope}, {key.name!r} has {key.scope}; use another key")
    if run_id is None or key.covers(run_id):
        return
    if rule.creates:
        raise Forbidden(
            f"the key {key.name!r} reaches runs whose ids start with {key.prefix!r}, got {run_id[:64]!r}; "
            "choose such an id"
        )
    raise hidden_run_error(run_id[:64])


def _headers(error: MildError) -> dict[str, str]:
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="mild-service"'}
    return {"Retry-After": str(error.retry_after)} if isinstance(error, RateLimited) else {}


def _tell(
    request: Request, key: ApiKey, route: str, run_id: str | None, status: int, refused: MildError | None
) -> None:
    """Write down who has done what. Of an open service, only what is deleted is told."""
    deleted = request.method == "DELETE" and status < 300
    denied = isinstance(refused, AccessError)
    if key is ANONYMOUS and not (deleted or denied):
        return
    api_keys.log_audit_event(
        "deletion" if deleted else "refusal" if refused is not None else "use",
        None if key is ANONYMOUS else key,
        method=request.method,
        route=route,
        run=None if run_id is None else run_id[:64],
        status=status,
        problem=None if refused is None else refused.code,
        client=request.client.host if request.client else None,
        request_id=request.state.request_id,
    )
