"""Responses in the representation that the client accepts, their ETags, and preconditions of writes (RFC 9110)."""

import base64
import csv
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any

import numpy as np
import orjson
from anyio import to_thread
from fastapi import Depends, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from mild_core import bitmap
from mild_service import __version__
from mild_service.errors import InvalidRequest, NotAcceptable
from mild_service.models import NO_PRECONDITION, Precondition
from mild_service.observability import phase
from mild_service.selecting.selections import SelectionResult
from mild_service.web import media_types
from mild_service.web.codings import CODINGS, Coding, compress

_UNLISTED_IDENTITY = 0.0005
"""Quality of the coding ``identity`` if Accept-Encoding does not list it: acceptable, but any listed one is better."""


@dataclass(frozen=True, slots=True)
class Representation:
    """The media type and the content coding of a response."""

    media_type: str
    coding: Coding


def negotiate(request: Request, offered: Sequence[str]) -> Representation:
    """Choose the representation that the client prefers; of equally preferred media types, the first of `offered`.

    Raises
    ------
    NotAcceptable
        If the client accepts none of `offered`, or no supported coding.
    """
    accept = request.headers.get("accept") or "*/*"
    qualities = _parse_qualities(accept)
    media_type = max(offered, key=lambda media_type: _media_quality(media_type, qualities))
    if _media_quality(media_type, qualities) <= 0:
        raise NotAcceptable(f"none of {', '.join(offered)} is accepted by {accept[:200]!r}; accept one of them")
    return Representation(media_type, _choose_coding(request.headers.get("accept-encoding", "identity"), media_type))


def representation_etag(identity: str, representation: Representation) -> str:
    """Return a strong ETag of the content that `identity` names, in this representation."""
    text = f"{__version__}|{representation.media_type}|{representation.coding}|{identity}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def is_current(request: Request, etag: str) -> bool:
    """Return whether the client already has the representation with this ETag (If-None-Match)."""
    etags = [value.strip().removeprefix("W/") for value in request.headers.get("if-none-match", "").split(",")]
    return "*" in etags or etag in etags


def representation_headers(etag: str | None = None) -> dict[str, str]:
    """Return the headers of a negotiated response and, with an ETag, of its 304."""
    vary = {"Vary": "Accept, Accept-Encoding"}
    return vary if etag is None else {**vary, "ETag": etag, "Cache-Control": "private, no-cache"}


async def respond(
    representation: Representation,
    make_body: Callable[[], bytes],
    etag: str | None = None,
    extra_headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a response whose body is made, compressed and digested in a worker thread."""

    def make_content() -> tuple[bytes, str]:
        content = compress(make_body(), representation.coding)
        return content, base64.b64encode(hashlib.sha256(content).digest()).decode()

    with phase("encode"):
        content, digest = await to_thread.run_sync(make_content)
    headers = {**representation_headers(etag), "Content-Digest": f"sha-256=:{digest}:", **(extra_headers or {})}
    if representation.coding != "identity":
        headers["Content-Encoding"] = representation.coding
    return Response(content, headers=headers, media_type=representation.media_type)


def _choose_coding(accept: str, media_type: str) -> Coding:
    """Choose a coding by the header Accept-Encoding. Bitmaps hardly compress, and are compressed only if need be."""
    listed = _parse_qualities(accept)
    default = listed.get("*", 0.0)
    qualities = {coding: listed.get(coding, default) for coding in CODINGS}
    if "identity" not in listed and "*" not in listed:
        qualities["identity"] = _UNLISTED_IDENTITY
    if media_type == media_types.BITMAP and qualities["identity"] > 0:
        return "identity"
    best = max(CODINGS, key=lambda coding: qualities[coding])
    if qualities[best] <= 0:
        raise NotAcceptable(
            f"none of {', '.join(CODINGS)} is accepted by {accept[:200]!r}; accept one of these codings"
        )
    return best


def _parse_qualities(header: str) -> dict[str, float]:
    """Parse an Accept header into the highest quality of each name."""
    qualities: dict[str, float] = {}
    for name, quality in map(_parse_element, header.split(",")):
        qualities[name] = max(quality, qualities.get(name, 0.0))
    return qualities


def _parse_element(element: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in element.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return name, _parse_quality(value.strip())
    return name, 1.0


def _parse_quality(text: str) -> float:
    """Parse a quality value, at most 1; an invalid one counts as 0."""
    return min(1.0, float(text)) if text.isascii() and text.replace(".", "", 1).isdecimal() and len(text) <= 5 else 0.0


def _media_quality(media_type: str, qualities: Mapping[str, float]) -> float:
    """Return the quality of a media type, by the most specific range that matches it."""
    family = media_type.partition("/")[0]
    return next((qualities[name] for name in (media_type, f"{family}/*", "*/*") if name in qualities), 0.0)


SELECTION_TYPES = (
    media_types.JSON,
    media_types.BITMAP,
    media_types.NPY,
    *([media_types.ARROW] if find_spec("pyarrow") else []),
    media_types.CSV,
)
"""Media types of a selection, in order of preference where the client has none."""

_BINARY = {"type": "string", "format": "binary"}

SELECTION_CONTENT: Mapping[str, Any] = {
    media_types.BITMAP: {"schema": {**_BINARY, "description": "Bitmap of the kept samples."}},
    media_types.NPY: {"schema": {**_BINARY, "description": "Sorted int64 indices, numpy's npy format."}},
    media_types.ARROW: {
        "schema": {**_BINARY, "description": "Column `index` (int64), and `id` with `ids=true`; an IPC stream."}
    },
    media_types.CSV: {
        "schema": {"type": "string", "description": "Column `index`, and `id` with `ids=true`; a header line."}
    },
}
"""A selection's media types besides JSON, for OpenAPI."""


def negotiate_selection(request: Request, ids: bool = False) -> Representation:
    """Choose the representation of a selection; with `ids`, one that can hold external ids.

    Raises
    ------
    NotAcceptable
        If the client accepts none of a selection's media types.
    """
    without_ids = (media_types.BITMAP, media_types.NPY)
    return negotiate(request, [name for name in SELECTION_TYPES if not ids or name not in without_ids])


async def selection_response(answer: SelectionResult, representation: Representation) -> Response:
    """Return a selection as a response."""
    etag = representation_etag(answer.identity, representation) if answer.identity else None
    return await respond(representation, lambda: _encode_selection(answer, representation.media_type), etag)


def _encode_selection(answer: SelectionResult, media_type: str) -> bytes:
    if media_type == media_types.BITMAP:
        return answer.bitmap.tobytes()
    indices = bitmap.to_indices(answer.bitmap, answer.n_samples)
    if media_type == media_types.NPY:
        return encode_npy(indices)
    if media_type == media_types.ARROW:
        return _encode_arrow(indices, answer.ids)
    if media_type == media_types.CSV:
        return _encode_csv(indices, answer.ids)
    ids = {} if answer.ids is None else {"ids": answer.ids}
    return orjson.dumps({**answer.document, "indices": indices, **ids}, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_npy(array: NDArray[Any]) -> bytes:
    """Return an array in numpy's npy format."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _encode_arrow(indices: NDArray[np.int64], ids: Sequence[str] | None) -> bytes:
    import pyarrow

    columns = {"index": indices, **({} if ids is None else {"id": pyarrow.array(ids, pyarrow.large_string())})}
    table, buffer = pyarrow.table(columns), io.BytesIO()
    with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=2**16)
    return buffer.getvalue()


def _encode_csv(indices: NDArray[np.int64], ids: Sequence[str] | None) -> bytes:
    if ids is None:
        return b"\n".join([b"index", *(str(index).encode() for index in indices.tolist()), b""])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("index", "id"))
    writer.writerows(zip(indices.tolist(), ids, strict=True))
    return text.getvalue().encode()


_DIGEST_ETAG = re.compile(r'"([0-9a-f]{1,64})"')
"""The ETags of stored content; no other can match."""
_NO_DIGEST = "none"
"""Stands for ETags that no stored content has."""
_MAX_LENGTHS = {"If-Match": 8192, "If-None-Match": 64}
"""Most characters of each header."""
_DESCRIPTIONS = {
    "If-Match": "Write only over content with one of these ETags; * is any.",
    "If-None-Match": "Only *: write only where there is nothing yet.",
}


async def _read_precondition(request: Request) -> Precondition:
    # Not declared as parameters: FastAPI's validation of each would slow down every epoch's PUT.
    if_match, if_none_match = (request.headers.get(name) for name in _MAX_LENGTHS)
    if if_match is if_none_match is None:
        return NO_PRECONDITION
    for name, value in (("If-Match", if_match), ("If-None-Match", if_none_match)):
        if len(value or "") > _MAX_LENGTHS[name]:
            raise InvalidRequest(
                f"{name} has {len(value or '')} characters, at most {_MAX_LENGTHS[name]} are read; name fewer"
            )
    if if_none_match is not None and if_none_match.strip() != "*":
        raise InvalidRequest(f"If-None-Match is {if_none_match!r}; a write takes only *, or If-Match with an ETag")
    if if_match is None:
        return Precondition(must_be_absent=if_none_match is not None)
    if if_none_match is not None:
        raise InvalidRequest("If-Match and If-None-Match are both sent, and never hold together; send one of them")
    tags = [tag.strip() for tag in if_match.split(",")]
    if tags == ["*"]:
        return Precondition(digests=frozenset())
    digests = frozenset(match[1] for tag in tags if (match := _DIGEST_ETAG.fullmatch(tag)))
    return Precondition(digests=digests or frozenset([_NO_DIGEST]))  # a weak tag never matches (RFC 9110, 13.1.1)


PreconditionDep = Annotated[Precondition, Depends(_read_precondition)]
"""The precondition of a write, from If-Match and If-None-Match."""


def with_preconditions(openapi_extra: Mapping[str, Any]) -> dict[str, Any]:
    """Add the headers of preconditions to the `openapi_extra` of a route."""
    headers = [
        {
            "name": name.lower(),
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": max_length, "title": name},
            "description": _DESCRIPTIONS[name],
        }
        for name, max_length in _MAX_LENGTHS.items()
    ]
    return {**openapi_extra, "parameters": headers}


def etag_header(digest: str) -> dict[str, str]:
    """Return the header ETag of stored content."""
    return {"ETag": f'"{digest}"'}
