"""Access control before every route: the scope that each route needs, who is calling, and how often."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from fastapi.routing import iter_route_contexts
from starlette.requests import HTTPConnection, Request
from starlette.routing import BaseRoute, Match, Mount, compile_path
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from mild_core.errors import MildError
from mild_service import api_keys
from mild_service.api_keys import ANONYMOUS, ApiKey, Scope
from mild_service.auth import Authenticator
from mild_service.errors import AccessError, ClientTooOld, Forbidden, RateLimited, Unauthenticated
from mild_service.models import run_not_found_error
from mild_service.web import problems
from mild_service.web.csrf import check_dns_rebinding, check_same_site
from mild_service.web.request_limits import HttpMiddleware, RateLimiter


@dataclass(frozen=True, slots=True)
class Rule:
    """The access that a route requires.

    Attributes
    ----------
    scope
        Lowest sufficient scope of the API key; None if the route needs no key.
    creates_run
        Whether the route creates the run that its path names. If the run is outside the key's prefix, such a route
        raises `Forbidden`; all other routes answer as if the run did not exist.
    """

    scope: Scope | None
    creates_run: bool = False


OPEN, READ = Rule(None), Rule("read")
METRICS = Rule("admin")
"""Placeholder, which `RouteRules` replaces by the scope of the setting `metrics_access`."""

RULES: Mapping[str, Rule] = {
    "PUT /runs/{run_id}": Rule("write", creates_run=True),
    "GET /runs": READ,
    "POST /selection": READ,  # stores nothing
    "GET /metrics": METRICS,
    # Probes and the documentation of the program, which is public.
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
    "GET /ui/login": OPEN,
    "POST /ui/login": OPEN,
    "POST /ui/logout": OPEN,  # without a session it only redirects
    "GET /ui/static/{path:path}": OPEN,
}
"""Rules of single routes, by method and path. Routes of a run need the scope of their method, all others `admin`."""

_RUN_RULES = {"GET": READ, "PUT": Rule("write"), "POST": Rule("write"), "PATCH": Rule("write")}
"""Rules of the routes of a run, by method; others, such as DELETE, need the scope `admin`."""


def get_rule(route: str) -> Rule:
    """Return the rule of a route, which is given as its method and path template."""
    method, template = route.split(" ")
    return RULES.get(route) or (_RUN_RULES if "{run_id}" in template else {}).get(method, Rule("admin"))


class RouteRules:
    """Finds the rule of a request by its method and path.

    Parameters
    ----------
    routes
        Routes of the application.
    metrics_scope
        Scope that `/metrics` requires.
    """

    def __init__(self, routes: Sequence[BaseRoute], metrics_scope: Scope | Literal["open"]) -> None:
        metrics_rule = Rule(None if metrics_scope == "open" else metrics_scope)
        # Grouped by method and number of slashes (None: any number), so that few patterns are tried per request.
        self._rules: dict[tuple[str, int | None], list[tuple[re.Pattern[str], str, Rule]]] = {}
        for route in iter_route_contexts(routes):
            is_mount = isinstance(route.original_route, Mount)
            template = f"{route.path}/{{path:path}}" if is_mount else str(route.path)
            for method in {"GET"} if is_mount else set(route.methods or ()):
                rule = get_rule(f"{method} {template}")
                rules = self._rules.setdefault((method, None if is_mount else template.count("/")), [])
                rules.append((compile_path(template)[0], template, metrics_rule if rule is METRICS else rule))

    def find_rule(self, connection: Connection) -> tuple[Rule | None, str, str | None]:
        """Return the access rule of a request, the path template of its route, and the run id in its path.

        Parameters
        ----------
        connection
            ASGI scope of the request.

        Returns
        -------
        tuple
            The rule, the template and the run id. The rule is None if no route takes the request, whose response is
            then a 404 or 405. The template is ``none`` if the route is not one of `routes`. The run id is None if the
            path has none.
        """
        method = "GET" if connection["method"] == "HEAD" else connection["method"]
        path = _path_below_root(connection)
        candidates = (*self._rules.get((method, path.count("/")), ()), *self._rules.get((method, None), ()))
        for pattern, template, rule in candidates:
            if match := pattern.match(path):
                return rule, template, match.groupdict().get("run_id")
        routes = HTTPConnection(connection).app.routes
        if any(route.matches(connection)[0] is Match.FULL for route in routes):
            return Rule("admin"), "none", None
        return None, "none", None


def _path_below_root(connection: Connection) -> str:
    """Return the path of a request without the root path, with which it may begin behind a proxy."""
    path: str = connection["path"]
    root: str = connection.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


API_VERSION = 1
"""Version of the API; within one version, nothing is removed."""
OLDEST_CLIENT = "0.1.0"
"""Oldest version of mild-client that is supported."""
_CLIENT = re.compile(r"mild-client/([0-9]{1,6}(?:\.[0-9]{1,6}){0,2})")
SESSION_COOKIE = "mild_session"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class AuthMiddleware(HttpMiddleware):
    """Checks the key, the rate and the scope of each request, and answers with a problem if one is insufficient.

    An accepted request is passed on with the caller's key in ``request.state.caller``.

    Parameters
    ----------
    app
        The next ASGI application.
    authenticator
        Finds the key of a secret or of a session.
    route_rules
        Finds the access rule of each request.
    rate_limiter
        Limits the requests of each key.
    origins
        Web origins whose pages may call a service that needs no key.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        route_rules: RouteRules,
        rate_limiter: RateLimiter,
        origins: Collection[str] = (),
    ) -> None:
        super().__init__(app)
        self._authenticator = authenticator
        self._route_rules = route_rules
        self._rate_limiter = rate_limiter
        self._origins = origins

    async def handle(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Handle one request."""
        rule, route, run_id = self._route_rules.find_rule(scope)
        state = scope.setdefault("state", {})
        state["caller"] = ANONYMOUS
        if rule is None or rule.scope is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        status = 500

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal: MildError | None = None
        try:
            try:
                _check_client_version(request.headers.get("user-agent", ""))
                state["caller"] = key = await self._authenticate(request)
                if key is not ANONYMOUS:
                    self._check_rate(key)
                    _check_access(key, rule, run_id)
                state["revalidate_key"] = partial(self._authenticate, request)
            except MildError as error:
                refusal = error
                await problems.make_error_response(request, error, _error_headers(error))(
                    scope, receive, send_and_record
                )
            else:
                await self._app(scope, receive, send_and_record)
        finally:
            _log_access(request, state["caller"], route, run_id, status, refusal)

    async def _authenticate(self, request: Request) -> ApiKey:
        """Return the API key of a request, from its header or its session; `ANONYMOUS` if no key is required.

        Raises `Unauthenticated` if the request needs a key and has none that is valid now.
        """
        if not await self._authenticator.requires_key():
            self._check_origin(request)
            return ANONYMOUS
        header, session = request.headers.get("authorization"), request.cookies.get(SESSION_COOKIE)
        if header is None and session:
            if request.method not in _SAFE_METHODS:
                check_same_site(request)
            key = await self._authenticator.find_by_session(session)
        else:
            scheme, _, secret = (header or "").partition(" ")
            if scheme.lower() != "bearer" or not secret.strip():
                raise Unauthenticated(
                    "the request carries no API key, this service requires one; send `Authorization: Bearer <key>` "
                    "(mild: --api-key or MILD_API_KEY), or log in at /ui/login"
                )
            key = await self._authenticator.find_by_secret(secret.strip())
        if key is None:
            raise Unauthenticated(
                "the API key or login is unknown, revoked or expired; ask the operator of the service for another one"
            )
        return key

    def _check_origin(self, request: Request) -> None:
        """Raise `CrossSite` if a web page of another site sends a write to a service that requires no key."""
        origin = request.headers.get("origin")
        from_browser = origin is not None or "sec-fetch-site" in request.headers
        if from_browser and request.method not in _SAFE_METHODS and origin not in self._origins:
            check_same_site(request)
            check_dns_rebinding(request)

    def _check_rate(self, key: ApiKey) -> None:
        """Raise `RateLimited` if the key has sent too many requests."""
        if wait := self._rate_limiter.take_token(key.key_id):
            seconds = math.ceil(wait)
            raise RateLimited(
                f"the key {key.name!r} has sent more than {self._rate_limiter.rate:g} requests per second; try again "
                f"in {seconds} s, send less often, or have MILD_RATE_PER_KEY raised",
                seconds,
            )


def _check_client_version(user_agent: str) -> None:
    """Check that a User-Agent does not name an unsupported version of mild-client; other clients may have any."""
    match = _CLIENT.match(user_agent)
    if match and _parse_version(match[1]) < _parse_version(OLDEST_CLIENT):
        raise ClientTooOld(
            f"this is mild-client {match[1]}, the service supports {OLDEST_CLIENT} and newer ones; "
            "pip install --upgrade mild-selection"
        )


def _parse_version(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _check_access(key: ApiKey, rule: Rule, run_id: str | None) -> None:
    """Raise an error if the key lacks the scope of the rule, or if the run is outside the key's prefix."""
    if rule.scope is not None and not key.allows(rule.scope):
        raise Forbidden(f"this needs a key with scope {rule.scope}, {key.name!r} has {key.scope}; use another key")
    if run_id is None or key.covers(run_id):
        return
    if rule.creates_run:
        raise Forbidden(
            f"the key {key.name!r} reaches runs whose ids start with {key.prefix!r}, got {run_id[:64]!r}; "
            "choose such an id"
        )
    raise run_not_found_error(run_id[:64])  # as for a run that does not exist


def _error_headers(error: MildError) -> dict[str, str]:
    """Return the response headers that the HTTP status of an error requires."""
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="mild-service"'}
    return {"Retry-After": str(error.retry_after)} if isinstance(error, RateLimited) else {}


def _log_access(
    request: Request, key: ApiKey, route: str, run_id: str | None, status: int, refusal: MildError | None
) -> None:
    """Log a request in the audit log; requests without a key are logged only if they delete or are refused."""
    deleted = request.method == "DELETE" and status < 300
    denied = isinstance(refusal, AccessError)
    if key is ANONYMOUS and not (deleted or denied):
        return
    api_keys.log_audit_event(
        "deletion" if deleted else "refusal" if refusal is not None else "use",
        None if key is ANONYMOUS else key,
        method=request.method,
        route=route,
        run=None if run_id is None else run_id[:64],
        status=status,
        problem=None if refusal is None else refusal.code,
        client=request.client.host if request.client else None,
        request_id=request.state.request_id,
    )
