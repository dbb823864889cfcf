"""What the OpenAPI document says of all routes: the key that each needs, the errors that it may answer, and bodies."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI

from mild_core import errors as core
from mild_core.errors import MildError
from mild_service import errors
from mild_service.web import media_types
from mild_service.web.auth import RULES, SESSION_COOKIE, Rule
from mild_service.web.problems import InternalError, Problem, RouteNotFound, get_http_status

ERRORS: Mapping[str, tuple[type[MildError], ...]] = {
    "PUT /runs/{run_id}": (
        core.ParameterError,
        errors.LimitExceeded,
        errors.RunConflict,
        errors.RunLimit,
        errors.RoundFinished,
        errors.RoundNotOpen,
    ),
    "PATCH /runs/{run_id}": (core.ParameterError,),
    "PUT /runs/{run_id}/labels": (core.InvalidInput, errors.LabelsFrozen, errors.LabelsConflict),
    "PUT /runs/{run_id}/sample-ids": (
        core.InvalidInput,
        core.SampleIdError,
        errors.BadRecord,
        errors.SampleIdsFrozen,
    ),
    "GET /runs/{run_id}/sample-ids": (errors.SampleNotFound, errors.NoSampleIds),
    "PUT /runs/{run_id}/audit": (core.InvalidInput, core.SampleIndexError),
    "POST /runs/{run_id}/audit/draw": (
        core.ParameterError,
        errors.RoundOpen,
        errors.RoundNotOpen,
        errors.NoEpochs,
        errors.DrawAnswered,
    ),
    "PUT /runs/{run_id}/planted": (core.SampleIndexError, errors.PlantedFrozen),
    "PUT /runs/{run_id}/rounds/{round}/members": (core.InvalidInput, core.SampleIndexError, errors.MembersFrozen),
    "PUT /runs/{run_id}/rounds/{round}/epochs/{epoch}": (
        core.CorrectNotObservedError,
        errors.EpochConflict,
        errors.EpochKindConflict,
    ),
    "PUT /runs/{run_id}/rounds/{round}/epochs/{epoch}/shards/{shard}": (
        core.CorrectNotObservedError,
        errors.EpochConflict,
        errors.EpochKindConflict,
    ),
    "PUT /runs/{run_id}/rounds/{round}/metrics/{epoch}": (errors.MetricsConflict,),
    "POST /runs/{run_id}/predictions": (
        core.ParameterError,
        errors.LimitExceeded,
        errors.BadRecord,
        errors.RoundNotOpen,
        errors.NoSampleIds,
        errors.EpochConflict,
        errors.EpochKindConflict,
        errors.LabelsConflict,
    ),
    "POST /runs/{run_id}/rounds/{round}/finish": (
        core.BitmapLengthError,
        core.TrailingBitsError,
        core.ParameterError,
        core.EmptySetError,
        errors.NoEpochs,
        errors.EpochGap,
    ),
    "GET /runs/{run_id}/rounds/{round}/evaluation": (errors.NoAudit,),
    "GET /runs/{run_id}/events": (errors.Overloaded,),
    "GET /runs/{run_id}/samples/{index}": (core.SampleIndexError,),
    "GET /selection/{run_id}": (errors.LimitExceeded, errors.NoSampleIds),
    "POST /selection": (
        core.InvalidInput,
        core.BitmapLengthError,
        core.TrailingBitsError,
        core.CorrectNotObservedError,
        errors.LimitExceeded,
        errors.BadRecord,
    ),
    "GET /ready": (errors.ShuttingDown, errors.StoreUnavailable, errors.DeadlineExceeded, InternalError),
    "GET /problems/{code}": (RouteNotFound,),
}
"""Errors of single routes; `_list_shared_errors` has those that follow from what a route takes and gives."""

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
            components["securitySchemes"] = _SCHEMES
            components["schemas"]["Problem"] = Problem.model_json_schema()
            for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which no route answers
                del components["schemas"][name]
            for path, methods in document["paths"].items():
                for method, operation in methods.items():
                    _declare_operation(operation, method.upper(), path)
        return document

    app.openapi = generate_with_answers  # type: ignore[method-assign]  # as FastAPI documents it


def _declare_operation(operation: dict[str, Any], method: str, path: str) -> None:
    """Add the scope of a rule, and the errors, to one operation of the document."""
    responses = operation["responses"]
    responses.pop("422", None)
    route_errors = list(ERRORS.get(f"{method} {path}", ()))
    rule = RULES.get(f"{method} {path}")
    if rule is not None and rule.scope is not None:
        operation["security"] = [{"key": [rule.scope]}, {"session": [rule.scope]}]
        route_errors += _list_shared_errors(operation, method, path, rule)
    for error in dict.fromkeys(route_errors):
        response = responses.setdefault(str(get_http_status(error)), {"description": "", "content": _PROBLEM_CONTENT})
        response["description"] += f"{', ' if response['description'] else ''}`{error.code}`"


def _list_shared_errors(operation: dict[str, Any], method: str, path: str, rule: Rule) -> list[type[MildError]]:
    """Return the errors that follow from the rule, the parameters, the body and the responses of an operation."""
    parameters = {(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", ())}
    body, gives = operation.get("requestBody", {}).get("content", {}), operation["responses"].get("200", {})
    is_of_run, has_options = "{run_id}" in path, ("query", "threshold") in parameters
    groups = (
        (True, (errors.Unauthenticated, errors.Forbidden, errors.RateLimited, errors.ClientTooOld)),
        (True, (errors.StoreUnavailable, errors.DeadlineExceeded, InternalError)),
        ("service" not in operation["tags"], (errors.InvalidRequest,)),  # the others check no query
        (method != "GET", (errors.CrossSite,)),
        (is_of_run and not rule.creates_run, (errors.RunNotFound,)),
        (("path", "round") in parameters, (errors.LimitExceeded, errors.RoundNotOpen)),
        (("query", "round") in parameters, (errors.RoundNotOpen, errors.RoundsNotComparable)),
        (has_options, (core.ParameterError,)),
        (has_options and is_of_run, (errors.NoEpochs,)),
        (("header", "Mild-Attempt") in parameters, (errors.StaleAttempt, errors.RoundFinished)),
        (("header", "if-match") in parameters, (errors.PreconditionFailed,)),
        (is_of_run and method in ("PUT", "POST", "PATCH"), (errors.StoreFull,)),
        (bool(body), (errors.MalformedBody, errors.BodyTooLarge, errors.SlowBody, errors.UnsupportedMediaType)),
        (bool(body.keys() - {media_types.JSON}), (errors.DigestMismatch,)),
        (media_types.BITMAP in body, (core.BitmapLengthError, core.TrailingBitsError)),
        (len(gives.get("content", ())) > 1, (errors.NotAcceptable,)),
    )
    return [error for applies, group in groups if applies for error in group]


def describe_bitmap_body(description: str, **content: Any) -> dict[str, Any]:
    """Return the `openapi_extra` of a route whose body is one or more bitmaps.

    Parameters
    ----------
    description
        What the bitmaps are.
    content
        OpenAPI description of further media types, by name.
    """
    schema = {"type": "string", "format": "binary", "description": description}
    return {"requestBody": {"required": True, "content": {media_types.BITMAP: {"schema": schema}, **content}}}
