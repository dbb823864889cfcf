"""What the caller accepts (RFC 9110, section 12): a media type and a content coding, with the headers of both."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from anyio import to_thread
from fastapi import Request
from fastapi.responses import Response

from mild_service import __version__
from mild_service.api.codings import CODINGS, Coding, deflate
from mild_service.errors import NotAcceptable
from mild_service.tracing import phase

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
