"""What the OpenAPI document says of all routes: the key that each needs, the errors that it may answer, and bodies."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from mild_service.web import media_types
from mild_service.web.auth import SESSION_COOKIE, Rule, get_rule
from mild_service.web.dependencies import PRECONDITION_HEADERS
from mild_service.web.problems import Problem, describe_problems

ERRORS: Mapping[str, str] = {
    "PUT /runs/{run_id}": "invalid-parameter limit-exceeded run-conflict run-limit round-finished round-not-open",
    "PATCH /runs/{run_id}": "invalid-parameter",
    "PUT /runs/{run_id}/labels": "invalid-input labels-frozen labels-conflict",
    "PUT /runs/{run_id}/sample-ids": "invalid-input sample-id bad-record sample-ids-frozen",
    "GET /runs/{run_id}/sample-ids": "sample-not-found no-sample-ids",
    "PUT /runs/{run_id}/audit": "invalid-input sample-index",
    "POST /runs/{run_id}/audit/draw": "invalid-parameter round-open round-not-open no-epochs draw-answered",
    "PUT /runs/{run_id}/planted": "sample-index planted-frozen",
    "PUT /runs/{run_id}/rounds/{round}/members": "invalid-input sample-index members-frozen",
    "PUT /runs/{run_id}/rounds/{round}/epochs/{epoch}": "correct-not-observed epoch-conflict epoch-kind",
    "PUT /runs/{run_id}/rounds/{round}/epochs/{epoch}/shards/{shard}": "correct-not-observed epoch-conflict epoch-kind",
    "PUT /runs/{run_id}/rounds/{round}/metrics/{epoch}": "metrics-conflict",
    "POST /runs/{run_id}/predictions": "invalid-parameter limit-exceeded bad-record round-not-open no-sample-ids "
    "epoch-conflict epoch-kind labels-conflict",
    "POST /runs/{run_id}/rounds/{round}/finish": "bitmap-length trailing-bits invalid-parameter empty-set no-epochs "
    "epoch-gap",
    "GET /runs/{run_id}/rounds/{round}/evaluation": "no-audit",
    "GET /runs/{run_id}/events": "overloaded",
    "GET /runs/{run_id}/samples/{index}": "sample-index",
    "GET /selection/{run_id}": "limit-exceeded no-sample-ids",
    "POST /selection": "invalid-input bitmap-length trailing-bits correct-not-observed limit-exceeded bad-record",
    "GET /ready": "shutting-down store-unavailable deadline-exceeded internal-error",
    "GET /problems/{code}": "not-found",
}
"""Codes of errors of single routes; `_list_shared_errors` has those that follow from what a route takes and gives."""

_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key; not needed where the service runs open."},
    "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE, "description": "A login at /ui/login."},
}
_PROBLEM_CONTENT = {media_types.PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def declare_answers(app: FastAPI) -> None:
    """Add the scopes that routes require, and the errors that they answer, to the OpenAPI document of `app`."""
    generate: Callable[[], dict[str, Any]] = app.openapi

    def generate_with_answers() -> dict[str, Any]:
        document = generate()
        components = document["components"]
        if "securitySchemes" not in components:  # FastAPI caches the document
            problems = describe_problems()
            components["securitySchemes"] = _SCHEMES
            components["schemas"]["Problem"] = Problem.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which no route answers
                del components["schemas"][name]
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    _declare_operation(operation, method.upper(), path, problems)
                    for content in operation.get("requestBody", {}).get("content", {}).values():
                        components["schemas"] |= content["schema"].get("$defs", {})  # to which the schema refers
        return document

    app.openapi = generate_with_answers  # type: ignore[method-assign]  # as FastAPI documents it


def _declare_operation(
    operation: dict[str, Any], method: str, path: str, problems: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add the scope of a rule, and the errors, to one operation of the document."""
    responses = operation["responses"]
    responses.pop("422", None)
    codes = ERRORS.get(f"{method} {path}", "").split()
    rule = get_rule(f"{method} {path}")
    if rule.scope is not None:
        operation["security"] = [{"key": [rule.scope]}, {"session": [rule.scope]}]
        codes += _list_shared_errors(operation, method, path, rule)
    for code in dict.fromkeys(codes):
        status = str(problems[code]["status"])
        response = responses.setdefault(status, {"description": "", "content": _PROBLEM_CONTENT})
        response["description"] += f"{', ' if response['description'] else ''}`{code}`"


def _list_shared_errors(operation: dict[str, Any], method: str, path: str, rule: Rule) -> list[str]:
    """Return the codes of the errors that follow from the rule, parameters, body and responses of an operation."""
    parameters = {(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", ())}
    body, gives = operation.get("requestBody", {}).get("content", {}), operation["responses"].get("200", {})
    is_of_run, has_options = "{run_id}" in path, ("query", "threshold") in parameters
    groups = (
        (True, "unauthenticated forbidden rate-limited client-too-old"),
        (True, "store-unavailable deadline-exceeded internal-error"),
        ("service" not in operation["tags"], "invalid-request"),  # the others check no query
        (method != "GET", "cross-site"),
        (is_of_run and not rule.creates_run, "run-not-found"),
        (("path", "round") in parameters, "limit-exceeded round-not-open"),
        (("query", "round") in parameters, "round-not-open rounds-not-comparable"),
        (has_options, "invalid-parameter"),
        (has_options and is_of_run, "no-epochs"),
        (("header", "Mild-Attempt") in parameters, "stale-attempt round-finished"),
        (("header", "if-match") in parameters, "precondition-failed"),
        (is_of_run and method in ("PUT", "POST", "PATCH"), "store-full"),
        (bool(body), "malformed-body body-too-large slow-body unsupported-media-type"),
        (bool(body.keys() - {media_types.JSON}), "digest-mismatch"),
        (media_types.BITMAP in body, "bitmap-length trailing-bits"),
        (len(gives.get("content", ())) > 1, "not-acceptable"),
    )
    return [code for applies, codes in groups if applies for code in codes.split()]


def describe_binary(description: str = "") -> dict[str, Any]:
    """Return the OpenAPI description of bytes, such as a bitmap."""
    schema = {"type": "string", "format": "binary"}
    return {"schema": schema | ({"description": description} if description else {})}


def describe_body(
    content: Mapping[str, str | type[BaseModel] | dict[str, Any]], has_precondition: bool = False
) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads its body itself.

    Parameters
    ----------
    content
        What the body is in each media type: the description of bytes, a model of JSON, or an OpenAPI description. Empty
        if FastAPI describes it.
    has_precondition
        Whether the route takes the headers If-Match and If-None-Match.
    """
    described: dict[str, Any] = {}
    for media_type, body in content.items():
        if isinstance(body, str):
            described[media_type] = describe_binary(body)
        elif isinstance(body, dict):
            described[media_type] = body
        else:
            described[media_type] = {"schema": body.model_json_schema(ref_template="#/components/schemas/{model}")}
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": described}} if content else {}
    return extra | ({"parameters": PRECONDITION_HEADERS} if has_precondition else {})
