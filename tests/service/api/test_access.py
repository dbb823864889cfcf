"""Every route of the application against every kind of key, cell by cell."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import Mount

from mild_service.api_keys import SCOPES, Scope
from mild_service.app import create_app
from mild_service.config import Settings
from mild_service.web.auth import METRICS, RULES, Rule, get_rule
from mild_service.web.openapi import ERRORS
from tests.inprocess import running
from tests.service.keyring import Keyring, bearer

NAMES = {"{run_id}": "a", "{code}": "no-audit", "{path:path}": "none"}
"""What stands in a path's places; in the others, 0."""


def routes(app: FastAPI) -> set[str]:
    """Method and path of everything that the application answers to."""
    found: set[str] = set()
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, Mount):
            found.add(f"GET {context.path}/{{path:path}}")
        else:
            found |= {f"{method} {context.path}" for method in (context.methods or set()) - {"HEAD"}}
    return found


def bare_app() -> FastAPI:
    return create_app(Settings(store_url="redis://localhost:1"))


def test_every_route_that_is_not_a_runs_has_a_rule_and_every_rule_a_route() -> None:
    app = bare_app()
    assert set(RULES) <= routes(app)
    assert all("{run_id}" in route for route in routes(app) - set(RULES))
    assert get_rule("GET /forgotten") == Rule("admin")


def test_what_needs_no_key_is_known_by_name() -> None:
    assert {route for route in routes(bare_app()) if get_rule(route).scope is None} == {
        *("GET /health", "GET /ready", "GET /version", "GET /problems", "GET /problems/{code}", "GET /"),
        *("GET /docs", "GET /docs/oauth2-redirect", "GET /openapi.json", "GET /static-offline-docs/{path:path}"),
        *("GET /ui", "GET /ui/login", "POST /ui/login", "POST /ui/logout", "GET /ui/static/{path:path}"),
    }


def test_what_changes_a_run_needs_more_than_reading() -> None:
    for route in routes(bare_app()):
        method, path = route.split(" ")
        if "{run_id}" in path:
            least: Scope = {"GET": "read", "DELETE": "admin"}.get(method, "write")  # type: ignore[assignment]
            assert get_rule(route).scope == least, route
        assert get_rule(route).creates_run == (route == "PUT /runs/{run_id}")


@dataclass
class Door:
    """A service with run `a`, and a key of each kind."""

    client: httpx.Client
    secrets: dict[str, str]

    def outcome(self, route: str, kind: str) -> str:
        """What a key gets at a route: the problem that turns it away, or `in`."""
        self.client.put("/runs/a", json={"num_samples": 8}, headers=bearer(self.secrets["admin"]))
        method, path = route.split(" ")
        path = re.sub(r"\{.*?\}", lambda place: NAMES.get(place[0], "0"), path)
        answer = self.client.request(method, path, headers=bearer(self.secrets[kind]) if kind in self.secrets else {})
        if answer.headers.get("content-type") != "application/problem+json":
            return "in"
        code = str(answer.json()["type"]).removeprefix("/problems/")
        return code if code in ("unauthenticated", "forbidden", "run-not-found") else "in"


@pytest.fixture(scope="module")
def door(store_url: str) -> Iterator[Door]:
    settings = Settings(
        store_url=store_url,
        store_namespace="test-access-table",
        sweep_seconds=0,
        stream_seconds=0.01,  # streams end
    )
    app = create_app(settings)
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as client:
        keys = Keyring(app.state.store, transport)
        secrets: dict[str, str] = {scope: keys.make(scope) for scope in SCOPES}
        secrets["other prefix"] = keys.make("admin", prefix="other-")
        secrets["revoked"] = keys.make("admin", revoked=True)
        secrets["expired"] = keys.make("admin", lives=-1)
        yield Door(client, secrets)


def expected(rule: Rule, path: str, kind: str) -> str:
    """What the rule says of a kind of key."""
    if rule.scope is None:
        return "in"
    if kind in ("no key", "revoked", "expired"):
        return "unauthenticated"
    if kind == "other prefix":
        return "in" if "{run_id}" not in path else "forbidden" if rule.creates_run else "run-not-found"
    return "in" if SCOPES.index(kind) >= SCOPES.index(rule.scope) else "forbidden"


@pytest.mark.parametrize("kind", ["no key", *SCOPES, "other prefix", "revoked", "expired"])
@pytest.mark.parametrize("route", sorted(routes(bare_app())))
def test_a_route_lets_in_whom_its_rule_says(door: Door, route: str, kind: str) -> None:
    assert door.outcome(route, kind) == expected(get_rule(route), route, kind)


def test_a_route_without_a_rule_is_an_admins(app: FastAPI) -> None:
    app.add_api_route("/forgotten", lambda: None)
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        keys = Keyring(app.state.store, transport)
        wanted = {None: 401, keys.make("read"): 403, keys.make("write"): 403, keys.make("admin"): 200}
        for secret, status in wanted.items():
            assert service.get("/forgotten", headers=bearer(secret) if secret else {}).status_code == status


@pytest.mark.parametrize("access", ["open", "read", "write", "admin"])
def test_who_may_read_the_counters_is_a_setting(settings: Settings, access: str) -> None:
    app = create_app(settings.model_copy(update={"metrics_access": access, "auth": "required"}))
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        keys = Keyring(app.state.store, transport)
        for kind in ("no key", *SCOPES):
            headers = bearer(keys.make(kind)) if kind != "no key" else {}  # type: ignore[arg-type]
            wanted = expected(Rule(None if access == "open" else access), "/metrics", kind)  # type: ignore[arg-type]
            statuses = {"in": 200, "unauthenticated": 401, "forbidden": 403}
            assert service.get("/metrics", headers=headers).status_code == statuses[wanted]
    assert RULES["GET /metrics"] is METRICS


def test_the_rules_are_declared(service: httpx.Client) -> None:
    document = service.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"key", "session"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            scope = get_rule(f"{method.upper()} {path}").scope
            assert operation.get("security", []) == ([{"key": [scope]}, {"session": [scope]}] if scope else [])
            assert {"401", "403", "429"} <= set(operation["responses"]) or scope is None


def test_errors_are_declared_as_problems_and_of_routes_that_there_are(service: httpx.Client) -> None:
    document = service.get("/openapi.json").json()
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert ERRORS.keys() <= operations.keys()
    for operation in operations.values():
        refused = {status: response for status, response in operation["responses"].items() if status >= "400"}
        assert all(list(response["content"]) == ["application/problem+json"] for response in refused.values())
    assert "HTTPValidationError" not in document["components"]["schemas"]
