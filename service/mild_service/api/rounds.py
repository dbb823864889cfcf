"""``/runs/{run_id}/rounds/{round}``: metrics, finish, fit."""

import orjson
from fastapi import APIRouter, Request, Response

from mild_core import bitmap
from mild_core.errors import (
    BitmapLengthError,
    ParameterError,
    TrailingBitsError,
)
from mild_service.api import bodies, representations
from mild_service.api.deps import (
    Attempt,
    Changes,
    EpochNumber,
    Replace,
    RoundNumber,
    RunId,
    RunsDep,
    SelectionsDep,
    SettingsDep,
    UntilEpoch,
)
from mild_service.api.problems import described
from mild_service.api.refusals import BODY, WRITE
from mild_service.api.round_views import FinishRequest, MetricsView, Scalars
from mild_service.api.selection_views import FitView, SelectionView
from mild_service.conflicts import EpochGap, MetricsConflict, NoEpochs, RoundNotOpen
from mild_service.errors import InvalidRequest, NotAcceptable, RunNotFound
from mild_service.runs import ClientSet

router = APIRouter(tags=["rounds"])


@router.put(
    "/runs/{run_id}/rounds/{round}/metrics/{epoch}",
    response_model=MetricsView,
    responses={
        201: {"model": MetricsView, "description": "Stored"},
        200: {"description": "They were there with the same values, or were replaced"},
        **described(*WRITE, *BODY, MetricsConflict),
    },
)
async def put_metrics(
    run_id: RunId,
    round_: RoundNumber,
    epoch: EpochNumber,
    body: Scalars,
    runs: RunsDep,
    response: Response,
    attempt: Attempt = None,
    replace: Replace = False,
) -> MetricsView:
    """Store an epoch's scalars, such as `train_loss` or `test_accuracy`; they decide nothing."""
    run = await runs.find(run_id)
    outcome = await runs.put_metrics(run, round_, epoch, body, attempt, replace)
    response.status_code = 201 if outcome == "committed" else 200
    return MetricsView(run_id=run_id, round=round_, epoch=epoch, outcome=outcome)


@router.post(
    "/runs/{run_id}/rounds/{round}/finish",
    response_model=SelectionView,
    responses={
        200: {"content": dict(representations.OPENAPI_CONTENT), "description": "The round's set"},
        **described(
            *WRITE, *BODY, NotAcceptable, NoEpochs, EpochGap, BitmapLengthError, TrailingBitsError, ParameterError
        ),
    },
    openapi_extra={
        "requestBody": {"required": False, "content": {bodies.JSON: {"schema": FinishRequest.model_json_schema()}}}
    },
)
async def finish(
    request: Request,
    run_id: RunId,
    round_: RoundNumber,
    runs: RunsDep,
    selections: SelectionsDep,
    settings: SettingsDep,
    allow_gaps: bool = False,
    attempt: Attempt = None,
) -> Response:
    """Freeze the round, store its set, open the next. Repeated, it returns the stored set."""
    form = representations.form_of(request)
    run = await runs.find(run_id)
    room = settings.max_document_bytes + 4 * bitmap.n_bytes(run.config.n_samples) // 3
    sent = await bodies.read_within(request, room, "send `selected` as base64 of one bitmap")
    if sent:
        bodies.media_type(request, (bodies.JSON,), bodies.JSON)
    body = bodies.parse_json(sent, FinishRequest)
    used = None
    if body.selected is not None:
        selected = bodies.decode_bitmap(body.selected, run.config.n_samples, "selected")
        used = ClientSet(selected, body.core_version or "unknown")
    await runs.finish(run, round_, allow_gaps or body.allow_gaps, attempt, used)
    choice = await selections.choose(await runs.find(run_id), round_, {})
    answer = await selections.answer(choice, measure=form.kind == representations.JSON)
    return await representations.encode(answer, form)


@router.get(
    "/runs/{run_id}/rounds/{round}/fit",
    response_model=FitView,
    responses=described(InvalidRequest, ParameterError, RunNotFound, RoundNotOpen, NoEpochs),
)
async def get_fit(
    run_id: RunId,
    round_: RoundNumber,
    runs: RunsDep,
    selections: SelectionsDep,
    changes: Changes,
    until_epoch: UntilEpoch = None,
) -> Response:
    """What the round's set was read off: histogram, components, cut, verdict."""
    choice = await selections.choose(await runs.find(run_id), round_, changes, until_epoch)
    return Response(orjson.dumps(await selections.fit(choice)), media_type=bodies.JSON)
