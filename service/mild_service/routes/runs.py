"""``/runs``: open, resume, list, look at, change, delete.

JSON of runs, in and out.
"""

from dataclasses import asdict
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, BeforeValidator, Field

from mild_core.errors import ParameterError
from mild_core.types import Observe, Pass
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
from mild_service.recording.run_writer import Opening
from mild_service.routes.rounds import RoundView
from mild_service.web.bodies import Strict, Whole, few
from mild_service.web.dependencies import CallerDep, RunId, RunsDep, SelectionChoice
from mild_service.web.problems import described
from mild_service.web.responses import ConditionDep, conditional, tagged

Tags = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    BeforeValidator(few),
]
Ttl = Annotated[Whole, Field(ge=60, le=10 * 365 * 24 * 3600)]
PictureUrl = Annotated[
    str,
    Field(
        max_length=MAX_URL_LENGTH,
        description="Where the dashboard finds pictures: https://…/{id}.png or …/{index}.png; empty: nowhere.",
    ),
]


class ResumeFrom(Strict):
    """Where a restarted trainer goes on: the open round's epochs from here on are dropped."""

    round: Whole
    epoch: Whole


class RunRequest(Strict):
    """Opens a run, or opens it again: then what is left out is taken from the run."""

    num_samples: Whole = Field(description="Samples of the data set; a sample's index never changes over a run.")
    num_classes: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    observe: Observe = Field("all", description="Who counts as observed when a body carries one bitmap.")
    forward_pass: Pass = Field("eval", alias="pass", description="Which forward pass makes the bits.")
    selection: SelectionChoice = Field(default_factory=SelectionChoice)
    expected_epochs: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    expected_rounds: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    tags: Tags | None = None
    ttl_seconds: Ttl | None = Field(None, description="The run expires this long after its last write.")
    picture_url: PictureUrl | None = None
    resume_from: ResumeFrom | None = None

    def opening(self) -> Opening:
        """The same in the write path's terms, with what was not said left out."""
        said = {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}
        renamed = {"num_classes": "n_classes"}
        return Opening(
            n_samples=self.num_samples,
            fixed={renamed.get(n, n): said[n] for n in ("num_classes", "observe", "forward_pass") if n in said},
            options=self.selection.given(),
            planned={n: said[n] for n in ("expected_epochs", "expected_rounds", "picture_url") if n in said},
            tags=self.tags,
            ttl_seconds=self.ttl_seconds,
            resume_from=(self.resume_from.round, self.resume_from.epoch) if self.resume_from else None,
        )


class RunPatch(Strict):
    """What may be changed of a run."""

    tags: Tags | None = None
    status: RunStatus | None = None
    ttl_seconds: Ttl | None = None
    picture_url: PictureUrl | None = None


class RunView(BaseModel):
    """A run's state with every default resolved. Times are Unix time in seconds."""

    run_id: str
    num_samples: int
    num_classes: int | None
    observe: Observe
    forward_pass: Pass = Field(serialization_alias="pass")
    selection: dict[str, Any] = Field(description="The resolved options.")
    expected_epochs: int | None
    expected_rounds: int | None
    picture_url: str | None = Field(description="Where the dashboard finds pictures of the samples.")
    tags: dict[str, str]
    status: RunStatus
    ttl_seconds: int
    attempt: int = Field(description="Send it as `Mild-Attempt` with every write.")
    round: int = Field(description="The open round.")
    created_at: float
    updated_at: float
    expires_at: float

    @classmethod
    def of(cls, run: Run, **more: Any) -> Self:
        """View of `run`."""
        config = run.config
        return cls(
            run_id=run.run_id,
            num_samples=config.n_samples,
            num_classes=config.n_classes,
            observe=config.observe,
            forward_pass=config.forward_pass,
            selection=asdict(config.options),
            expected_epochs=config.expected_epochs,
            expected_rounds=config.expected_rounds,
            picture_url=config.picture_url,
            tags=dict(run.tags),
            status=run.status,
            ttl_seconds=run.ttl_seconds,
            attempt=run.attempt,
            round=run.round,
            created_at=run.created_at,
            updated_at=run.updated_at,
            expires_at=run.expires_at,
            **more,
        )


class RunDetail(RunView):
    """A run's state with its rounds."""

    rounds: list[RoundView]


class RunPage(BaseModel):
    """Some runs, newest first."""

    runs: list[RunView]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null at the end.")


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
    page = await runs.list_page(limit, cursor, caller.prefix)
    return RunPage(runs=[RunView.of(run) for run in page.runs], next_cursor=page.next_cursor)


@router.get("/runs/{run_id}", response_model=RunDetail, responses=described(RunNotFound, InvalidRequest))
async def get_run(run_id: RunId, runs: RunsDep) -> RunDetail:
    """A run's state with its rounds."""
    run = await runs.find(run_id)
    rounds = await runs.read_rounds(run)
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
