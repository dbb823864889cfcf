"""Sets of samples, in and out: a bitmap, JSON of indices, or npy of indices or booleans."""

from typing import Annotated, Any

import orjson
from anyio import to_thread
from fastapi import Request
from pydantic import Field

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service.config import Settings
from mild_service.errors import BodyTooLarge, InvalidRequest
from mild_service.web import bodies, responses
from mild_service.web.bodies import Strict
from mild_service.web.openapi import binary

FORMS = (bodies.JSON, bodies.BITMAP, bodies.NPY)
"""What a set is answered as."""

_BINARY = {"type": "string", "format": "binary"}


class IndicesRequest(Strict):
    """A set of samples."""

    indices: Annotated[list[Annotated[int, Field(ge=-(2**63), lt=2**63)]], Field(fail_fast=True)] = Field(
        description="Sample indices, in any order; repeats count once."
    )


def taken(description: str) -> dict[str, Any]:
    """A set as a body, as OpenAPI's extra of a route."""
    return binary(
        description,
        **{
            bodies.JSON: {"schema": IndicesRequest.model_json_schema()},
            bodies.NPY: {"schema": {**_BINARY, "description": "Indices, or a boolean per sample."}},
        },
    )


def given(description: str) -> dict[int | str, dict[str, Any]]:
    """A set as an answer, for OpenAPI."""
    content = {
        bodies.BITMAP: {"schema": {**_BINARY, "description": "The set's bitmap."}},
        bodies.NPY: {"schema": {**_BINARY, "description": "Sorted int64 indices."}},
    }
    return {200: {"content": content, "description": description}}


async def read(request: Request, n_samples: int, settings: Settings, what: str) -> Bitmap:
    """The set in a body, shape (n_bytes,); `what` names it in errors.

    Raises
    ------
    UnsupportedMediaType, BodyTooLarge, MalformedBody, InvalidRequest
        If the body cannot be read, or does not hold indices or bits.
    BitmapLengthError, TrailingBitsError, SampleIndexError
        If it is not of this run.
    """
    kind = bodies.media_type(request, (bodies.BITMAP, bodies.JSON, bodies.NPY), bodies.BITMAP)
    if kind == bodies.BITMAP:
        return bitmap.check(await bodies.read_bitmaps(request, n_samples, count=1), n_samples, f"{what} bitmap")
    limit = settings.max_json_bytes if kind == bodies.JSON else settings.max_body_bytes
    body = await bodies.read(request, limit)
    if len(body) > limit:
        size = bitmap.n_bytes(n_samples)
        raise BodyTooLarge(
            f"the body has more than {limit} bytes, which is the limit; send the {what} as a bitmap of {size} bytes"
        )
    if kind == bodies.JSON:
        return await to_thread.run_sync(_from_json, body, n_samples)
    return await to_thread.run_sync(_from_npy, body, n_samples, what)


def written(kind: str, held: Bitmap, n_samples: int, head: dict[str, Any], count: str) -> bytes:
    """A set in one of the `FORMS`; `head` begins the JSON, in which its size is named `count`."""
    if kind == bodies.BITMAP:
        return held.tobytes()
    indices = bitmap.to_indices(held, n_samples)
    if kind == bodies.NPY:
        return responses.npy(indices)
    return orjson.dumps({**head, count: indices.size, "indices": indices}, option=orjson.OPT_SERIALIZE_NUMPY)


def _from_json(body: bytes, n_samples: int) -> Bitmap:
    return bitmap.from_indices(bodies.parse_json(body, IndicesRequest).indices, n_samples)


def _from_npy(body: bytes, n_samples: int, what: str) -> Bitmap:
    array = bodies.parse(body, what, "iub")
    if array.dtype.kind != "b":
        return bitmap.from_indices(array, n_samples)
    if array.size != n_samples:
        raise InvalidRequest(f"{what} are {array.size} booleans, the run has {n_samples} samples; send one for each")
    return bitmap.pack(array)
