"""``/runs``: open, resume, list, look at, change, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from mild_core.errors import ParameterError
from mild_service.api.deps import CallerDep, RunId, RunsDep
from mild_service.api.preconditions import ConditionDep, conditional, tagged
from mild_service.api.problems import described
from mild_service.api.round_views import RoundView
from mild_service.api.run_views import RunDetail, RunPage, RunPatch, RunRequest, RunView
from mild_service.conflicts import RoundFinished, RoundNotOpen, RunConflict, RunLimit
from mild_service.errors import (
    BodyTooLarge,
    InvalidRequest,
    LimitExceeded,
    MalformedBody,
    PreconditionFailed,
    RunNotFound,
    StoreFull,
    UnsupportedMediaType,
)

router = APIRouter(tags=["runs"])

_JSON_BODY = (MalformedBody, BodyTooLarge, UnsupportedMediaType, InvalidRequest)


@router.put(
    "/runs/{run_id}",
    response_model=RunView,
    responses={
        201: {"model": RunView, "description": "Created"},
        200: {"description": "It was there, with the same properties; resumed if asked"},
        **described(
            *_JSON_BODY,
            LimitExceeded,
            ParameterError,
            RunConflict,
            RunLimit,
            RoundFinished,
            RoundNotOpen,
            StoreFull,
            PreconditionFailed,
        ),
    },
    openapi_extra=conditional({}),
)
async def open_run(
    run_id: RunId, body: RunRequest, runs: RunsDep, caller: CallerDep, response: Response, condition: ConditionDep
) -> RunView:
    """Open a run, or resume it with `resume_from`."""
    run, created = await runs.open(run_id, body.opening(), caller, condition)
    response.headers.update(tagged(run.uid))
    response.status_code = 201 if created else 200
    return RunView.of(run)


@router.get("/runs", response_model=RunPage, responses=described(InvalidRequest))
async def list_runs(
    runs: RunsDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{13}:[A-Za-z0-9._-]{1,64}$")] = None,
) -> RunPage:
    """List the runs that the key reaches, newest first. A page may be short of `limit` where runs have just expired."""
    page = await runs.page(limit, cursor, caller.prefix)
    return RunPage(runs=[RunView.of(run) for run in page.runs], next_cursor=page.next_cursor)


@router.get("/runs/{run_id}", response_model=RunDetail, responses=described(RunNotFound, InvalidRequest))
async def get_run(run_id: RunId, runs: RunsDep) -> RunDetail:
    """A run's state with its rounds."""
    run = await runs.find(run_id)
    rounds = await runs.rounds(run)
    return RunDetail.of(run, rounds=[RoundView.of(round_, run.config.n_samples) for round_ in rounds])


@router.patch(
    "/runs/{run_id}", response_model=RunView, responses=described(*_JSON_BODY, ParameterError, RunNotFound, StoreFull)
)
async def patch_run(run_id: RunId, body: RunPatch, runs: RunsDep) -> RunView:
    """Change a run's tags, status, time to live or the pictures' address; what is left out stays."""
    return RunView.of(await runs.patch(run_id, body.tags, body.status, body.ttl_seconds, body.picture_url))


@router.delete("/runs/{run_id}", status_code=204, responses=described(RunNotFound, InvalidRequest))
async def delete_run(run_id: RunId, runs: RunsDep) -> None:
    """Delete a run with all that belongs to it."""
    await runs.delete(run_id)
