"""A selection on the wire: JSON, bitmap or npy, with an ETag each."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from anyio import to_thread
from fastapi import Request
from fastapi.responses import Response

from mild_core import bitmap
from mild_service import __version__
from mild_service.errors import NotAcceptable
from mild_service.select import Answer

JSON = "application/json"
BITMAP = "application/octet-stream"
NPY = "application/x-npy"

SELECTION_TYPES = (JSON, BITMAP, NPY)
"""In order of preference where the caller has none."""

OPENAPI_CONTENT: Mapping[str, Any] = {
    BITMAP: {"schema": {"type": "string", "format": "binary", "description": "Bitmap of the kept samples."}},
    NPY: {"schema": {"type": "string", "format": "binary", "description": "Sorted int64 indices, numpy's npy format."}},
}


def negotiate(request: Request, offered: tuple[str, ...] = SELECTION_TYPES) -> str:
    """The media type to answer with.

    Raises
    ------
    NotAcceptable
        If the caller accepts none of `offered`.
    """
    accept = request.headers.get("accept") or "*/*"
    wanted = [_parse(part) for part in accept.split(",")]
    quality = {kind: _quality(kind, wanted) for kind in offered}
    best = max(offered, key=lambda kind: quality[kind])
    if quality[best] <= 0:
        raise NotAcceptable(f"none of {', '.join(offered)} is accepted by {accept[:200]!r}; accept one of them")
    return best


def etag(identity: str, kind: str) -> str:
    """A strong ETag: equal ones mean equal bytes."""
    return f'"{hashlib.sha256(f"{__version__}|{kind}|{identity}".encode()).hexdigest()[:32]}"'


def is_current(request: Request, tag: str) -> bool:
    """Whether the caller has this representation already."""
    known = [value.strip().removeprefix("W/") for value in request.headers.get("if-none-match", "").split(",")]
    return "*" in known or tag in known


def headers(tag: str) -> dict[str, str]:
    """Headers that every representation carries, and 304 as well."""
    return {"ETag": tag, "Vary": "Accept", "Cache-Control": "private, no-cache"}


async def encode(answer: Answer, kind: str) -> Response:
    """A selection as a response, encoded in a worker thread."""
    tagged = headers(etag(answer.identity, kind)) if answer.identity else {"Vary": "Accept"}
    return Response(await to_thread.run_sync(_body, answer, kind), headers=tagged, media_type=kind)


def _body(answer: Answer, kind: str) -> bytes:
    if kind == BITMAP:
        return answer.bitmap.tobytes()
    indices = bitmap.to_indices(answer.bitmap, answer.n_samples)
    if kind == NPY:
        out = io.BytesIO()
        np.lib.format.write_array(out, indices, allow_pickle=False)
        return out.getvalue()
    return orjson.dumps({**answer.document, "indices": indices}, option=orjson.OPT_SERIALIZE_NUMPY)


def _parse(part: str) -> tuple[str, float]:
    kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return kind, _number(value.strip())
    return kind, 1.0


def _number(text: str) -> float:
    """A quality value; what is none counts as 0."""
    return float(text) if text.replace(".", "", 1).isdecimal() and len(text) <= 5 else 0.0


def _quality(kind: str, wanted: list[tuple[str, float]]) -> float:
    """Quality of a media type: the most specific range that names it decides."""
    family = kind.partition("/")[0]
    for pattern in (kind, f"{family}/*", "*/*"):
        matching = [quality for name, quality in wanted if name == pattern]
        if matching:
            return max(matching)
    return 0.0
