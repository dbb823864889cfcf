"""What the caller accepts (RFC 9110, section 12): a media type and a content coding, with the headers of both.

A selection on the wire: JSON, bitmap, npy, Arrow or CSV, with an ETag each.

If-Match and If-None-Match of a write, as a condition on what is stored.
"""

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
from mild_service.web.codings import CODINGS, Coding, deflate

_DENSE = "application/octet-stream"
"""Bitmaps hardly compress: they are sent as they are, unless that is refused."""
_UNNAMED = 0.0005
"""Quality of no coding where the caller does not name it: it will do, but any that is named is better."""


@dataclass(frozen=True, slots=True)
class Form:
    """What to answer with: a media type, and a content coding on top."""

    kind: str
    coding: Coding


def negotiate(request: Request, offered: Sequence[str]) -> Form:
    """The form to answer with; of those that are accepted alike, the first that is offered.

    Raises
    ------
    NotAcceptable
        If the caller accepts none of `offered`, or no coding that there is.
    """
    accept = request.headers.get("accept") or "*/*"
    wanted = _parsed(accept)
    kind = max(offered, key=lambda kind: _media_quality(kind, wanted))
    if _media_quality(kind, wanted) <= 0:
        raise NotAcceptable(f"none of {', '.join(offered)} is accepted by {accept[:200]!r}; accept one of them")
    return Form(kind, _coding(request.headers.get("accept-encoding", "identity"), kind))


def etag(identity: str, form: Form) -> str:
    """A strong ETag: equal ones mean equal bytes."""
    text = f"{__version__}|{form.kind}|{form.coding}|{identity}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def is_current(request: Request, tag: str) -> bool:
    """Whether the caller has this representation already."""
    known = [value.strip().removeprefix("W/") for value in request.headers.get("if-none-match", "").split(",")]
    return "*" in known or tag in known


def headers(tag: str | None = None) -> dict[str, str]:
    """Headers of every negotiated answer; with an ETag those of its 304 too."""
    vary = {"Vary": "Accept, Accept-Encoding"}
    return vary if tag is None else {**vary, "ETag": tag, "Cache-Control": "private, no-cache"}


async def respond(
    form: Form, body: Callable[[], bytes], tag: str | None = None, more: Mapping[str, str] | None = None
) -> Response:
    """An answer whose body is made, coded and digested in a worker thread."""

    def content() -> tuple[bytes, str]:
        coded = deflate(body(), form.coding)
        return coded, base64.b64encode(hashlib.sha256(coded).digest()).decode()

    with phase("encode"):
        coded, digest = await to_thread.run_sync(content)
    coding = {} if form.coding == "identity" else {"Content-Encoding": form.coding}
    told = {**headers(tag), **coding, "Content-Digest": f"sha-256=:{digest}:", **(more or {})}
    return Response(coded, headers=told, media_type=form.kind)


def _coding(accept: str, kind: str) -> Coding:
    wanted = _parsed(accept)
    least = wanted.get("*", 0.0)
    quality = {coding: wanted.get(coding, least) for coding in CODINGS}
    if "identity" not in wanted and "*" not in wanted:
        quality["identity"] = _UNNAMED
    if kind == _DENSE and quality["identity"] > 0:
        return "identity"
    best = max(CODINGS, key=lambda coding: quality[coding])
    if quality[best] <= 0:
        raise NotAcceptable(
            f"none of {', '.join(CODINGS)} is accepted by {accept[:200]!r}; accept one of these codings"
        )
    return best


def _parsed(header: str) -> dict[str, float]:
    """Names with their qualities, the best of each."""
    found: dict[str, float] = {}
    for name, quality in map(_part, header.split(",")):
        found[name] = max(quality, found.get(name, 0.0))
    return found


def _part(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            return name, _number(value.strip())
    return name, 1.0


def _number(text: str) -> float:
    """A quality value, at most 1; what is none counts as 0."""
    return min(1.0, float(text)) if text.isascii() and text.replace(".", "", 1).isdecimal() and len(text) <= 5 else 0.0


def _media_quality(kind: str, wanted: Mapping[str, float]) -> float:
    """Quality of a media type: the most specific range that names it decides."""
    family = kind.partition("/")[0]
    return next((wanted[name] for name in (kind, f"{family}/*", "*/*") if name in wanted), 0.0)


JSON = "application/json"
BITMAP = "application/octet-stream"
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"

SELECTION_TYPES = (JSON, BITMAP, NPY, *([ARROW] if find_spec("pyarrow") else []), CSV)
"""In order of preference where the caller has none."""

_BINARY = {"type": "string", "format": "binary"}

OPENAPI_CONTENT: Mapping[str, Any] = {
    BITMAP: {"schema": {**_BINARY, "description": "Bitmap of the kept samples."}},
    NPY: {"schema": {**_BINARY, "description": "Sorted int64 indices, numpy's npy format."}},
    ARROW: {"schema": {**_BINARY, "description": "Column `index` (int64), and `id` with `ids=true`; an IPC stream."}},
    CSV: {"schema": {"type": "string", "description": "Column `index`, and `id` with `ids=true`; a header line."}},
}


def form_of(request: Request, ids: bool = False) -> Form:
    """The form to answer with; with `ids` one that has room for them.

    Raises
    ------
    NotAcceptable
        If the caller accepts none that a selection has.
    """
    return negotiate(request, [kind for kind in SELECTION_TYPES if not ids or kind not in (BITMAP, NPY)])


async def encode(answer: SelectionResult, form: Form) -> Response:
    """A selection as a response."""
    tag = etag(answer.identity, form) if answer.identity else None
    return await respond(form, lambda: _body(answer, form.kind), tag)


def _body(answer: SelectionResult, kind: str) -> bytes:
    if kind == BITMAP:
        return answer.bitmap.tobytes()
    indices = bitmap.to_indices(answer.bitmap, answer.n_samples)
    if kind == NPY:
        return npy(indices)
    if kind == ARROW:
        return _arrow(indices, answer.ids)
    if kind == CSV:
        return _csv(indices, answer.ids)
    named = {} if answer.ids is None else {"ids": answer.ids}
    return orjson.dumps({**answer.document, "indices": indices, **named}, option=orjson.OPT_SERIALIZE_NUMPY)


def npy(array: NDArray[Any]) -> bytes:
    """An array in numpy's npy format."""
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=False)
    return out.getvalue()


def _arrow(indices: NDArray[np.int64], ids: Sequence[str] | None) -> bytes:
    import pyarrow

    columns = {"index": indices, **({} if ids is None else {"id": pyarrow.array(ids, pyarrow.large_string())})}
    table, out = pyarrow.table(columns), io.BytesIO()
    with pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2**16)
    return out.getvalue()


def _csv(indices: NDArray[np.int64], ids: Sequence[str] | None) -> bytes:
    if ids is None:
        return b"\n".join([b"index", *(str(index).encode() for index in indices.tolist()), b""])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("index", "id"))
    writer.writerows(zip(indices.tolist(), ids, strict=True))
    return out.getvalue().encode()


_TAG = re.compile(r'"([0-9a-f]{1,64})"')
"""The ETags that writes answer with; no other can match."""
_NOBODY = "none"


_MOST = {"If-Match": 8192, "If-None-Match": 64}
"""Characters."""
_DESCRIPTIONS = {
    "If-Match": "Write only over content with one of these ETags; * is any.",
    "If-None-Match": "Only *: write only where there is nothing yet.",
}


async def _condition(request: Request) -> Precondition:
    # Not declared as parameters: FastAPI takes its time over each, with every epoch that is put.
    if_match, if_none_match = (request.headers.get(name) for name in _MOST)
    if if_match is if_none_match is None:
        return NO_PRECONDITION
    for name, given in (("If-Match", if_match), ("If-None-Match", if_none_match)):
        if len(given or "") > _MOST[name]:
            raise InvalidRequest(
                f"{name} has {len(given or '')} characters, at most {_MOST[name]} are read; name fewer"
            )
    if if_none_match is not None and if_none_match.strip() != "*":
        raise InvalidRequest(f"If-None-Match is {if_none_match!r}; a write takes * alone, or If-Match with an ETag")
    if if_match is None:
        return Precondition(must_be_absent=if_none_match is not None)
    if if_none_match is not None:
        raise InvalidRequest("If-Match and If-None-Match are both given, and never hold together; send one of them")
    tags = [tag.strip() for tag in if_match.split(",")]
    if tags == ["*"]:
        return Precondition(digests=frozenset())
    ours = frozenset(match[1] for tag in tags if (match := _TAG.fullmatch(tag)))
    return Precondition(digests=ours or frozenset([_NOBODY]))  # a weak tag never matches (RFC 9110, 13.1.1)


ConditionDep = Annotated[Precondition, Depends(_condition)]


def conditional(extra: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAPI's extra of a route that takes a condition: `extra`, and the headers that make one."""
    headers = [
        {
            "name": name.lower(),
            "in": "header",
            "required": False,
            "schema": {"type": "string", "maxLength": longest, "title": name},
            "description": _DESCRIPTIONS[name],
        }
        for name, longest in _MOST.items()
    ]
    return {**extra, "parameters": headers}


def tagged(digest: str) -> dict[str, str]:
    """The header that names stored content."""
    return {"ETag": f'"{digest}"'}
