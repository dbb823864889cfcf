"""Request bodies: decompressed within limits, checked against their digest, and read as JSON, bitmaps or npy arrays."""

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
from mild_service.errors import BodyTooLarge, DigestMismatch, InvalidRequest, MalformedBody
from mild_service.web import codings

Model = TypeVar("Model", bound=BaseModel)

MAX_ENTRIES = 64
"""Most entries of an object in a request."""
JSON_REMEDY = "send a bitmap or npy in its place, or have MILD_MAX_JSON_BYTES raised"
"""Remedy in the error for JSON that is too long."""
_SHA256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):", re.IGNORECASE)


def limit_entries(value: object) -> object:
    """Refuse objects with too many entries before validation: a million unknown fields give a million errors."""
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries, at most {MAX_ENTRIES} are read")
    return value


def _to_integer(value: object) -> object:
    """Convert 60.0 to 60: JSON and its schemas do not distinguish them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_to_integer)]
"""An integer, also written with a fraction of zero."""


class RequestModel(BaseModel):
    """Base of JSON requests: unknown fields and numbers in strings are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _limit_entries(cls, value: object) -> object:
        return limit_entries(value)


class RequestBody:
    """A request's body: decompressed, its digest checked, and received only as far as it is read.

    Raises
    ------
    UnsupportedMediaType
        If its content coding is neither ``gzip`` nor ``zstd``.
    """

    def __init__(self, request: Request) -> None:
        self._stream = request.stream()
        self._inflater = codings.make_inflater(request.headers.get("content-encoding", "identity").strip().lower())
        self._digest = request.headers.get("content-digest")
        self._inflated = self._inflate()
        self._buffer: list[bytes] = []
        self._n_buffered = 0
        self.sha256: str | None = None
        """Digest of the whole body in hex, if it came uncompressed and with a Content-Digest; else None."""

    async def read_up_to(self, n_bytes: int) -> bytes:
        """Return the body, or the first ``n_bytes + 1`` bytes of a longer one. A later call may read further.

        Raises
        ------
        MalformedBody
            If it cannot be decompressed.
        DigestMismatch
            If it does not match its Content-Digest.
        """
        if self._n_buffered <= n_bytes:
            async for chunk in self._inflated:
                self._buffer.append(chunk)
                self._n_buffered += len(chunk)
                if self._n_buffered > n_bytes:
                    break
        self._buffer = [b"".join(self._buffer)]
        return self._buffer[0][: n_bytes + 1]

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body in chunks without buffering. Faults of the whole body are raised after the last chunk."""
        async for chunk in self._inflated:
            yield chunk

    async def _inflate(self) -> AsyncIterator[bytes]:
        digest = hashlib.sha256()
        async for chunk in self._stream:
            if self._digest is not None:
                digest.update(chunk)
            if self._inflater is None:
                yield chunk
                continue
            for inflated in self._inflater.feed(chunk):
                yield inflated
        if self._inflater is not None:
            self._inflater.end()
        if self._digest is not None:
            _check_digest(self._digest, digest.digest())
            self.sha256 = digest.hexdigest() if self._inflater is None else None


async def read(request: Request, limit: int) -> bytes:
    """Read and decompress a body and check its digest.

    Returns at most ``limit + 1`` bytes: the caller raises the error for a body that is longer than `limit`.

    Raises
    ------
    UnsupportedMediaType, MalformedBody, DigestMismatch
        As `RequestBody`.
    """
    return await RequestBody(request).read_up_to(limit)


async def stream(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield a body in chunks. Faults of the whole body, such as its digest, are raised after the last chunk.

    Raises
    ------
    BodyTooLarge
        If it has more than `limit` bytes after decompression.
    UnsupportedMediaType, MalformedBody, DigestMismatch
        As `RequestBody`.
    """
    n_bytes = 0
    async for chunk in RequestBody(request).stream():
        n_bytes += len(chunk)
        if n_bytes > limit:
            raise BodyTooLarge(
                f"the log has more than {limit} bytes, which is the limit; send it in parts, "
                "or have MILD_MAX_LOG_BYTES raised"
            )
        yield chunk


async def read_bitmaps(request: Request, n_samples: int, count: int) -> bytes:
    """Read up to `count` concatenated bitmaps.

    Raises
    ------
    BitmapLengthError
        If the body is longer; the rest is not received.
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


async def read_json(request: Request, model: type[Model], limit: int, remedy: str = JSON_REMEDY) -> Model:
    """Read and validate a JSON body; an empty one counts as ``{}``.

    Raises
    ------
    BodyTooLarge, MalformedBody
        If it is too long, or not JSON.
    RequestValidationError
        If it does not validate.
    """
    return parse_json(await read_json_bytes(request, limit, remedy), model)


async def read_json_bytes(request: Request, limit: int, remedy: str = JSON_REMEDY) -> bytes:
    """Read a JSON body without parsing it. Parsing blocks the event loop, so the body must be short.

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
    """Parse and validate a JSON body; an empty one counts as ``{}``.

    Raises
    ------
    RequestValidationError
        If it is not JSON, or does not validate.
    """
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        entries = error.errors(include_url=False)
        raise RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in entries]) from error


def decode_bitmap(text: str, n_samples: int, what: str) -> Bitmap:
    """Decode a bitmap from base64; `what` names it in errors.

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


def _check_digest(header: str, digest: bytes) -> None:
    match = _SHA256.search(header)
    if match is None:
        return  # digests of other algorithms are ignored (RFC 9530)
    actual = base64.b64encode(digest).decode()
    if match[1] != actual:
        raise DigestMismatch(
            f"the body's sha-256 is {actual}, Content-Digest says {match[1]}; it was damaged in transit, send it again"
        )


def parse_npy(body: bytes, what: str, kinds: str = "iu") -> NDArray[Any]:
    """Parse a one-dimensional array in numpy's npy format without copying it or trusting its header.

    Parameters
    ----------
    body
        The npy file.
    what
        Names the array in errors.
    kinds
        Allowed kinds of its data type (numpy's letters).

    Raises
    ------
    MalformedBody
        If the body is not an npy file, or is damaged.
    InvalidRequest
        If the array has another shape or data type.
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
