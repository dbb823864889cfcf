"""``/runs/{run_id}/sample-ids``: the names that samples have outside of the service.

The body of ``PUT /runs/{run_id}/sample-ids``: lines of text, lines of JSON strings, or one JSON array of them.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
import orjson
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core.errors import InvalidInput, SampleIdError
from mild_core.sample_ids import MAX_ID_BYTES
from mild_service.annotations.external_ids import Unit, no_sample_ids_error, sample_id_error
from mild_service.config import Settings
from mild_service.errors import (
    BadRecord,
    BodyTooLarge,
    DigestMismatch,
    InvalidRequest,
    MalformedBody,
    NoSampleIds,
    NotAcceptable,
    PreconditionFailed,
    RunNotFound,
    SampleIdsFrozen,
    SampleNotFound,
    StoreFull,
    UnsupportedMediaType,
)
from mild_service.ingest.line_splitter import Lines
from mild_service.web import bodies, responses
from mild_service.web.dependencies import RunId, RunsDep, SampleIdsDep, SettingsDep
from mild_service.web.problems import described
from mild_service.web.responses import ConditionDep, conditional, tagged

TEXT = "text/plain"
NDJSON = "application/x-ndjson"
ID_TYPES = (bodies.JSON, NDJSON, TEXT)

_REMEDY = "send a line of text per id, or have MILD_MAX_JSON_BYTES raised"
_BLOCK_BYTES = 512 * 1024
_ROWS = 8192


def unit_of(media_type: str) -> Unit:
    """What a body numbers."""
    return "row" if media_type == bodies.JSON else "line"


async def read_ids(request: Request, media_type: str, settings: Settings) -> AsyncIterator[Sequence[str]]:
    """The ids in a body, some at a time; only those of a JSON array are all read before.

    Raises
    ------
    BodyTooLarge, MalformedBody, BadRecord
        If the body cannot be read.
    SampleIdError
        If one is no text.
    """
    if media_type == bodies.JSON:
        ids = _array(await bodies.read_within(request, settings.max_json_bytes, _REMEDY))
        for start in range(0, len(ids), _ROWS):
            yield _texts(ids[start : start + _ROWS], start + 1, "row")
        return
    decode = _json_lines if media_type == NDJSON else _text_lines
    lines = Lines(settings.max_record_bytes, _BLOCK_BYTES)
    async for piece in bodies.pieces(request, settings.max_log_bytes):
        for block in await to_thread.run_sync(_decoded, lines.feed(piece), decode):
            yield block
    for block in await to_thread.run_sync(_decoded, lines.end(), decode):
        yield block


def _decoded(
    blocks: Iterator[tuple[int, bytes]], decode: Callable[[int, list[bytes]], Sequence[str]]
) -> list[Sequence[str]]:
    return [decode(first, block.split(b"\n")) for first, block in blocks]


def _text_lines(first: int, lines: list[bytes]) -> Sequence[str]:
    out = []
    for number, line in enumerate(lines, first):
        try:
            out.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise sample_id_error("line", number, f"it is not UTF-8 ({error.reason})") from error
    return out


def _json_lines(first: int, lines: list[bytes]) -> Sequence[str]:
    values = []
    for number, line in enumerate(lines, first):
        try:
            values.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise sample_id_error("line", number, f"it is not JSON ({error}), a text in quotes is needed") from error
    return _texts(values, first, "line")


def _array(body: bytes) -> list[Any]:
    try:
        values = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}; send an array of texts") from error
    if type(values) is not list:
        raise MalformedBody(f"the body is a JSON {type(values).__name__}; send an array of texts")
    return values


def _texts(values: Sequence[Any], first: int, unit: Unit) -> Sequence[str]:
    if set(map(type, values)) <= {str}:
        return cast(Sequence[str], values)
    number, value = next((n, value) for n, value in enumerate(values, first) if type(value) is not str)
    raise sample_id_error(unit, number, f"got {str(value)[:60]}, a text is needed")


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
    return IdsPut(run_id=run_id, outcome=outcome, num_samples=run.spec.num_samples)


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
    form = responses.negotiate(request, (bodies.JSON, TEXT))
    run = await runs.find(run_id)
    if run.ids is None:
        raise no_sample_ids_error(run)
    if name is not None:
        offset, limit = await sample_ids.find_index(run, name), 1
    tag = responses.etag(f"ids:{run.uid}:{run.ids.digest}:{offset}:{limit}", form)
    if responses.is_current(request, tag):
        return Response(status_code=304, headers=responses.headers(tag))
    n_samples = run.spec.num_samples
    ids = await sample_ids.get_ids(run, np.arange(min(offset, n_samples), min(offset + limit, n_samples)))

    def body() -> bytes:
        if form.kind == TEXT:
            return "".join(f"{name}\n" for name in ids).encode()
        return orjson.dumps({"run_id": run_id, "num_samples": n_samples, "offset": offset, "sample_ids": ids})

    return await responses.respond(form, body, tag)
