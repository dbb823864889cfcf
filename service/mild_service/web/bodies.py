"""Raw bodies: streamed and cut off at the limit, inflated within it, checked against their digest.

Arrays in numpy's npy format, read without trusting their header.

What all JSON requests have in common: they refuse unknown fields, and numbers in strings.
"""

import base64
import binascii
import hashlib
import io
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError
from mild_service.errors import BodyTooLarge, DigestMismatch, InvalidRequest, MalformedBody, UnsupportedMediaType
from mild_service.web import codings

Model = TypeVar("Model", bound=BaseModel)

BITMAP = "application/octet-stream"
JSON = "application/json"
SHORTER = "send a bitmap or npy in its place, or have MILD_MAX_JSON_BYTES raised"
"""Remedy for JSON that is too long."""

_SHA256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):", re.IGNORECASE)


def media_type(request: Request, allowed: tuple[str, ...], default: str) -> str:
    """The body's content type, without parameters.

    Raises
    ------
    UnsupportedMediaType
        If it is none of `allowed`.
    """
    given = request.headers.get("content-type", default).partition(";")[0].strip().lower()
    if given not in allowed:
        raise UnsupportedMediaType(
            f"content type {given!r} is not read here; send {' or '.join(allowed)} (curl: -H 'Content-Type: {default}')"
        )
    return given


class Body:
    """A request's body, inflated, its digest checked, and read no further than somebody asks for.

    Raises
    ------
    UnsupportedMediaType
        If its coding is neither ``gzip`` nor ``zstd``.
    """

    def __init__(self, request: Request) -> None:
        self._stream = request.stream()
        self._inflater = codings.inflater(request.headers.get("content-encoding", "identity").strip().lower())
        self._digest = request.headers.get("content-digest")
        self._inflated = self._inflate()
        self._held: list[bytes] = []
        self._n_held = 0
        self.sha256: str | None = None
        """Of all of it, in hex, where it came without a coding and with a digest to be checked."""

    async def read_up_to(self, n_bytes: int) -> bytes:
        """Read it; of a longer one, the first ``n_bytes + 1`` bytes. May be asked again, for more of it.

        Raises
        ------
        MalformedBody
            If it does not inflate.
        DigestMismatch
            If it is not what its Content-Digest says.
        """
        if self._n_held <= n_bytes:
            async for piece in self._inflated:
                self._held.append(piece)
                self._n_held += len(piece)
                if self._n_held > n_bytes:
                    break
        self._held = [b"".join(self._held)]
        return self._held[0][: n_bytes + 1]

    async def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes, none of them kept. What is wrong with the body as a whole is raised behind the last piece."""
        async for piece in self._inflated:
            yield piece

    async def _inflate(self) -> AsyncIterator[bytes]:
        received = hashlib.sha256()
        async for piece in self._stream:
            if self._digest is not None:
                received.update(piece)
            if self._inflater is None:
                yield piece
                continue
            for inflated in self._inflater.feed(piece):
                yield inflated
        if self._inflater is not None:
            self._inflater.end()
        if self._digest is not None:
            _check_digest(self._digest, received.digest())
            self.sha256 = received.hexdigest() if self._inflater is None else None


async def read(request: Request, limit: int) -> bytes:
    """Read a body, inflate it, check its digest.

    No more than `limit` bytes are kept, before and after inflating; one more is returned when there were more, so that
    the caller can say what is wrong with it.

    Raises
    ------
    UnsupportedMediaType, MalformedBody, DigestMismatch
        As `Body`.
    """
    return await Body(request).read_up_to(limit)


async def pieces(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Read a body piece by piece, for a reader that keeps no more than it needs.

    What is wrong with the body as a whole, such as its digest, is raised behind the last piece.

    Raises
    ------
    BodyTooLarge
        If it has more than `limit` bytes when inflated.
    UnsupportedMediaType, MalformedBody, DigestMismatch
        As `Body`.
    """
    n_bytes = 0
    async for piece in Body(request).pieces():
        n_bytes += len(piece)
        if n_bytes > limit:
            raise BodyTooLarge(
                f"the log has more than {limit} bytes, which is the limit; send it in parts, "
                "or have MILD_MAX_LOG_BYTES raised"
            )
        yield piece


async def read_bitmaps(request: Request, n_samples: int, count: int) -> bytes:
    """Read up to `count` bitmaps in a row.

    Raises
    ------
    BitmapLengthError
        If the body is longer; the rest of it is not read.
    """
    limit = count * bitmap.n_bytes(n_samples)
    body = await read(request, limit)
    if len(body) > limit:
        allowed = " or ".join(str(n * bitmap.n_bytes(n_samples)) for n in range(1, count + 1))
        raise BitmapLengthError(
            f"a body for {n_samples} samples takes {allowed} bytes, got more than {limit}; "
            "pack one bit per sample, most significant bit first"
        )
    return body


async def read_json(request: Request, model: type[Model], limit: int, remedy: str = SHORTER) -> Model:
    """Read a JSON body; an empty one counts as ``{}``.

    Raises
    ------
    BodyTooLarge, MalformedBody
        If it is too long, or not JSON.
    RequestValidationError
        If it does not validate.
    """
    return parse_json(await read_within(request, limit, remedy), model)


async def read_within(request: Request, limit: int, remedy: str = SHORTER) -> bytes:
    """Read a body of JSON. Parsing holds up everybody else, so it must not be long.

    Raises
    ------
    BodyTooLarge
        If it is longer than `limit`.
    """
    body = await read(request, limit)
    if len(body) > limit:
        raise BodyTooLarge(f"the JSON has more than {limit} bytes, which is the limit; {remedy}")
    return body


def parse_json(body: bytes, model: type[Model]) -> Model:
    """A JSON body; an empty one counts as ``{}``.

    Raises
    ------
    RequestValidationError
        If it is not JSON, or does not validate.
    """
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in found]) from error


def decode_bitmap(text: str, n_samples: int, what: str) -> Bitmap:
    """A bitmap from base64.

    Raises
    ------
    InvalidRequest
        If it is not base64.
    BitmapLengthError, TrailingBitsError
        If it is not a bitmap of `n_samples` samples.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            f"{what} is not base64 ({error}); encode the bitmap's bytes with standard base64"
        ) from error
    return bitmap.check(data, n_samples, what)


def _check_digest(header: str, received: bytes) -> None:
    given = _SHA256.search(header)
    if given is None:
        return  # other algorithms are the sender's own business (RFC 9530)
    actual = base64.b64encode(received).decode()
    if given[1] != actual:
        raise DigestMismatch(
            f"the body's sha-256 is {actual}, Content-Digest says {given[1]}; it was damaged on its way, send it again"
        )


NPY = "application/x-npy"


def parse(body: bytes, what: str, kinds: str = "iu") -> NDArray[Any]:
    """A one-dimensional array whose type is one of `kinds` (numpy's letters), without a copy.

    Raises
    ------
    MalformedBody
        If it is no npy file, or a damaged one.
    InvalidRequest
        If it holds something else.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    except Exception as error:  # numpy's parser raises whatever Python's own does
        raise MalformedBody(f"the body is no npy file ({error}); write it with numpy.save") from error
    if dtype.kind not in kinds or len(shape) != 1:
        allowed = "integers, or booleans," if "b" in kinds else "integers"
        raise InvalidRequest(f"{what} are {dtype} of shape {shape}; send {allowed} in one dimension")
    data = stream.read()
    if len(data) != shape[0] * dtype.itemsize:
        raise MalformedBody(
            f"the npy file announces {shape[0]} {what} of {dtype.itemsize} bytes, but {len(data)} bytes follow; "
            "write it again"
        )
    return np.frombuffer(data, dtype=dtype)


MAX_ENTRIES = 64
"""Of an object in a request."""


def few(value: object) -> object:
    """Count before anything is looked into: a million unknown fields would be a million errors."""
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries, at most {MAX_ENTRIES} are read")
    return value


def _whole(value: object) -> object:
    """Take 60.0 for 60: to JSON, and to its schemas, that is one number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Strict(BaseModel):
    """A request: no unknown fields, no numbers in strings."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _count(cls, value: object) -> object:
        return few(value)
