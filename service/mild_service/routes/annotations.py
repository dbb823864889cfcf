"""Annotations of a run: ``/runs/{run_id}/labels``, ``/runs/{run_id}/audit`` and ``/runs/{run_id}/planted``."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from mild_core import bitmap
from mild_core.audit import Audit, AuditChange
from mild_core.draw import DRAW_SIZE
from mild_core.types import SelectionOptions
from mild_service.admission import take_memory
from mild_service.config import Settings
from mild_service.models import Run
from mild_service.selecting.audit_draws import DrawOutcome
from mild_service.web import bodies, media_types, responses, sample_sets
from mild_service.web.bodies import DocumentRoute, IntegerList, MarkList, RequestModel, WholeNumber
from mild_service.web.dependencies import (
    Attempt,
    AuditDrawsDep,
    LabelsAndAuditsDep,
    PreconditionDep,
    RunDep,
    RunsDep,
    SettingsDep,
    StatusReaderDep,
    make_etag_header,
)
from mild_service.web.openapi import describe_binary, describe_body
from mild_service.web.responses import make_response, negotiate
from mild_service.web.schemas import SelectionRequest, make_response_model

if TYPE_CHECKING:
    OptionsView: TypeAlias = BaseModel
else:
    OptionsView = make_response_model(SelectionOptions, all_required=True)


class LabelsRequest(RequestModel):
    """The given labels of a run."""

    labels: IntegerList = Field(description="One class index per sample.")


class LabelsView(BaseModel):
    """Result of a PUT of labels."""

    run_id: str
    outcome: Literal["set", "same", "replaced"]


class AuditRequest(RequestModel):
    """Audited samples: those whose given label was checked."""

    indices: IntegerList = Field(description="Sample indices, in any order.")
    clean: MarkList = Field(
        description="For each of them, whether its given label is true; null removes an earlier mark."
    )


class AuditedView(BaseModel):
    """Result of a PUT of an audit."""

    run_id: str
    num_known: int = Field(description="Samples that are audited now.")
    num_clean: int = Field(description="Those among them whose label is true.")
    num_added: int = Field(description="Samples that were not audited before.")
    num_replaced: int = Field(description="Samples whose mark contradicted an earlier one, which it replaces.")
    num_removed: int = Field(description="Samples whose mark was taken back.")


class DrawView(BaseModel):
    """Samples that were drawn at random, and the selection that was chosen before any of them was checked."""

    n: int = Field(description="Samples drawn.")
    num_answered: int = Field(description="Those among them that are audited; with all of them there is a guarantee.")
    round: int
    options: OptionsView
    indices: list[int] = Field(description="Ascending.")


class DrawnView(BaseModel):
    """Result of a draw."""

    run_id: str
    outcome: DrawOutcome
    draw: DrawView


class AuditView(BaseModel):
    """All marks of a run's audit."""

    run_id: str
    num_known: int
    num_clean: int
    indices: list[int] = Field(description="Audited samples, ascending.")
    clean: list[bool] = Field(description="For each of them, whether its given label is true.")
    draw: DrawView | None = Field(description="The random draw; null without one.")


class DrawRequest(RequestModel):
    """Request to draw samples at random, for an audit that guarantees something."""

    n: WholeNumber = Field(DRAW_SIZE, ge=1, lt=2**31, description="Samples to draw.")
    round: WholeNumber | None = Field(
        None, ge=0, lt=2**31, description="A finished round, whose judged samples are drawn from; null: the latest."
    )
    options: SelectionRequest = Field(
        default_factory=SelectionRequest,
        description="Of the selection to record; absent ones are those of the run, and the `threshold` is `fdr`.",
    )


class PlantedView(BaseModel):
    """Result of a PUT of planted samples."""

    run_id: str
    outcome: Literal["set", "same"]
    num_planted: int


class PlantedDetail(BaseModel):
    """Samples that were mislabelled on purpose in round 0."""

    run_id: str
    num_planted: int
    indices: list[int] = Field(description="Sorted.")


_AUDIT_COPIES = 6
"""Bitmaps that are in memory while an audit is read and sent: three of its own, and as many as sent."""

router = APIRouter(tags=["truth"], route_class=DocumentRoute)


@router.put(
    "/runs/{run_id}/labels",
    openapi_extra=describe_body({media_types.JSON: LabelsRequest, media_types.NPY: ""}, has_precondition=True),
)
async def put_labels(
    request: Request,
    run: RunDep,
    labels_and_audits: LabelsAndAuditsDep,
    settings: SettingsDep,
    response: Response,
    condition: PreconditionDep,
) -> LabelsView:
    """Store the given labels. Once an epoch is stored, they cannot be changed."""
    labels = await _read_labels(request, settings)
    outcome, digest = await labels_and_audits.put_labels(run, labels, condition)
    response.headers.update(make_etag_header(digest))
    return LabelsView(run_id=run.run_id, outcome=outcome)


async def _read_labels(request: Request, settings: Settings) -> NDArray[np.integer]:
    """Return the labels in a JSON or npy body, shape (n_labels,)."""
    allowed = (media_types.JSON, media_types.NPY)
    if bodies.check_content_type(request, allowed, media_types.JSON) == media_types.JSON:
        labels = (await bodies.read_json(request, LabelsRequest, settings.max_json_bytes)).labels
        return await to_thread.run_sync(bodies.to_integers, labels, "labels")
    body = await bodies.read_body(request, settings.max_body_bytes, "send labels in a smaller integer type")
    return bodies.parse_npy(body, "labels")


@router.put(
    "/runs/{run_id}/audit",
    openapi_extra=describe_body(
        {media_types.JSON: AuditRequest, media_types.BITMAP: "Two bitmaps in a row: known, then clean."}
    ),
)
async def put_audit(
    request: Request, run: RunDep, labels_and_audits: LabelsAndAuditsDep, settings: SettingsDep
) -> AuditedView:
    """Add marks of checked labels to the run's audit; a new mark replaces an earlier one of the same sample.

    In JSON, null removes a mark.
    """
    n_samples = run.spec.num_samples
    allowed = (media_types.JSON, media_types.BITMAP)
    if bodies.check_content_type(request, allowed, media_types.JSON) == media_types.JSON:
        audit = await bodies.read_json(request, AuditRequest, settings.max_json_bytes)
        marks = await to_thread.run_sync(_convert_marks, audit, n_samples)
    else:
        marks = AuditChange.from_audit(
            Audit.from_body(await bodies.read_bitmaps(request, n_samples, count=2), n_samples)
        )
    merged = await labels_and_audits.put_audit(run, marks)
    return AuditedView(
        run_id=run.run_id,
        num_known=merged.audit.n_checked,
        num_clean=merged.audit.n_clean,
        num_added=merged.added,
        num_replaced=merged.replaced,
        num_removed=merged.removed,
    )


def _convert_marks(audit: AuditRequest, n_samples: int) -> AuditChange:
    """Return the marks of a request."""
    indices = bodies.to_integers(audit.indices, "indices")
    bodies.check_types(audit.clean, {bool, type(None)}, "clean", "send true, false or null")
    return AuditChange.from_marks(indices.tolist(), audit.clean, n_samples)


@router.get(
    "/runs/{run_id}/audit",
    response_model=AuditView,
    responses={
        200: {
            "content": {media_types.BITMAP: describe_binary()},
            "description": "The audit; empty if no sample was audited",
        },
    },
)
async def get_audit(request: Request, run: RunDep, labels_and_audits: LabelsAndAuditsDep) -> Response:
    """Return all marks of the run's audit, as JSON or as two bitmaps (known, then clean)."""
    representation = negotiate(request, (media_types.JSON, media_types.BITMAP))
    await take_memory(_AUDIT_COPIES * bitmap.n_bytes(run.spec.num_samples))
    run, audit = await labels_and_audits.read_audit(run)
    if representation.media_type == media_types.BITMAP:
        return await make_response(representation, audit.to_body)
    n_bytes = responses.estimate_pieces(audit.n_checked, len(str(run.spec.num_samples)) + len("false,"))
    return await make_response(representation, lambda: _encode_audit(run, audit), n_bytes=n_bytes)


@router.post(
    "/runs/{run_id}/audit/draw",
    status_code=201,
    responses={
        200: {"model": DrawnView, "description": "The same draw was made before; it is unchanged"},
    },
)
async def draw_audit(run: RunDep, body: DrawRequest, audit_draws: AuditDrawsDep, response: Response) -> DrawnView:
    """Draw samples to audit, uniformly from those that a finished round judges, and record the selection to make.

    Once all of them are audited, selections have a `guarantee` and `bounds`. A draw is replaced by another one only
    while none of its samples was ever marked.
    """
    outcome, run, audit = await audit_draws.draw(run, body.n, body.round, body.options.sent_options())
    response.status_code = 200 if outcome == "same" else 201
    return DrawnView.model_validate({"run_id": run.run_id, "outcome": outcome, "draw": _serialize_draw(run, audit)})


def _serialize_draw(run: Run, audit: Audit) -> dict[str, Any] | None:
    """Return the fields of `DrawView`; None if the run has no draw."""
    if run.draw is None:
        return None
    return {
        "n": audit.n_drawn,
        "num_answered": audit.n_answered,
        "round": run.draw.round,
        "options": asdict(run.draw.options),
        "indices": bitmap.first_indices(audit.drawn, audit.n_drawn).tolist(),
    }


def _encode_audit(run: Run, audit: Audit) -> Iterator[bytes]:
    """Yield the pieces of an audit as JSON."""
    fields = {
        "run_id": run.run_id,
        "num_known": audit.n_checked,
        "num_clean": audit.n_clean,
        "draw": _serialize_draw(run, audit),
    }
    indices = responses.iterate_indices(audit.checked, run.spec.num_samples)
    marks = (
        bitmap.get_sample_bits(audit.clean, part)
        for part in responses.iterate_indices(audit.checked, run.spec.num_samples)
    )
    return responses.encode_lists(fields, {"indices": indices, "clean": marks})


@router.put(
    "/runs/{run_id}/planted",
    openapi_extra=sample_sets.describe_set_body("The planted samples' bitmap."),
)
async def put_planted(
    request: Request, run: RunDep, runs: RunsDep, settings: SettingsDep, attempt: Attempt = None
) -> PlantedView:
    """Set the samples that were mislabelled on purpose in round 0, before its first epoch. They bound the noise rate.

    Round 0 does not judge these samples, since its bits are about the wrong label; later rounds do.
    """
    planted = await sample_sets.read_set(request, run.spec.num_samples, settings, "planted samples")
    changed, n_planted = await runs.put_planted(run, planted, attempt)
    return PlantedView(run_id=run.run_id, outcome="set" if changed else "same", num_planted=n_planted)


@router.get(
    "/runs/{run_id}/planted",
    response_model=PlantedDetail,
    responses=sample_sets.describe_set_response("The planted samples; empty if none were set"),
)
async def get_planted(request: Request, run: RunDep, status_reader: StatusReaderDep) -> Response:
    """Return the samples that were mislabelled on purpose in round 0, as JSON, a bitmap, or indices in npy."""
    representation = negotiate(request, sample_sets.MEDIA_TYPES)
    planted = await status_reader.read_planted(run)
    fields = {"run_id": run.run_id, "num_planted": bitmap.popcount(planted)}
    return await responses.make_set_response(representation, fields, planted, run.spec.num_samples)
