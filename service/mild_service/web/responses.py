"""Responses in the representation that the client accepts, their ETags, and preconditions of writes (RFC 9110)."""

import base64
import csv
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np
import orjson
from anyio import to_thread
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_service import __version__
from mild_service.admission import current_account
from mild_service.errors import NotAcceptable
from mild_service.observability import phase
from mild_service.web import media_types
from mild_service.web.codings import CODINGS, Coding, compress, compress_pieces
from mild_service.web.openapi import describe_binary

_WHOLE_BYTES = 16 * 2**20
"""Most bytes of a body that is sent with its length and digest, although it is made in pieces."""
_PART_BYTES = 2**12
"""Bytes of a bitmap whose samples make one piece of a body: up to 32,768 indices, in a quarter of a millisecond."""
_LISTED_BYTES = 24
"""Most memory of a listed sample while the piece that lists it is made."""
_PART_IDS = 2**14
"""Ids in one piece of a body."""
_UNLISTED_IDENTITY = 0.0005
"""Quality of the coding ``identity`` if Accept-Encoding does not list it: acceptable, but any listed one is better."""


@dataclass(frozen=True, slots=True)
class Representation:
    """The media type and the content coding of a response, and whether its headers alone are asked for."""

    media_type: str
    coding: Coding
    is_head: bool = False


def negotiate(request: Request, offered_types: Sequence[str]) -> Representation:
    """Choose the media type and the content coding of a response by the request's Accept headers.

    Parameters
    ----------
    request
        The request.
    offered_types
        Media types that the route can send. Of those that the client prefers equally, the first is chosen.
    """
    accept = request.headers.get("accept") or "*/*"
    qualities = _parse_qualities(accept)
    media_type = max(offered_types, key=lambda media_type: _find_quality(media_type, qualities))
    if _find_quality(media_type, qualities) <= 0:
        raise NotAcceptable(f"none of {', '.join(offered_types)} is accepted by {accept[:200]!r}; accept one of them")
    coding = _choose_coding(request.headers.get("accept-encoding", "identity"), media_type)
    return Representation(media_type, coding, getattr(request.state, "is_head", False))


def make_etag(identity: str, representation: Representation) -> str:
    """Return the strong ETag of the content that `identity` identifies, in one representation."""
    text = f"{__version__}|{representation.media_type}|{representation.coding}|{identity}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def is_not_modified(request: Request, etag: str) -> bool:
    """Return whether the client already has the representation with this ETag, by its header If-None-Match."""
    etags = [value.strip().removeprefix("W/") for value in request.headers.get("if-none-match", "").split(",")]
    return "*" in etags or etag in etags


def make_cache_headers(etag: str | None = None) -> dict[str, str]:
    """Return the headers Vary and, if there is an ETag, ETag and Cache-Control of a negotiated response or its 304."""
    vary = {"Vary": "Accept, Accept-Encoding"}
    return vary if etag is None else {**vary, "ETag": etag, "Cache-Control": "private, no-cache"}


async def make_response(
    representation: Representation,
    make_body: Callable[[], bytes | Iterator[bytes]],
    etag: str | None = None,
    n_bytes: int = 0,
) -> Response:
    """Return a response whose body is made, compressed and hashed in a worker thread.

    A body of more than `_WHOLE_BYTES` that is made in pieces is sent while it is made, and never held at once; it then
    has neither Content-Length nor Content-Digest.

    Parameters
    ----------
    representation
        Media type and content coding of the response.
    make_body
        Returns the uncompressed body, or its pieces.
    etag
        ETag of the representation; None if it has none.
    n_bytes
        Most bytes of memory while the body is made, which are taken for the request.
    """
    account = current_account.get()

    def make_content() -> tuple[bytes, str] | Iterator[bytes]:
        body = make_body()
        if not isinstance(body, bytes):
            start, n_made = [], 0
            for piece in body:
                start.append(piece)
                n_made += len(piece)
                if n_made > _WHOLE_BYTES:
                    return compress_pieces(chain(_pop_all(start), body), representation.coding)
            body = b"".join(start)
        content = compress(body, representation.coding)
        return content, base64.b64encode(hashlib.sha256(content).digest()).decode()

    async with nullcontext() if account is None else account.admission.encode(n_bytes):
        with phase("encode"):
            body_or_pieces = await to_thread.run_sync(make_content)
    headers = make_cache_headers(etag)
    if representation.coding != "identity":
        headers["Content-Encoding"] = representation.coding
    if not isinstance(body_or_pieces, tuple):
        sent = iter(()) if representation.is_head else body_or_pieces
        return StreamingResponse(_send_pieces(sent), headers=headers, media_type=representation.media_type)
    content, digest = body_or_pieces
    headers["Content-Digest"] = f"sha-256=:{digest}:"
    return Response(content, headers=headers, media_type=representation.media_type)


def _pop_all(items: list[bytes]) -> Iterator[bytes]:
    """Yield the items of a list, which no longer holds them then."""
    while items:
        yield items.pop(0)


async def _send_pieces(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield pieces, each made in a worker thread when the one before was sent.

    No more are made for a reader that has gone away: its request is cancelled then.
    """
    while piece := await to_thread.run_sync(next, pieces, b""):
        yield piece


def _choose_coding(accept: str, media_type: str) -> Coding:
    """Choose a coding by the header Accept-Encoding. Bitmaps hardly compress, so they prefer ``identity``."""
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
    """Return the highest quality of each name in an Accept header (RFC 9110)."""
    qualities: dict[str, float] = {}
    for name, quality in map(_parse_element, header.split(",")):
        qualities[name] = max(quality, qualities.get(name, 0.0))
    return qualities


def _parse_element(element: str) -> tuple[str, float]:
    """Return the name and the quality of one element of an Accept header."""
    name, *parameters = (part.strip().lower() for part in element.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return name, _parse_quality(value.strip())
    return name, 1.0


def _parse_quality(text: str) -> float:
    """Parse a quality value, of which at most 1 counts; an invalid one counts as 0."""
    return min(1.0, float(text)) if text.isascii() and text.replace(".", "", 1).isdecimal() and len(text) <= 5 else 0.0


def _find_quality(media_type: str, qualities: Mapping[str, float]) -> float:
    """Return the quality of a media type, by the most specific range that matches it."""
    family = media_type.partition("/")[0]
    return next((qualities[name] for name in (media_type, f"{family}/*", "*/*") if name in qualities), 0.0)


SET_CONTENT: Mapping[str, Any] = {
    media_types.BITMAP: describe_binary("Bitmap of the set."),
    media_types.NPY: describe_binary("Sorted int64 indices, numpy's npy format."),
    media_types.ARROW: describe_binary("Column `index` (int64), and `id` with `ids=true`; an IPC stream."),
    media_types.CSV: {
        "schema": {"type": "string", "description": "Column `index`, and `id` with `ids=true`; a header line."}
    },
}
"""Media types of a set of samples besides JSON, for OpenAPI."""

_WITHOUT_PYARROW = [name for name in SET_CONTENT if name != media_types.ARROW]
SELECTION_TYPES = (media_types.JSON, *(SET_CONTENT if find_spec("pyarrow") else _WITHOUT_PYARROW))
"""Media types of a selection, in order of preference where the client has none."""


def negotiate_selection(request: Request, with_ids: bool = False) -> Representation:
    """Choose the representation of a selection by the request's Accept headers.

    Parameters
    ----------
    request
        The request.
    with_ids
        Whether the response contains external ids, which not all media types can hold.
    """
    without_ids = (media_types.BITMAP, media_types.NPY)
    return negotiate(request, [name for name in SELECTION_TYPES if not with_ids or name not in without_ids])


async def make_set_response(
    representation: Representation,
    fields: Mapping[str, Any],
    samples: Bitmap,
    n_samples: int,
    ids: Sequence[str] | None = None,
    identity: str = "",
) -> Response:
    """Return a set of samples as a response in one of the `SELECTION_TYPES`, with an ETag if it has an identity.

    Parameters
    ----------
    representation
        Media type and content coding of the response.
    fields
        Fields of the JSON object besides `indices` and `ids`.
    samples
        Bitmap of the set, shape (n_bytes,).
    n_samples
        Samples of the run.
    ids
        External ids of the samples in the set; None to send none.
    identity
        Text that changes whenever the content changes; empty for no ETag.
    """
    media_type = representation.media_type
    etag = make_etag(identity, representation) if identity else None
    n_bytes = estimate_set(samples, n_samples, media_type) + LISTED_ID_BYTES * len(ids or ())
    return await make_response(
        representation, lambda: _encode_set(media_type, fields, samples, n_samples, ids), etag, n_bytes
    )


def estimate_pieces(n_items: int, n_chars: int) -> int:
    """Estimate the memory of a body while its pieces are made, and while all of them are joined, if it is sent whole.

    Parameters
    ----------
    n_items, n_chars
        Number of listed samples, and the most bytes of each in the body.
    """
    n_in_piece = min(n_items, 8 * _PART_BYTES)
    return 2 * min(n_items * n_chars, _WHOLE_BYTES + n_in_piece * n_chars) + _LISTED_BYTES * n_in_piece


LISTED_ID_BYTES = 400
"""Most memory per listed sample with an external id."""


def estimate_set(samples: Bitmap, n_samples: int, media_type: str) -> int:
    """Return the most bytes of memory while a set of samples is encoded."""
    if media_type == media_types.BITMAP:
        return 2 * samples.nbytes
    is_binary = media_type in (media_types.NPY, media_types.ARROW)
    return estimate_pieces(bitmap.popcount(samples), 8 if is_binary else len(str(n_samples)))


def _encode_set(
    media_type: str, fields: Mapping[str, Any], samples: Bitmap, n_samples: int, ids: Sequence[str] | None
) -> bytes | Iterator[bytes]:
    if media_type == media_types.BITMAP:
        return samples.tobytes()
    if media_type == media_types.NPY:
        return _encode_npy_indices(samples, n_samples)
    if media_type == media_types.ARROW:
        return _encode_arrow(samples, n_samples, ids)
    if media_type == media_types.CSV:
        return _encode_csv(samples, n_samples, ids)
    return encode_indices(fields, samples, n_samples, ids)


def iterate_indices(samples: Bitmap, n_samples: int) -> Iterator[NDArray[np.int64]]:
    """Yield the sorted indices of a set of samples in parts that are not empty."""
    for start in range(0, samples.size, _PART_BYTES):
        part = samples[start : start + _PART_BYTES]
        indices = bitmap.to_indices(part, min(8 * part.size, n_samples - 8 * start)) + 8 * start
        if indices.size:
            yield indices


def encode_indices(
    fields: Mapping[str, Any], samples: Bitmap, n_samples: int, ids: Sequence[str] | None = None
) -> Iterator[bytes]:
    """Yield the pieces of a JSON object with some fields, the `indices` of a set of samples, and its `ids` if any."""
    lists: dict[str, Iterable[Any]] = {"indices": iterate_indices(samples, n_samples)}
    if ids is not None:
        lists["ids"] = (ids[start : start + _PART_IDS] for start in range(0, len(ids), _PART_IDS))
    return encode_lists(fields, lists)


def encode_lists(fields: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]) -> Iterator[bytes]:
    """Yield the pieces of a JSON object with some fields, and after them lists of which each is given in parts."""
    start = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)[:-1]
    for name, parts in lists.items():
        yield start + (b"" if start == b"{" else b",") + orjson.dumps(name) + b":["
        yield from _encode_items(parts)
        start = b"]"
    yield start + b"}"


def _encode_items(parts: Iterable[Any]) -> Iterator[bytes]:
    """Yield the items of lists or arrays in JSON, with commas between them."""
    separator = b""
    for part in parts:
        yield separator + orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        separator = b","


def _encode_npy_indices(samples: Bitmap, n_samples: int) -> Iterator[bytes]:
    """Yield the pieces of an npy file with the sorted indices of a set of samples."""
    yield _encode_npy_header("<i8", (bitmap.popcount(samples),))
    for indices in iterate_indices(samples, n_samples):
        yield indices.astype("<i8").tobytes()


def split_array(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the parts of a one-dimensional array that each make one piece of a body."""
    return (array[start : start + 8 * _PART_BYTES] for start in range(0, array.size, 8 * _PART_BYTES))


def encode_npy_rows(rows: Sequence[NDArray[Any]]) -> Iterator[bytes]:
    """Yield the pieces of an npy file with an array of two dimensions, whose rows have one type and length."""
    yield _encode_npy_header(rows[0].dtype.str, (len(rows), rows[0].size))
    for row in rows:
        yield from (part.tobytes() for part in split_array(row))


def _encode_npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of an npy file with an array of this type and shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _encode_arrow(samples: Bitmap, n_samples: int, ids: Sequence[str] | None) -> Iterator[bytes]:
    """Yield the pieces of an Arrow IPC stream with indices, and ids unless they are None."""
    import pyarrow

    columns = [("index", pyarrow.int64())] + ([] if ids is None else [("id", pyarrow.large_string())])
    schema, buffer, n_written = pyarrow.schema(columns), io.BytesIO(), 0
    with pyarrow.ipc.new_stream(buffer, schema) as writer:
        for indices in iterate_indices(samples, n_samples):
            arrays = [pyarrow.array(indices)]
            if ids is not None:
                part_ids = ids[n_written : n_written + indices.size]
                arrays.append(pyarrow.array(part_ids, pyarrow.large_string()))
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
            n_written += indices.size
            yield _take_all(buffer)
    yield _take_all(buffer)


def _take_all(buffer: io.BytesIO) -> bytes:
    """Return the content of a buffer, which is empty then."""
    content = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return content


def _encode_csv(samples: Bitmap, n_samples: int, ids: Sequence[str] | None) -> Iterator[bytes]:
    """Yield the lines of indices, and ids unless they are None, as CSV with a header line."""
    if ids is None:
        yield b"index\n"
        for indices in iterate_indices(samples, n_samples):
            yield orjson.dumps(indices, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].replace(b",", b"\n") + b"\n"
        return
    yield b"index,id\n"
    n_written = 0
    for indices in iterate_indices(samples, n_samples):
        # In short parts: other threads wait while the writer is at work on one.
        for start in range(0, indices.size, _PART_IDS):
            part = indices[start : start + _PART_IDS].tolist()
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(
                zip(part, ids[n_written : n_written + len(part)], strict=True)
            )
            n_written += len(part)
            yield text.getvalue().encode()
