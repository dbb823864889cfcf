"""``/runs/{run_id}/rounds/{round}``: members, epochs, metrics, finish, fit."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from mild_core import bitmap
from mild_core.errors import (
    BitmapLengthError,
    CorrectNotObservedError,
    InvalidInput,
    ParameterError,
    SampleIndexError,
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
from mild_service.api.schemas import (
    EpochView,
    FinishRequest,
    FitView,
    MembersRequest,
    MembersView,
    MetricsView,
    Scalars,
    SelectionView,
)
from mild_service.errors import (
    BodyTooLarge,
    DigestMismatch,
    EpochConflict,
    EpochGap,
    EpochKind,
    InvalidRequest,
    LimitExceeded,
    MalformedBody,
    MembersFrozen,
    MetricsConflict,
    NoEpochs,
    NotAcceptable,
    RoundFinished,
    RoundNotOpen,
    RunNotFound,
    StaleAttempt,
    StoreFull,
    UnsupportedMediaType,
)
from mild_service.runs import ClientSet

router = APIRouter(tags=["rounds"])

_PLACE = (InvalidRequest, LimitExceeded, RunNotFound, RoundNotOpen)
_WRITE = (*_PLACE, StaleAttempt, RoundFinished, StoreFull)
_BODY = (MalformedBody, BodyTooLarge, UnsupportedMediaType)
_BITS = (*_BODY, DigestMismatch, BitmapLengthError, TrailingBitsError)


def _binary(description: str, **more: Any) -> dict[str, Any]:
    schema = {"type": "string", "format": "binary", "description": description}
    return {"requestBody": {"required": True, "content": {bodies.BITMAP: {"schema": schema}, **more}}}


@router.put(
    "/runs/{run_id}/rounds/{round}/epochs/{epoch}",
    response_model=EpochView,
    responses={
        201: {"model": EpochView, "description": "Committed"},
        200: {"description": "It was there with the same content, or was replaced"},
        **described(*_WRITE, *_BITS, CorrectNotObservedError, EpochConflict, EpochKind),
    },
    openapi_extra=_binary("One bitmap (correct), or two in a row (observed, correct)."),
)
async def put_epoch(
    request: Request,
    run_id: RunId,
    round_: RoundNumber,
    epoch: EpochNumber,
    runs: RunsDep,
    response: Response,
    attempt: Attempt = None,
    replace: Replace = False,
) -> EpochView:
    """Commit one epoch's bits, all of them or none."""
    run = await runs.find(run_id)
    bodies.media_type(request, (bodies.BITMAP,), bodies.BITMAP)
    body = await bodies.read_bitmaps(request, run.config.n_samples, count=2)
    outcome, held = await runs.put_epoch(run, round_, epoch, body, attempt, replace)
    response.status_code = 201 if outcome == "committed" else 200
    return EpochView(
        run_id=run_id,
        round=round_,
        epoch=epoch,
        outcome=outcome,
        attempt=held.attempt,
        num_correct=held.n_correct,
        num_observed=held.n_observed,
    )


@router.put(
    "/runs/{run_id}/rounds/{round}/members",
    response_model=MembersView,
    responses=described(*_WRITE, *_BITS, InvalidInput, SampleIndexError, MembersFrozen),
    openapi_extra=_binary("The members' bitmap.", **{bodies.JSON: {"schema": MembersRequest.model_json_schema()}}),
)
async def put_members(
    request: Request, run_id: RunId, round_: RoundNumber, runs: RunsDep, settings: SettingsDep, attempt: Attempt = None
) -> MembersView:
    """Set whom the model is trained on, before the round's first epoch."""
    run = await runs.find(run_id)
    n_samples = run.config.n_samples
    if bodies.media_type(request, (bodies.BITMAP, bodies.JSON), bodies.BITMAP) == bodies.JSON:
        named = await bodies.read_json(request, MembersRequest, settings.max_json_bytes)
        members = bitmap.from_indices(named.indices, n_samples)
    else:
        members = bitmap.check(await bodies.read_bitmaps(request, n_samples, count=1), n_samples, "members bitmap")
    changed, n_members = await runs.put_members(run, round_, members, attempt)
    return MembersView(run_id=run_id, round=round_, outcome="set" if changed else "same", num_members=n_members)


@router.put(
    "/runs/{run_id}/rounds/{round}/metrics/{epoch}",
    response_model=MetricsView,
    responses={
        201: {"model": MetricsView, "description": "Stored"},
        200: {"description": "They were there with the same values, or were replaced"},
        **described(*_WRITE, *_BODY, MetricsConflict),
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
            *_WRITE, *_BODY, NotAcceptable, NoEpochs, EpochGap, BitmapLengthError, TrailingBitsError, ParameterError
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
