"""Prediction logs: ``/runs/{run_id}/predictions``, in any of six formats."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from mild_core.log_columns import parse_class_names, parse_columns
from mild_service.ingest import FORMATS, NDJSON
from mild_service.ingest.columns import LogOptions
from mild_service.ingest.name_resolvers import ClassNames, SamplesBy
from mild_service.routes.epochs import PostedView
from mild_service.web import bodies
from mild_service.web.dependencies import Attempt, PredictionsDep, RunId, RunsDep, SettingsDep

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
# In UTF-8 and percent-encoded, both fit into the 64 KiB that servers take as a request line.
ColumnsQuery = Annotated[
    str | None,
    Query(
        max_length=1024,
        description="Columns of the log that have other names than their fields, such as `sample=id,label=target`.",
    ),
]
ClassNamesQuery = Annotated[
    str | None,
    Query(
        max_length=4096,
        description="Names of the classes from 0 on, such as `cat,dog,owl`, for a log that gives `predicted` and "
        "`label` by name; quoted as in CSV where they have commas.",
    ),
]


@router.post(
    "/runs/{run_id}/predictions",
    response_model=PostedView,
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
    columns: ColumnsQuery = None,
    class_names: ClassNamesQuery = None,
    attempt: Attempt = None,
) -> PostedView:
    """Merge a prediction log into epochs; an epoch is committed once it has all samples that the run observes.

    A log with an error is not stored at all. Sending the same log twice changes nothing.
    """
    run = await runs.find(run_id)
    options = LogOptions(
        parse_columns(columns or ""), None if class_names is None else ClassNames(parse_class_names(class_names))
    )
    media_type = bodies.check_content_type(request, tuple(FORMATS), NDJSON)
    body = bodies.stream_body(request, settings.max_log_bytes)
    n_records, epochs = await predictions.merge_log(run, media_type, body, complete, attempt, samples_by, options)
    return PostedView(run_id=run_id, records=n_records, epochs=epochs)
