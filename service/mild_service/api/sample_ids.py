"""``/runs/{run_id}/sample-ids``: the names that samples have outside of the service."""

from typing import Annotated, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core.errors import InvalidInput, SampleIdError
from mild_core.ids import MAX_ID_BYTES
from mild_service.api import bodies, negotiation
from mild_service.api.deps import RunId, RunsDep, SampleIdsDep, SettingsDep
from mild_service.api.id_bodies import ID_TYPES, NDJSON, TEXT, read_ids, unit_of
from mild_service.api.preconditions import ConditionDep, conditional, tagged
from mild_service.api.problems import described
from mild_service.conflicts import NoSampleIds, SampleIdsFrozen
from mild_service.errors import (
    BadRecord,
    BodyTooLarge,
    DigestMismatch,
    InvalidRequest,
    MalformedBody,
    NotAcceptable,
    PreconditionFailed,
    RunNotFound,
    SampleNotFound,
    StoreFull,
    UnsupportedMediaType,
)
from mild_service.ids import no_sample_ids

router = APIRouter(tags=["samples"])

_MAX_PAGE = 100_000
_LINES = {"schema": {"type": "string", "description": "An id a line."}}


class IdsPut(BaseModel):
    """What a PUT of ids has done."""

    run_id: str
    outcome: Literal["set", "same", "replaced"]
    num_samples: int


class IdsView(BaseModel):
    """The ids of the samples from `offset` on."""

    run_id: str
    num_samples: int
    offset: int
    sample_ids: list[str] = Field(description="At most `limit` of them.")


@router.put(
    "/runs/{run_id}/sample-ids",
    response_model=IdsPut,
    responses=described(
        MalformedBody,
        BodyTooLarge,
        UnsupportedMediaType,
        DigestMismatch,
        InvalidRequest,
        InvalidInput,
        BadRecord,
        SampleIdError,
        RunNotFound,
        SampleIdsFrozen,
        PreconditionFailed,
        StoreFull,
    ),
    openapi_extra=conditional(
        {
            "requestBody": {
                "required": True,
                "content": {
                    bodies.JSON: {"schema": {"type": "array", "items": {"type": "string", "maxLength": MAX_ID_BYTES}}},
                    NDJSON: {"schema": {"type": "string", "format": "binary", "description": "A JSON string a line."}},
                    TEXT: _LINES,
                },
            }
        }
    ),
)
async def put_sample_ids(
    request: Request,
    run_id: RunId,
    runs: RunsDep,
    sample_ids: SampleIdsDep,
    settings: SettingsDep,
    response: Response,
    condition: ConditionDep,
) -> IdsPut:
    """Name all samples, in their order. Once an epoch is in, the names do not change any more."""
    run = await runs.find(run_id)
    media_type = bodies.media_type(request, ID_TYPES, bodies.JSON)
    ids = read_ids(request, media_type, settings)
    outcome, digest = await sample_ids.put(run, unit_of(media_type), ids, condition)
    response.headers.update(tagged(digest))
    return IdsPut(run_id=run_id, outcome=outcome, num_samples=run.config.n_samples)


@router.get(
    "/runs/{run_id}/sample-ids",
    response_model=IdsView,
    responses={
        200: {"content": {TEXT: _LINES}, "description": "Some ids"},
        304: {"description": "The caller has this representation already (`If-None-Match`)"},
        **described(InvalidRequest, RunNotFound, SampleNotFound, NoSampleIds, NotAcceptable),
    },
)
async def get_sample_ids(
    request: Request,
    run_id: RunId,
    runs: RunsDep,
    sample_ids: SampleIdsDep,
    offset: Annotated[int, Query(ge=0, lt=2**63, description="First sample.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="Most samples in one answer.")] = _MAX_PAGE,
    name: Annotated[
        str | None, Query(alias="id", max_length=MAX_ID_BYTES, description="Only this one: `offset` is its sample.")
    ] = None,
) -> Response:
    """The samples' ids, or which sample has an id."""
    form = negotiation.negotiate(request, (bodies.JSON, TEXT))
    run = await runs.find(run_id)
    if run.ids is None:
        raise no_sample_ids(run)
    if name is not None:
        offset, limit = await sample_ids.find(run, name), 1
    tag = negotiation.etag(f"ids:{run.uid}:{run.ids.digest}:{offset}:{limit}", form)
    if negotiation.is_current(request, tag):
        return Response(status_code=304, headers=negotiation.headers(tag))
    n_samples = run.config.n_samples
    ids = await sample_ids.names(run, np.arange(min(offset, n_samples), min(offset + limit, n_samples)))

    def body() -> bytes:
        if form.kind == TEXT:
            return "".join(f"{name}\n" for name in ids).encode()
        return orjson.dumps({"run_id": run_id, "num_samples": n_samples, "offset": offset, "sample_ids": ids})

    return await negotiation.respond(form, body, tag)
