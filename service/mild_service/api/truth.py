"""``/runs/{run_id}``: given labels, and the audit."""

import orjson
from anyio import to_thread
from fastapi import APIRouter, Request, Response

from mild_core.audit import Audit, Marks
from mild_core.errors import BitmapLengthError, InvalidInput, SampleIndexError, TrailingBitsError
from mild_service.api import bodies
from mild_service.api.deps import RunId, RunsDep, SettingsDep, TruthsDep
from mild_service.api.labels import read_labels
from mild_service.api.negotiation import negotiate, respond
from mild_service.api.npy import NPY
from mild_service.api.preconditions import ConditionDep, conditional, tagged
from mild_service.api.problems import described
from mild_service.api.truth_views import AuditedView, AuditRequest, AuditView, LabelsRequest, LabelsView
from mild_service.conflicts import LabelsFrozen
from mild_service.errors import (
    BodyTooLarge,
    DigestMismatch,
    InvalidRequest,
    MalformedBody,
    NotAcceptable,
    PreconditionFailed,
    RunNotFound,
    StoreFull,
    UnsupportedMediaType,
)

router = APIRouter(tags=["truth"])

_BODY = (MalformedBody, BodyTooLarge, UnsupportedMediaType, DigestMismatch, InvalidRequest, InvalidInput)
_BINARY = {"type": "string", "format": "binary"}


@router.put(
    "/runs/{run_id}/labels",
    response_model=LabelsView,
    responses=described(*_BODY, RunNotFound, LabelsFrozen, PreconditionFailed, StoreFull),
    openapi_extra=conditional(
        {
            "requestBody": {
                "required": True,
                "content": {bodies.JSON: {"schema": LabelsRequest.model_json_schema()}, NPY: {"schema": _BINARY}},
            }
        }
    ),
)
async def put_labels(
    request: Request,
    run_id: RunId,
    runs: RunsDep,
    truths: TruthsDep,
    settings: SettingsDep,
    response: Response,
    condition: ConditionDep,
) -> LabelsView:
    """Store the given labels. Once an epoch is in, they do not change any more."""
    run = await runs.find(run_id)
    labels = await read_labels(request, settings)
    outcome, digest = await truths.put_labels(run, labels, condition)
    response.headers.update(tagged(digest))
    return LabelsView(run_id=run_id, outcome=outcome)


@router.put(
    "/runs/{run_id}/audit",
    response_model=AuditedView,
    responses=described(*_BODY, BitmapLengthError, TrailingBitsError, SampleIndexError, RunNotFound, StoreFull),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                bodies.JSON: {"schema": AuditRequest.model_json_schema()},
                bodies.BITMAP: {"schema": {**_BINARY, "description": "Two bitmaps in a row: known, then clean."}},
            },
        }
    },
)
async def put_audit(
    request: Request, run_id: RunId, runs: RunsDep, truths: TruthsDep, settings: SettingsDep
) -> AuditedView:
    """Add marks of checked labels to the run's audit; where they contradict earlier ones, they replace them.

    In JSON, null takes a mark back.
    """
    run = await runs.find(run_id)
    n_samples = run.config.n_samples
    if bodies.media_type(request, (bodies.JSON, bodies.BITMAP), bodies.JSON) == bodies.JSON:
        sent = await bodies.read_json(request, AuditRequest, settings.max_json_bytes)
        marks = await to_thread.run_sync(Marks.of, sent.indices, sent.clean, n_samples)
    else:
        marks = Marks.adding(Audit.from_body(await bodies.read_bitmaps(request, n_samples, count=2), n_samples))
    merged = await truths.put_audit(run, marks)
    return AuditedView(
        run_id=run_id,
        num_known=merged.audit.n_known,
        num_clean=merged.audit.n_clean,
        num_added=merged.added,
        num_replaced=merged.replaced,
        num_removed=merged.removed,
    )


@router.get(
    "/runs/{run_id}/audit",
    response_model=AuditView,
    responses={
        200: {"content": {bodies.BITMAP: {"schema": _BINARY}}, "description": "The audit; empty where there is none"},
        **described(InvalidRequest, RunNotFound, NotAcceptable),
    },
)
async def get_audit(request: Request, run_id: RunId, runs: RunsDep, truths: TruthsDep) -> Response:
    """All marks together: JSON, or two bitmaps (known, then clean)."""
    form = negotiate(request, (bodies.JSON, bodies.BITMAP))
    _, audit = await truths.audit(await runs.find(run_id))
    return await respond(form, audit.to_body if form.kind == bodies.BITMAP else lambda: _document(run_id, audit))


def _document(run_id: str, audit: Audit) -> bytes:
    known, clean = audit.masks
    document = {
        "run_id": run_id,
        "num_known": audit.n_known,
        "num_clean": audit.n_clean,
        "indices": known.nonzero()[0],
        "clean": clean[known],
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
