"""Opens, resumes, lists, changes and deletes runs: ``/runs``."""

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from mild_core.types import MAX_CLASS_NAME_LENGTH, MAX_CLASS_NAMES, RunSpec
from mild_service.image_urls import MAX_URL_LENGTH
from mild_service.models import Run, RunStatus
from mild_service.routes.rounds import RoundView
from mild_service.web.bodies import MAX_ENTRIES, DocumentRoute, RequestModel, WholeNumber, check_entry_count
from mild_service.web.dependencies import (
    CallerDep,
    PreconditionDep,
    RunDep,
    RunId,
    RunsDep,
    make_etag_header,
)
from mild_service.web.openapi import describe_body
from mild_service.web.schemas import SelectionRequest, make_request_model, make_response_model

Tags = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_ENTRIES),
    BeforeValidator(check_entry_count),
]
ClassNames = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_CLASS_NAME_LENGTH)]],
    Field(min_length=1, max_length=MAX_CLASS_NAMES, fail_fast=True),
    AfterValidator(tuple),
]
PictureUrl = Annotated[str, Field(max_length=MAX_URL_LENGTH)]


class ResumeFrom(RequestModel):
    """The first epoch that a restarted trainer repeats. This and all later epochs of the open round are deleted."""

    round: WholeNumber
    epoch: WholeNumber

    @property
    def position(self) -> tuple[int, int]:
        """The round and the epoch, as a tuple."""
        return self.round, self.epoch


_NARROWED = {"tags": Tags | None, "picture_url": PictureUrl | None, "class_names": ClassNames | None}

if TYPE_CHECKING:
    _RequestFields: TypeAlias = RequestModel
    _PatchFields: TypeAlias = RequestModel
    _StateFields: TypeAlias = BaseModel
else:
    _RequestFields = make_request_model(RunSpec, exclude=("run_id", "selection"), types=_NARROWED)
    _PatchFields = make_request_model(
        RunSpec, include=("tags", "ttl_seconds", "picture_url"), types=_NARROWED, all_optional=True
    )
    _StateFields = make_response_model(RunSpec, all_required=True)


class RunRequest(_RequestFields):
    """Request to open a run. If the run exists, absent fields keep the values of the run."""

    selection: SelectionRequest = Field(default_factory=SelectionRequest)
    resume_from: ResumeFrom | None = None

    def make_spec(self, run_id: str) -> RunSpec:
        """Return the run that the request describes, with defaults for absent fields."""
        values = {field.name: getattr(self, field.name) for field in fields(RunSpec) if field.name != "run_id"}
        values |= {"tags": values["tags"] or {}, "selection": self.selection.make_options()}
        return RunSpec(run_id, **values)

    def sent_fields(self) -> frozenset[str]:
        """Return the names of the fields that the request contains, those of the selection as ``selection.metric``."""
        sent = {name for name in self.model_fields_set if getattr(self, name) is not None}
        return frozenset(sent | {f"selection.{name}" for name in self.selection.sent_options()})


class RunPatch(_PatchFields):
    """Changes of a run. Fields that are absent or null stay as they are."""

    status: RunStatus | None = None

    def changed_fields(self) -> dict[str, Any]:
        """Return the new values of the run's fields, by name."""
        changes: dict[str, Any] = self.model_dump(exclude={"status"}, exclude_none=True)
        return changes


class RunView(_StateFields):
    """A run's state with every default resolved. Times are Unix time in seconds."""

    status: RunStatus
    ttl_seconds: int = Field(description="Seconds after its last write at which the run expires.")
    attempt: int = Field(description="Send it as `Mild-Attempt` with every write.")
    round: int = Field(description="The open round.")
    created_at: float
    updated_at: float
    expires_at: float

    @classmethod
    def from_run(cls, run: Run, **further_fields: Any) -> Self:
        """Return the view of a run, with further fields of a subclass."""
        spec = {field.name: getattr(run.spec, field.name) for field in fields(RunSpec)}
        return cls.model_validate(
            {**spec, **{name: getattr(run, name) for name in RunView.__annotations__}, **further_fields}
        )


class RunDetail(RunView):
    """A run's state with its rounds."""

    rounds: list[RoundView]


class RunPage(BaseModel):
    """A page of runs, newest first."""

    runs: list[RunView]
    next_cursor: str | None = Field(description="Value of `cursor` for the next page; null on the last page.")


router = APIRouter(tags=["runs"], route_class=DocumentRoute)


@router.put(
    "/runs/{run_id}",
    responses={
        201: {"model": RunView, "description": "Created"},
        200: {"description": "It existed with the same properties; resumed if requested"},
    },
    openapi_extra=describe_body({}, has_precondition=True),
)
async def open_run(
    run_id: RunId, body: RunRequest, runs: RunsDep, caller: CallerDep, response: Response, condition: PreconditionDep
) -> RunView:
    """Open a run, or resume it with `resume_from`."""
    resume_from = None if body.resume_from is None else body.resume_from.position
    run, created = await runs.open(body.make_spec(run_id), body.sent_fields(), resume_from, caller, condition)
    response.headers.update(make_etag_header(run.uid))
    response.status_code = 201 if created else 200
    return RunView.from_run(run)


@router.get("/runs")
async def list_runs(
    runs: RunsDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9]{13}:[A-Za-z0-9._-]{1,64}$")] = None,
) -> RunPage:
    """List the runs that the key may access, newest first. A page may be shorter than `limit` if runs just expired."""
    page = await runs.list_page(limit, cursor, caller.prefix)
    return RunPage(runs=[RunView.from_run(run) for run in page.runs], next_cursor=page.next_cursor)


@router.get("/runs/{run_id}")
async def get_run(run: RunDep, runs: RunsDep) -> RunDetail:
    """Return a run's state with its rounds."""
    rounds = await runs.read_rounds(run)
    return RunDetail.from_run(run, rounds=[RoundView.from_round(round_, run.spec.num_samples) for round_ in rounds])


@router.patch("/runs/{run_id}")
async def patch_run(run_id: RunId, body: RunPatch, runs: RunsDep) -> RunView:
    """Change a run's tags, status, time to live or picture address; absent fields stay as they are."""
    return RunView.from_run(await runs.patch(run_id, body.changed_fields(), body.status))


@router.delete("/runs/{run_id}", status_code=204)
async def delete_run(run_id: RunId, runs: RunsDep) -> None:
    """Delete a run and everything that belongs to it."""
    await runs.delete(run_id)
