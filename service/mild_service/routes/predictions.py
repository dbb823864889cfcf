"""``/runs/{run_id}/predictions``: logs of what a model predicted, in any of six formats."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from mild_service.errors import (
    BadRecord,
    BodyTooLarge,
    DigestMismatch,
    EpochConflict,
    EpochKindConflict,
    InvalidRequest,
    LimitExceeded,
    MalformedBody,
    RoundFinished,
    RoundNotOpen,
    RunNotFound,
    StaleAttempt,
    StoreFull,
    UnsupportedMediaType,
)
from mild_service.ingest import FORMATS, NDJSON
from mild_service.routes.epochs import FilledView, PostedView
from mild_service.web import bodies
from mild_service.web.dependencies import Attempt, PredictionsDep, RunId, RunsDep, SettingsDep
from mild_service.web.problems import described

router = APIRouter(tags=["predictions"])

LOG_CONTENT: dict[str, Any] = {
    media_type: {
        "schema": {"type": "string", "format": "binary", "description": "Records; see the documentation of logs."}
    }
    for media_type in FORMATS
}


@router.post(
    "/runs/{run_id}/predictions",
    response_model=PostedView,
    responses=described(
        InvalidRequest,
        LimitExceeded,
        RunNotFound,
        RoundNotOpen,
        RoundFinished,
        StaleAttempt,
        StoreFull,
        MalformedBody,
        BodyTooLarge,
        UnsupportedMediaType,
        DigestMismatch,
        BadRecord,
        EpochConflict,
        EpochKindConflict,
    ),
    openapi_extra={"requestBody": {"required": True, "content": LOG_CONTENT}},
)
async def post_predictions(
    request: Request,
    run_id: RunId,
    runs: RunsDep,
    predictions: PredictionsDep,
    settings: SettingsDep,
    complete: Annotated[
        bool, Query(description="Commit the epochs that the log names, though not everyone is in.")
    ] = False,
    attempt: Attempt = None,
) -> PostedView:
    """Merge a prediction log into epochs; each is committed once everyone whom the run observes is in.

    Nothing is stored of a log that has a fault. The same log again changes nothing.
    """
    run = await runs.find(run_id)
    media_type = bodies.media_type(request, tuple(FORMATS), NDJSON)
    posted = await predictions.post(run, media_type, bodies.pieces(request, settings.max_log_bytes), complete, attempt)
    return PostedView(
        run_id=run_id, records=posted.n_records, epochs=[FilledView.of(filled) for filled in posted.epochs]
    )
