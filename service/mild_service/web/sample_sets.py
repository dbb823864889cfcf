"""Sets of samples in requests and responses: a bitmap, JSON of indices, or npy of indices or booleans."""

from typing import Any

from anyio import to_thread
from fastapi import Request
from pydantic import BaseModel, Field

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service.config import Settings
from mild_service.errors import InvalidRequest
from mild_service.web import bodies, media_types
from mild_service.web.bodies import IntegerList, RequestModel
from mild_service.web.openapi import describe_body
from mild_service.web.responses import SET_CONTENT

MEDIA_TYPES = (media_types.JSON, media_types.BITMAP, media_types.NPY)
"""Media types of a set of samples in a response."""


class IndicesRequest(RequestModel):
    """A set of samples."""

    indices: IntegerList = Field(description="Sample indices, in any order; repeats count once.")


def describe_set_body(description: str) -> dict[str, Any]:
    """Return the `openapi_extra` of a route whose request body is a set of samples."""
    content: dict[str, str | type[BaseModel] | dict[str, Any]] = {
        media_types.BITMAP: description,
        media_types.JSON: IndicesRequest,
        media_types.NPY: "Indices, or a boolean per sample.",
    }
    return describe_body(content)


def describe_set_response(description: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route whose response is a set of samples."""
    content = {media_type: SET_CONTENT[media_type] for media_type in (media_types.BITMAP, media_types.NPY)}
    return {200: {"content": content, "description": description}}


async def read_set(request: Request, n_samples: int, settings: Settings, name: str) -> Bitmap:
    """Return the set of samples in a request body as a bitmap, shape (n_bytes,).

    Parameters
    ----------
    request
        The request.
    n_samples
        Samples of the run.
    settings
        Gives the limits of the body.
    name
        What error messages call the set.
    """
    media_type = bodies.check_content_type(
        request, (media_types.BITMAP, media_types.JSON, media_types.NPY), media_types.BITMAP
    )
    if media_type == media_types.BITMAP:
        return bitmap.validate(await bodies.read_bitmaps(request, n_samples, count=1), n_samples, f"{name} bitmap")
    limit = settings.max_json_bytes if media_type == media_types.JSON else settings.max_body_bytes
    remedy = f"send the {name} as a bitmap of {bitmap.n_bytes(n_samples)} bytes"
    body = await bodies.read_body(request, limit, remedy)
    if media_type == media_types.JSON:
        return await to_thread.run_sync(_parse_json_set, body, n_samples)
    return await to_thread.run_sync(_parse_npy_set, body, n_samples, name)


def _parse_json_set(body: bytes, n_samples: int) -> Bitmap:
    indices = bodies.parse_json(body, IndicesRequest).indices
    return bitmap.from_indices(bodies.to_integers(indices, "indices"), n_samples)


def _parse_npy_set(body: bytes, n_samples: int, name: str) -> Bitmap:
    array = bodies.parse_npy(body, name, "iub")
    if array.dtype.kind != "b":
        return bitmap.from_indices(array, n_samples)
    if array.size != n_samples:
        raise InvalidRequest(f"{name} are {array.size} booleans, the run has {n_samples} samples; send one for each")
    return bitmap.pack(array)
