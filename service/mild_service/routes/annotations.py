"""``/runs/{run_id}``: given labels, and the audit.

JSON of labels, audits and planted samples, in and out.

The body of ``PUT /runs/{run_id}/labels``: JSON, or numpy's npy format.

``/runs/{run_id}/planted``: samples that were mislabelled on purpose in round 0.
"""

from typing import Annotated, Literal

import numpy as np
import orjson
from anyio import to_thread
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from mild_core.audit import Audit, AuditChange
from mild_core.errors import BitmapLengthError, InvalidInput, SampleIndexError, TrailingBitsError
from mild_service.config import Settings
from mild_service.errors import (
    BodyTooLarge,
    DigestMismatch,
    InvalidRequest,
    LabelsFrozen,
    MalformedBody,
    NotAcceptable,
    PlantedFrozen,
    PreconditionFailed,
    RoundFinished,
    RunNotFound,
    StaleAttempt,
    StoreFull,
    UnsupportedMediaType,
)
from mild_service.web import bodies, sets
from mild_service.web.bodies import NPY, Strict
from mild_service.web.dependencies import Attempt, LabelsAndAuditsDep, RunId, RunsDep, SettingsDep, StatusReaderDep
from mild_service.web.openapi import BITS
from mild_service.web.problems import described
from mild_service.web.responses import ConditionDep, conditional, negotiate, respond, tagged

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class LabelsRequest(Strict):
    """The given labels."""

    labels: Annotated[list[Int64], Field(fail_fast=True)] = Field(description="One class index per sample.")


class LabelsView(BaseModel):
    """What a labels' PUT has done."""

    run_id: str
    outcome: Literal["set", "same", "replaced"]


class AuditRequest(Strict):
    """Samples whose label was checked."""

    indices: Annotated[list[Int64], Field(fail_fast=True)] = Field(description="Sample indices, in any order.")
    clean: Annotated[list[bool | None], Field(fail_fast=True)] = Field(
        description="For each of them, whether its given label is true; null takes an earlier mark back."
    )


class AuditedView(BaseModel):
    """What an audit's PUT has done."""

    run_id: str
    num_known: int = Field(description="Samples that are audited now.")
    num_clean: int = Field(description="Those among them whose label is true.")
    num_added: int = Field(description="Samples that were not audited before.")
    num_replaced: int = Field(description="Samples whose mark contradicted an earlier one, which it replaces.")
    num_removed: int = Field(description="Samples whose mark was taken back.")


class AuditView(BaseModel):
    """A run's audit, all marks together."""

    run_id: str
    num_known: int
    num_clean: int
    indices: list[int] = Field(description="Audited samples, ascending.")
    clean: list[bool] = Field(description="For each of them, whether its given label is true.")


class PlantedView(BaseModel):
    """What a PUT of planted samples has done."""

    run_id: str
    outcome: Literal["set", "same"]
    num_planted: int


class PlantedDetail(BaseModel):
    """Samples that were mislabelled on purpose in round 0."""

    run_id: str
    num_planted: int
    indices: list[int] = Field(description="Sorted.")


async def read_labels(request: Request, settings: Settings) -> NDArray[np.integer]:
    """The labels in a body, one-dimensional.

    Raises
    ------
    UnsupportedMediaType, BodyTooLarge, MalformedBody, InvalidRequest
        If the body cannot be read, or holds no integers.
    """
    if bodies.media_type(request, (bodies.JSON, bodies.NPY), bodies.JSON) == bodies.JSON:
        sent = await bodies.read_json(request, LabelsRequest, settings.max_json_bytes)
        return np.array(sent.labels, dtype=np.int64)
    limit = settings.max_body_bytes
    body = await bodies.read(request, limit)
    if len(body) > limit:
        raise BodyTooLarge(
            f"the body has more than {limit} bytes, which is the limit; send labels in a smaller integer type"
        )
    return bodies.parse(body, "labels")


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
    labels_and_audits: LabelsAndAuditsDep,
    settings: SettingsDep,
    response: Response,
    condition: ConditionDep,
) -> LabelsView:
    """Store the given labels. Once an epoch is in, they do not change any more."""
    run = await runs.find(run_id)
    labels = await read_labels(request, settings)
    outcome, digest = await labels_and_audits.put_labels(run, labels, condition)
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
    request: Request, run_id: RunId, runs: RunsDep, labels_and_audits: LabelsAndAuditsDep, settings: SettingsDep
) -> AuditedView:
    """Add marks of checked labels to the run's audit; where they contradict earlier ones, they replace them.

    In JSON, null takes a mark back.
    """
    run = await runs.find(run_id)
    n_samples = run.spec.num_samples
    if bodies.media_type(request, (bodies.JSON, bodies.BITMAP), bodies.JSON) == bodies.JSON:
        sent = await bodies.read_json(request, AuditRequest, settings.max_json_bytes)
        marks = await to_thread.run_sync(AuditChange.from_marks, sent.indices, sent.clean, n_samples)
    else:
        marks = AuditChange.from_audit(
            Audit.from_body(await bodies.read_bitmaps(request, n_samples, count=2), n_samples)
        )
    merged = await labels_and_audits.put_audit(run, marks)
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
async def get_audit(request: Request, run_id: RunId, runs: RunsDep, labels_and_audits: LabelsAndAuditsDep) -> Response:
    """All marks together: JSON, or two bitmaps (known, then clean)."""
    form = negotiate(request, (bodies.JSON, bodies.BITMAP))
    _, audit = await labels_and_audits.read_audit(await runs.find(run_id))
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


@router.put(
    "/runs/{run_id}/planted",
    response_model=PlantedView,
    responses=described(
        *BITS, InvalidRequest, SampleIndexError, RunNotFound, StaleAttempt, PlantedFrozen, RoundFinished, StoreFull
    ),
    openapi_extra=sets.taken("The planted samples' bitmap."),
)
async def put_planted(
    request: Request, run_id: RunId, runs: RunsDep, settings: SettingsDep, attempt: Attempt = None
) -> PlantedView:
    """Say who was mislabelled on purpose in round 0, before its first epoch: their bits bound the noise rate.

    Round 0 does not judge them, as its bits are about a label that is not theirs; later rounds do.
    """
    run = await runs.find(run_id)
    planted = await sets.read(request, run.spec.num_samples, settings, "planted samples")
    changed, n_planted = await runs.put_planted(run, planted, attempt)
    return PlantedView(run_id=run_id, outcome="set" if changed else "same", num_planted=n_planted)


@router.get(
    "/runs/{run_id}/planted",
    response_model=PlantedDetail,
    responses={
        **sets.given("The planted samples; none where none were put"),
        **described(InvalidRequest, RunNotFound, NotAcceptable),
    },
)
async def get_planted(request: Request, run_id: RunId, runs: RunsDep, status_reader: StatusReaderDep) -> Response:
    """Who was mislabelled on purpose in round 0: JSON, a bitmap, or indices as npy."""
    form = negotiate(request, sets.FORMS)
    run = await runs.find(run_id)
    planted = await status_reader.read_planted(run)
    n_samples = run.spec.num_samples
    return await respond(form, lambda: sets.written(form.kind, planted, n_samples, {"run_id": run_id}, "num_planted"))
