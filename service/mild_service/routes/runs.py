"""Runs: ``/runs``, opened, resumed, listed, changed and deleted."""

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, BeforeValidator, Field

from mild_core.errors import ParameterError
from mild_core.types import RunSpec
from mild_service.errors import (
    BodyTooLarge,
    InvalidRequest,
    LimitExceeded,
    MalformedBody,
    PreconditionFailed,
    RoundFinished,
    RoundNotOpen,
    RunConflict,
    RunLimit,
    RunNotFound,
    StoreFull,
    UnsupportedMediaType,
)
from mild_service.image_urls import MAX_URL_LENGTH
from mild_service.models import Run, RunStatus
from mild_service.routes.rounds import RoundView
from mild_service.web.bodies import RequestModel, WholeNumber, limit_entries
from mild_service.web.dependencies import CallerDep, RunId, RunsDep
from mild_service.web.problems import error_responses
from mild_service.web.responses import PreconditionDep, etag_header, with_preconditions
from mild_service.web.schemas import SelectionRequest, request_fields, response_model

Tags = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    BeforeValidator(limit_entries),
]
PictureUrl = Annotated[str, Field(max_length=MAX_URL_LENGTH)]


class ResumeFrom(RequestModel):
    """Where a restarted trainer goes on: the open round's epochs from here on are dropped."""

    round: WholeNumber
    epoch: WholeNumber

    @property
    def place(self) -> tuple[int, int]:
        """Round and epoch."""
        return self.round, self.epoch


_NARROWED = {"tags": Tags | None, "picture_url": PictureUrl | None}

if TYPE_CHECKING:
    _RequestFields: TypeAlias = RequestModel
    _PatchFields: TypeAlias = RequestModel
    _StateFields: TypeAlias = BaseModel
else:
    _RequestFields = request_fields(RunSpec, without=("run_id", "selection"), types=_NARROWED)
    _PatchFields = request_fields(RunSpec, only=("tags", "ttl_seconds", "picture_url"), types=_NARROWED, optional=True)
    _StateFields = response_model(RunSpec, complete=True)


class RunRequest(_RequestFields):
    """Opens a run, or opens it again: then what is left out is taken from the run."""

    selection: SelectionRequest = Field(default_factory=SelectionRequest)
    resume_from: ResumeFrom | None = None

    def spec(self, run_id: str) -> RunSpec:
        """The run that is asked for; what the request leaves out has its default."""
        values = {field.name: getattr(self, field.name) for field in fields(RunSpec) if field.name != "run_id"}
        values |= {"tags": values["tags"] or {}, "selection": self.selection.options()}
        return RunSpec(run_id, **values)

    def sent_fields(self) -> frozenset[str]:
        """Names of the fields that the request holds, options of the selection as ``selection.metric``."""
        sent = {name for name in self.model_fields_set if getattr(self, name) is not None}
        return frozenset(sent | {f"selection.{name}" for name in self.selection.sent_options()})


class RunPatch(_PatchFields):
    """What may be changed of a run; what is left out or null stays."""

    status: RunStatus | None = None

    def changes(self) -> dict[str, Any]:
        """New values of the run's fields, by name."""
        changes: dict[str, Any] = self.model_dump(exclude={"status"}, exclude_none=True)
        return changes


class RunView(_StateFields):
    """A run's state with every default resolved. Times are Unix time in seconds."""

    status: RunStatus
    ttl_seconds: int = Field(description="The run expires so many seconds after its last write.")
    attempt: int = Field(description="Send it as `Mild-Attempt` with every write.")
    round: int = Field(description="The open round.")
    created_at: float
    updated_at: float
    expires_at: float

    @classmethod
    def of(cls, run: Run, **more: Any) -> Self:
        """View of `run`."""
        spec = {field.name: getattr(run.spec, field.name) for field in fields(RunSpec)}
        return cls.model_validate({**spec, **{name: getattr(run, name) for name in RunView.__annotations__}, **more})


class RunDetail(RunView):
    """A run's state with its rounds."""

    rounds: list[RoundView]


class RunPage(BaseModel):
    """Some runs, newest first."""

    runs: list[RunView]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null at the end.")


router = APIRouter(tags=["runs"])

_JSON_ERRORS = (MalformedBody, BodyTooLarge, UnsupportedMediaType, InvalidRequest)


@router.put(
    "/runs/{run_id}",
    response_model=RunView,
    responses={
        201: {"model": RunView, "description": "Created"},
        200: {"description": "It existed with the same properties; resumed if requested"},
        **error_responses(
            *_JSON_ERRORS,
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
    openapi_extra=with_preconditions({}),
)
async def open_run(
    run_id: RunId, body: RunRequest, runs: RunsDep, caller: CallerDep, response: Response, condition: PreconditionDep
) -> RunView:
    """Open a run, or resume it with `resume_from`."""
    resume_from = None if body.resume_from is None else body.resume_from.place
    run, created = await runs.open(body.spec(run_id), body.sent_fields(), resume_from, caller, condition)
    response.headers.update(etag_header(run.uid))
    response.status_code = 201 if created else 200
    return RunView.of(run)


@router.get("/runs", response_model=RunPage, responses=error_responses(InvalidRequest))
async def list_runs(
    runs: RunsDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{13}:[A-Za-z0-9._-]{1,64}$")] = None,
) -> RunPage:
    """List the runs that the key may access, newest first. A page may be shorter than `limit` if runs just expired."""
    page = await runs.list_page(limit, cursor, caller.prefix)
    return RunPage(runs=[RunView.of(run) for run in page.runs], next_cursor=page.next_cursor)


@router.get("/runs/{run_id}", response_model=RunDetail, responses=error_responses(RunNotFound, InvalidRequest))
async def get_run(run_id: RunId, runs: RunsDep) -> RunDetail:
    """A run's state with its rounds."""
    run = await runs.find(run_id)
    rounds = await runs.read_rounds(run)
    return RunDetail.of(run, rounds=[RoundView.of(round_, run.spec.num_samples) for round_ in rounds])


@router.patch(
    "/runs/{run_id}",
    response_model=RunView,
    responses=error_responses(*_JSON_ERRORS, ParameterError, RunNotFound, StoreFull),
)
async def patch_run(run_id: RunId, body: RunPatch, runs: RunsDep) -> RunView:
    """Change a run's tags, status, time to live or picture address; fields that are left out stay as they are."""
    return RunView.of(await runs.patch(run_id, body.changes(), body.status))


@router.delete("/runs/{run_id}", status_code=204, responses=error_responses(RunNotFound, InvalidRequest))
async def delete_run(run_id: RunId, runs: RunsDep) -> None:
    """Delete a run and everything that belongs to it."""
    await runs.delete(run_id)
