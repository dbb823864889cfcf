"""Prediction logs: ``/runs/{run_id}/predictions``, in any of six formats."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from mild_service.errors import (
    BadRecord,
    BodyTooLarge,
    DigestMismatch,
    EpochConflict,
    EpochKindConflict,
    InvalidRequest,
    LabelsConflict,
    LimitExceeded,
    MalformedBody,
    NoSampleIds,
    RoundFinished,
    RoundNotOpen,
    RunNotFound,
    StaleAttempt,
    StoreFull,
    UnsupportedMediaType,
)
from mild_service.ingest import FORMATS, NDJSON, SamplesBy
from mild_service.routes.epochs import PostedView
from mild_service.web import bodies, media_types
from mild_service.web.dependencies import Attempt, PredictionsDep, RunId, RunsDep, SettingsDep
from mild_service.web.problems import error_responses

router = APIRouter(tags=["predictions"])

LOG_CONTENT: dict[str, Any] = {
    media_type: {
        "schema": {"type": "string", "format": "binary", "description": "Records; see the documentation of logs."}
    }
    for media_type in FORMATS
}

SamplesByQuery = Annotated[
    SamplesBy | None,
    Query(description="How the log names samples. By default a text is an id; a number is one if an id of the run is."),
]


@router.post(
    "/runs/{run_id}/predictions",
    response_model=PostedView,
    responses=error_responses(
        InvalidRequest,
        LimitExceeded,
        RunNotFound,
        RoundNotOpen,
        RoundFinished,
        StaleAttempt,
        NoSampleIds,
        StoreFull,
        MalformedBody,
        BodyTooLarge,
        UnsupportedMediaType,
        DigestMismatch,
        BadRecord,
        EpochConflict,
        EpochKindConflict,
        LabelsConflict,
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
        bool, Query(description="Commit the epochs that the log names, although samples are missing.")
    ] = False,
    samples_by: SamplesByQuery = None,
    attempt: Attempt = None,
) -> PostedView:
    """Merge a prediction log into epochs; an epoch is committed once it has all samples that the run observes.

    A log with an error is not stored at all. Sending the same log twice changes nothing.
    """
    run = await runs.find(run_id)
    media_type = media_types.check_content_type(request, tuple(FORMATS), NDJSON)
    posted = await predictions.merge_log(
        run, media_type, bodies.stream_body(request, settings.max_log_bytes), complete, attempt, samples_by
    )
    return PostedView(run_id=run_id, records=posted.n_records, epochs=posted.epochs)
