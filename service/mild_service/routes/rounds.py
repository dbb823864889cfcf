"""A round of a run: ``/runs/{run_id}/rounds/{round}``, with its metrics, end, fit and members."""

from typing import Annotated, Literal, Self

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat

from mild_core import bitmap
from mild_core.types import Verdict
from mild_service.concurrency import offload
from mild_service.models import Round
from mild_service.recording.run_writer import ClientSet
from mild_service.routes.selection import FitView, SelectionView, make_selection_response
from mild_service.web import bodies, media_types, responses, sample_sets
from mild_service.web.bodies import MAX_ENTRIES, BitmapText, DocumentRoute, RequestModel, check_entry_count
from mild_service.web.dependencies import (
    Attempt,
    EpochNumber,
    Replace,
    RoundNumber,
    RoundSelectionDep,
    RunDep,
    RunsDep,
    SelectionsDep,
    SettingsDep,
    StatusReaderDep,
)
from mild_service.web.responses import negotiate

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Scalar = Annotated[FiniteFloat, Field(strict=True)]
Scalars = Annotated[
    dict[MetricName, Scalar],
    Field(min_length=1, max_length=MAX_ENTRIES, json_schema_extra={"additionalProperties": False}),
    BeforeValidator(check_entry_count),
]


class FinishRequest(RequestModel):
    """Optional body of the request that finishes a round."""

    allow_gaps: bool = Field(False, description="Leave missing epochs out instead of refusing.")
    selected: BitmapText | None = Field(
        None, description="Base64 of the bitmap that an offline client has computed and used."
    )
    core_version: str | None = Field(
        None, max_length=64, description="Version of mild-selection that computed `selected`."
    )


class RoundView(BaseModel):
    """State of a round."""

    round: int
    state: Literal["open", "finished"]
    num_members: int
    num_planted: int = Field(description="Samples whose label was broken on purpose in this round.")
    num_epochs: int
    epochs: list[int] = Field(description="Committed epochs, ascending.")
    partial: dict[int, int] = Field(
        description="Incomplete epochs of logs or shards, with the number of stored samples (summed over shards)."
    )
    metrics: dict[int, dict[str, float]] = Field(description="Scalars by epoch.")
    num_selected: int | None = Field(description="Size of the set; null while the round is open.")
    verdict: Verdict | None
    opened_at: float
    finished_at: float | None

    @classmethod
    def from_round(cls, round_: Round, n_samples: int) -> Self:
        """Return the view of a round of a run with `n_samples` samples."""
        return cls(
            round=round_.number,
            state="finished" if round_.finished else "open",
            num_members=n_samples if round_.members is None else round_.members.n_members,
            num_planted=0 if round_.planted is None else round_.planted.n_members,
            num_epochs=len(round_.epochs),
            epochs=list(round_.epochs),
            partial={epoch: record.n_observed or 0 for epoch, record in round_.partial_epochs.items()},
            metrics={epoch: dict(scalars) for epoch, scalars in round_.metrics.items()},
            num_selected=round_.selected.n_members if round_.selected else None,
            verdict=round_.selection["verdict"] if round_.selection else None,
            opened_at=round_.opened_at,
            finished_at=round_.finished_at,
        )


class MembersView(BaseModel):
    """Result of a PUT of members."""

    run_id: str
    round: int
    outcome: Literal["set", "same"]
    num_members: int


class MembersDetail(BaseModel):
    """Samples that the model is trained on in a round."""

    run_id: str
    round: int
    num_members: int
    indices: list[int] = Field(description="Sorted.")


class MetricsView(BaseModel):
    """Result of a PUT of metrics."""

    run_id: str
    round: int
    epoch: int
    outcome: Literal["committed", "same", "replaced"]


router = APIRouter(tags=["rounds"], route_class=DocumentRoute)


@router.put(
    "/runs/{run_id}/rounds/{round}/metrics/{epoch}",
    responses={
        201: {"model": MetricsView, "description": "Stored"},
        200: {"description": "They were stored with the same values, or were replaced"},
    },
)
async def put_metrics(
    run: RunDep,
    round_: RoundNumber,
    epoch: EpochNumber,
    body: Scalars,
    runs: RunsDep,
    response: Response,
    attempt: Attempt = None,
    replace: Replace = False,
) -> MetricsView:
    """Store an epoch's scalars, such as `train_loss` or `test_accuracy`; they do not affect the selection."""
    outcome = await runs.put_metrics(run, round_, epoch, body, attempt, replace)
    response.status_code = 201 if outcome == "committed" else 200
    return MetricsView(run_id=run.run_id, round=round_, epoch=epoch, outcome=outcome)


@router.post(
    "/runs/{run_id}/rounds/{round}/finish",
    response_model=SelectionView,
    responses={
        200: {"content": dict(responses.SET_CONTENT), "description": "The round's set"},
    },
    openapi_extra={
        "requestBody": {"required": False, "content": {media_types.JSON: {"schema": FinishRequest.model_json_schema()}}}
    },
)
async def finish(
    request: Request,
    run: RunDep,
    round_: RoundNumber,
    runs: RunsDep,
    selections: SelectionsDep,
    settings: SettingsDep,
    allow_gaps: bool = False,
    attempt: Attempt = None,
) -> Response:
    """Finish the round, store its set, and open the next round. A repeated request returns the stored set."""
    representation = responses.negotiate_selection(request)
    limit = settings.max_document_bytes + 4 * bitmap.n_bytes(run.spec.num_samples) // 3
    content = await bodies.read_json_bytes(request, limit, "send `selected` as base64 of one bitmap")
    if content:
        bodies.check_content_type(request, (media_types.JSON,), media_types.JSON)
    body, client_set = await offload(len(content), lambda: _parse_finish(content, run.spec.num_samples))
    await runs.finish(run, round_, allow_gaps or body.allow_gaps, attempt, client_set)
    selection = await selections.open(await runs.find(run.run_id), round_, {})
    return await make_selection_response(selection, representation)


def _parse_finish(content: bytes, n_samples: int) -> tuple[FinishRequest, ClientSet | None]:
    """Parse the body of a request that finishes a round; return it with the set in it."""
    body = bodies.parse_json(content, FinishRequest)
    if body.selected is None:
        return body, None
    selected = bodies.decode_bitmap(body.selected, n_samples, "selected")
    return body, ClientSet(selected, body.core_version or "unknown")


@router.get("/runs/{run_id}/rounds/{round}/fit", response_model=FitView)
async def get_fit(selection: RoundSelectionDep) -> Response:
    """Return the fit behind the round's set: histogram, components, cut and verdict."""
    return Response(orjson.dumps(await selection.read_fit()), media_type=media_types.JSON)


@router.put(
    "/runs/{run_id}/rounds/{round}/members",
    openapi_extra=sample_sets.describe_set_body("The members' bitmap."),
)
async def put_members(
    request: Request, run: RunDep, round_: RoundNumber, runs: RunsDep, settings: SettingsDep, attempt: Attempt = None
) -> MembersView:
    """Set the samples that the model is trained on, before the round's first epoch."""
    members = await sample_sets.read_set(request, run.spec.num_samples, settings, "members")
    changed, n_members = await runs.put_members(run, round_, members, attempt)
    return MembersView(run_id=run.run_id, round=round_, outcome="set" if changed else "same", num_members=n_members)


@router.get(
    "/runs/{run_id}/rounds/{round}/members",
    response_model=MembersDetail,
    responses=sample_sets.describe_set_response(
        "The members; all samples unless they were set or an earlier round chose"
    ),
)
async def get_members(request: Request, run: RunDep, round_: RoundNumber, status_reader: StatusReaderDep) -> Response:
    """Return the samples that the model is trained on in a round, as JSON, a bitmap, or indices in npy."""
    representation = negotiate(request, sample_sets.MEDIA_TYPES)
    members = await status_reader.read_members(run, await status_reader.read_round(run, round_))
    fields = {"run_id": run.run_id, "round": round_, "num_members": bitmap.popcount(members)}
    return await responses.make_set_response(representation, fields, members, run.spec.num_samples)
