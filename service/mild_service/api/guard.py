"""The guard before every route: who asks, with what, may they, and not too often. It looks at no body."""

import math
from collections.abc import Collection
from functools import partial

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mild_core.errors import MildError
from mild_service import trail
from mild_service.access import Gate, absent
from mild_service.api import problems
from mild_service.api.buckets import Buckets
from mild_service.api.compatibility import check_client
from mild_service.api.rules import Rule, Rulebook
from mild_service.api.same_site import check_not_rebound, check_same_site
from mild_service.errors import AccessError, Forbidden, RateLimited, Unauthenticated
from mild_service.identity import ANONYMOUS, ApiKey

COOKIE = "mild_session"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Lets a request through to its route with the caller in its state, or answers with the problem.

    Parameters
    ----------
    app
        What lies behind.
    gate
        Knows the keys.
    rulebook
        Knows what each route asks for.
    buckets
        Count the requests of each key.
    origins
        Web origins whose pages may call an open service; others might do so behind their reader's back.
    """

    def __init__(
        self, app: ASGIApp, gate: Gate, rulebook: Rulebook, buckets: Buckets, origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._gate = gate
        self._rulebook = rulebook
        self._buckets = buckets
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        if not await self._gate.is_closed():
            self._check_page(request)
            return ANONYMOUS
        header, session = request.headers.get("authorization"), request.cookies.get(COOKIE)
        if header is None and session:
            if request.method not in _SAFE:
                check_same_site(request)
            key = await self._gate.by_session(session)
        else:
            scheme, _, secret = (header or "").partition(" ")
            if scheme.lower() != "bearer" or not secret.strip():
                raise Unauthenticated(
                    "the request carries no API key, this service asks for one; send `Authorization: Bearer <key>` "
                    "(mild: --api-key or MILD_API_KEY), or log in at /ui/login"
                )
            key = await self._gate.by_secret(secret.strip())
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
    if run_id is None or key.reaches(run_id):
        return
    if rule.creates:
        raise Forbidden(
            f"the key {key.name!r} reaches runs whose ids start with {key.prefix!r}, got {run_id[:64]!r}; "
            "choose such an id"
        )
    raise absent(run_id[:64])


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
    trail.tell(
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
