"""External ids of a run's samples: ``/runs/{run_id}/sample-ids``, as text lines, JSON lines or one JSON array."""

import codecs
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
import orjson
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core.sample_ids import MAX_ID_BYTES
from mild_service.admission import take_memory
from mild_service.annotations.external_ids import Unit, no_sample_ids_error, sample_id_error
from mild_service.config import Settings
from mild_service.errors import MalformedBody
from mild_service.ingest.line_splitter import LineSplitter
from mild_service.web import bodies, media_types, responses
from mild_service.web.dependencies import (
    PreconditionDep,
    RunDep,
    SampleIdsDep,
    SettingsDep,
    make_etag_header,
)
from mild_service.web.openapi import describe_body


class IdsPut(BaseModel):
    """Result of a PUT of ids."""

    run_id: str
    outcome: Literal["set", "same", "replaced"]
    num_samples: int


class IdsView(BaseModel):
    """The ids of the samples from `offset` on."""

    run_id: str
    num_samples: int
    offset: int
    sample_ids: list[str] = Field(description="At most `limit` of them.")


router = APIRouter(tags=["samples"])

_MAX_PAGE = 100_000
_TEXT_SCHEMA = {"schema": {"type": "string", "description": "One id per line."}}
_MEDIA_TYPES = (media_types.JSON, media_types.NDJSON, media_types.TEXT)


@router.put(
    "/runs/{run_id}/sample-ids",
    openapi_extra=describe_body(
        {
            media_types.JSON: {
                "schema": {
                    "type": "array",
                    "maxItems": bodies.MAX_LISTED,
                    "items": {"type": ["string", "integer"], "maxLength": MAX_ID_BYTES},
                }
            },
            media_types.NDJSON: "One JSON string per line.",
            media_types.TEXT: _TEXT_SCHEMA,
        },
        has_precondition=True,
    ),
)
async def put_sample_ids(
    request: Request,
    run: RunDep,
    sample_ids: SampleIdsDep,
    settings: SettingsDep,
    response: Response,
    condition: PreconditionDep,
) -> IdsPut:
    """Set the external ids of all samples, in order of index. Once an epoch is stored, they cannot be changed."""
    media_type = bodies.check_content_type(request, _MEDIA_TYPES, media_types.JSON)
    unit: Unit = "row" if media_type == media_types.JSON else "line"
    ids = _read_ids(request, media_type, settings)
    outcome, digest = await sample_ids.put(run, unit, ids, condition)
    response.headers.update(make_etag_header(digest))
    return IdsPut(run_id=run.run_id, outcome=outcome, num_samples=run.spec.num_samples)


@router.get(
    "/runs/{run_id}/sample-ids",
    response_model=IdsView,
    responses={
        200: {"content": {media_types.TEXT: _TEXT_SCHEMA}, "description": "Some ids"},
        304: {"description": "The client has this representation already (`If-None-Match`)"},
    },
)
async def get_sample_ids(
    request: Request,
    run: RunDep,
    sample_ids: SampleIdsDep,
    offset: Annotated[int, Query(ge=0, lt=2**63, description="First sample.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE, description="Most samples in one answer.")] = _MAX_PAGE,
    name: Annotated[
        str | None,
        Query(
            alias="id",
            max_length=MAX_ID_BYTES,
            description="Return only this id; `offset` is then the index of its sample.",
        ),
    ] = None,
) -> Response:
    """Return the external ids of samples, or the sample that has a given id."""
    representation = responses.negotiate(request, (media_types.JSON, media_types.TEXT))
    if run.ids is None:
        raise no_sample_ids_error(run)
    if name is not None:
        offset, limit = await sample_ids.find_index(run, name), 1
    etag = responses.make_etag(f"ids:{run.uid}:{run.ids.digest}:{offset}:{limit}", representation)
    if responses.is_not_modified(request, etag):
        return Response(status_code=304, headers=responses.make_cache_headers(etag))
    n_samples = run.spec.num_samples
    samples = np.arange(min(offset, n_samples), min(offset + limit, n_samples))
    await take_memory(responses.LISTED_ID_BYTES * samples.size)
    ids = await sample_ids.get_ids(run, samples)

    def make_body() -> bytes:
        if representation.media_type == media_types.TEXT:
            return "".join(f"{name}\n" for name in ids).encode()
        return orjson.dumps({"run_id": run.run_id, "num_samples": n_samples, "offset": offset, "sample_ids": ids})

    return await responses.make_response(representation, make_body, etag)


_ARRAY_REMEDY = "send one id per line of text, or have MILD_MAX_JSON_BYTES raised"
_PIECE_BYTES = 64 * 1024
"""Bytes of an array that are parsed while the other threads stand still; more than one id takes."""


async def _read_ids(request: Request, media_type: str, settings: Settings) -> AsyncIterator[Sequence[str]]:
    """Yield the ids in a body, block by block; a JSON array is first read as a whole."""
    if media_type == media_types.JSON:
        body = await bodies.read_json_bytes(request, settings.max_json_bytes, _ARRAY_REMEDY)
        for block in await to_thread.run_sync(_parse_array, body):
            yield block
        return
    lines, is_json = LineSplitter(settings.max_record_bytes), media_type == media_types.NDJSON
    async for chunk in bodies.stream_body(request, settings.max_log_bytes):
        for block in await to_thread.run_sync(_parse_blocks, lines.feed(chunk), is_json):
            yield block
    for block in await to_thread.run_sync(_parse_blocks, lines.end(), is_json):
        yield block


def _parse_blocks(blocks: Iterator[tuple[int, bytes]], is_json: bool) -> list[Sequence[str]]:
    """Return the ids in numbered blocks of lines."""
    return [_parse_lines(first_number, block.split(b"\n"), is_json) for first_number, block in blocks]


def _parse_lines(first_number: int, lines: list[bytes], is_json: bool) -> Sequence[str]:
    """Return the ids in lines of a JSON string each, or of text; `first_number` is the number of the first line."""
    values: list[Any] = []
    for number, line in enumerate(lines, first_number):
        try:
            values.append(orjson.loads(line) if is_json else line.removesuffix(b"\r").decode())
        except orjson.JSONDecodeError as error:
            raise sample_id_error("line", number, f"it is not JSON ({error}), a string in quotes is needed") from error
        except UnicodeDecodeError as error:
            raise sample_id_error("line", number, f"it is not UTF-8 ({error.reason})") from error
    return _check_strings(values, first_number, "line")


def _parse_array(body: bytes) -> list[Sequence[str]]:
    """Return the ids in a JSON array, block by block."""
    array = body.removeprefix(codecs.BOM_UTF8).strip()
    if not (array.startswith(b"[") and array.endswith(b"]") and len(array) > 1):
        raise MalformedBody("the body is no JSON array; send an array of strings")
    blocks: list[Sequence[str]] = []
    start, end, n_rows = 1, len(array) - 1, 0
    while start <= end:
        values, start = _parse_piece(array, start, end)
        blocks.append(_check_strings(values, n_rows + 1, "row"))
        n_rows += len(values)
    return blocks


def _parse_piece(array: bytes, start: int, end: int) -> tuple[list[Any], int]:
    """Return the items of an array from byte `start` on, and the byte behind the comma after them.

    The comma may belong to an id. What precedes is no JSON then, and is tried again up to the comma before.
    """
    stop = end
    if end - start > _PIECE_BYTES:
        stop = array.rfind(b",", start, start + _PIECE_BYTES)
    for _ in range(MAX_ID_BYTES):
        try:
            values: list[Any] = orjson.loads(b"[%b]" % array[start : max(start, stop)])
        except orjson.JSONDecodeError as error:
            reason = str(error)
            stop = array.rfind(b",", start, max(start, stop)) if stop < end else -1
            if stop < 0:
                break
            continue
        if not values and array[1:end].strip():
            reason = "an item is missing next to a comma"
            break
        return values, stop + 1
    raise MalformedBody(f"the body is not JSON from byte {start} on: {reason}; send an array of strings")


def _check_strings(values: Sequence[Any], first_number: int, unit: Unit) -> Sequence[str]:
    """Return `values` as strings; an integer is the id that its digits spell, as in logs.

    `first_number` is the line or row of the first value.
    """
    types = set(map(type, values))
    if types <= {str}:
        return cast(Sequence[str], values)
    if types <= {str, int}:
        return list(map(str, values))
    number, value = next((n, value) for n, value in enumerate(values, first_number) if type(value) not in (str, int))
    raise sample_id_error(unit, number, f"got {str(value)[:60]}, a string is needed")
