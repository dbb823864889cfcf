"""Request bodies: decompressed within limits, checked against their digest, and read as JSON, bitmaps or npy arrays."""

import base64
import binascii
import codecs
import hashlib
import io
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs

import numpy as np
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError
from mild_service.admission import take_memory_now
from mild_service.errors import BodyTooLarge, DigestMismatch, InvalidRequest, MalformedBody
from mild_service.web import codings, media_types

Model = TypeVar("Model", bound=BaseModel)

MAX_ENTRIES = 64
"""Most entries of an object in a request."""
JSON_REMEDY = "send a bitmap or npy in its place, or have MILD_MAX_JSON_BYTES raised"
"""Remedy in the error for JSON that is too long."""
_MAX_FORM_BYTES = 4096
_UNACCOUNTED_BYTES = 64 * 1024
"""Bytes of a body that every request may have."""
_BODY_COPIES = 3
"""Copies of a body in memory: as bitmaps, as what is written to the store, and as the command."""
_JSON_COPIES = 12
"""Memory of JSON once it is parsed, of lists of short numbers."""
_SHA256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):", re.IGNORECASE)


def check_entry_count(value: object) -> object:
    """Return `value` unchanged, after checking that a dict has at most `MAX_ENTRIES` entries.

    It runs before pydantic's validation, which would otherwise create one error for each of a million unknown fields.

    Raises
    ------
    ValueError
        If `value` is a dict with more entries.
    """
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries, at most {MAX_ENTRIES} are read")
    return value


def _to_integer(value: object) -> object:
    """Convert a float without a fraction, such as 60.0, to an int: JSON schemas do not distinguish them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_to_integer)]
"""An integer; a JSON number such as 60.0 is accepted too."""


class RequestModel(BaseModel):
    """Base class of JSON request bodies. Unknown fields and numbers in strings are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _check_entry_count(cls, value: object) -> object:
        return check_entry_count(value)


class RequestBody:
    """The decompressed body of a request. It is received only as far as it is read.

    The Content-Digest header is checked when the end of the body is reached.

    Parameters
    ----------
    request
        The request, whose body has not been read yet.
    detect_coding
        Whether a body without Content-Encoding is decompressed if it begins as gzip or zstd do. Bitmaps may begin so.

    Raises
    ------
    UnsupportedMediaType
        If the content coding of the body is neither ``gzip`` nor ``zstd``.
    """

    def __init__(self, request: Request, detect_coding: bool = False) -> None:
        self._stream = codings.peek(request.stream()) if detect_coding else request.stream()
        self._detect_coding = detect_coding
        self._inflater = codings.make_inflater(request.headers.get("content-encoding", "identity").strip().lower())
        self._digest = request.headers.get("content-digest")
        self._inflated = self._inflate()
        self._buffer: list[bytes] = []
        self._n_buffered = 0
        self.sha256: str | None = None
        """Digest of the whole body in hex, if it came uncompressed and with a Content-Digest; else None."""

    async def read_prefix(self, limit: int) -> bytes:
        """Return the whole body if it has at most `limit` bytes, else its first ``limit + 1`` bytes.

        The extra byte tells the caller that the body is too long. A later call with a higher limit returns more.

        Parameters
        ----------
        limit
            Most bytes, after decompression.

        Raises
        ------
        MalformedBody
            If the body cannot be decompressed.
        DigestMismatch
            If the body does not match its Content-Digest.
        """
        if self._n_buffered <= limit:
            async for chunk in self._inflated:
                self._buffer.append(chunk)
                self._n_buffered += len(chunk)
                if self._n_buffered > _UNACCOUNTED_BYTES:
                    take_memory_now(_BODY_COPIES * len(chunk))
                if self._n_buffered > limit:
                    break
        self._buffer = [b"".join(self._buffer)]
        return self._buffer[0][: limit + 1]

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the decompressed body in chunks, without keeping them.

        Raises
        ------
        MalformedBody
            If the body cannot be decompressed.
        DigestMismatch
            After the last chunk, if the body does not match its Content-Digest.
        """
        async for chunk in self._inflated:
            yield chunk

    async def _inflate(self) -> AsyncIterator[bytes]:
        """Yield the decompressed chunks of the body, then check its digest."""
        digest = hashlib.sha256()
        async for chunk in self._stream:
            if self._detect_coding:
                self._inflater = self._inflater or codings.make_inflater(codings.detect_coding(chunk))
                self._detect_coding = False
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


async def read_body(request: Request, limit: int, detect_coding: bool = False) -> bytes:
    """Return the decompressed body of a request, or its first ``limit + 1`` bytes if it is longer than `limit`.

    The caller raises the error for a body that is too long. `detect_coding` is that of `RequestBody`.

    Raises
    ------
    UnsupportedMediaType, MalformedBody, DigestMismatch
        As `RequestBody` and its `read_prefix`.
    """
    return await RequestBody(request, detect_coding).read_prefix(limit)


async def stream_body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the decompressed body of a request in chunks.

    Raises
    ------
    BodyTooLarge
        If the body has more than `limit` bytes after decompression.
    UnsupportedMediaType, MalformedBody, DigestMismatch
        As `RequestBody` and its `stream`. A wrong digest is raised after the last chunk.
    """
    n_bytes = 0
    async for chunk in RequestBody(request, detect_coding=True).stream():
        n_bytes += len(chunk)
        if n_bytes > limit:
            raise BodyTooLarge(
                f"the log has more than {limit} bytes, which is the limit; send it in parts, "
                "or have MILD_MAX_LOG_BYTES raised"
            )
        yield chunk


async def read_bitmaps(request: Request, n_samples: int, count: int) -> bytes:
    """Return a body of up to `count` concatenated bitmaps of `n_samples` samples each.

    The caller checks that the length is that of one or several whole bitmaps.

    Raises
    ------
    BitmapLengthError
        If the body is longer than `count` bitmaps; the rest of it is not received.
    """
    limit = count * bitmap.n_bytes(n_samples)
    body = await read_body(request, limit)
    if len(body) > limit:
        allowed = " or ".join(str(n * bitmap.n_bytes(n_samples)) for n in range(1, count + 1))
        raise BitmapLengthError(
            f"a body for {n_samples} samples takes {allowed} bytes, got more than {limit}; "
            "pack one bit per sample, most significant bit first"
        )
    return body


async def read_json(request: Request, model: type[Model], limit: int, remedy: str = JSON_REMEDY) -> Model:
    """Read a JSON body and validate it with a pydantic model. An empty body counts as ``{}``.

    Parameters
    ----------
    request
        The request.
    model
        Class of the model.
    limit
        Most bytes of the body.
    remedy
        End of the error message for a body that is too long.

    Raises
    ------
    BodyTooLarge
        If the body has more than `limit` bytes.
    RequestValidationError
        If the body is not JSON, or does not match the model.
    """
    return parse_json(await read_json_bytes(request, limit, remedy), model)


async def read_json_bytes(request: Request, limit: int, remedy: str = JSON_REMEDY) -> bytes:
    """Return a JSON body without parsing it.

    Parsing blocks the event loop, so `limit` must be low enough for that. `remedy` ends the error message.

    Raises
    ------
    BodyTooLarge
        If the body has more than `limit` bytes.
    """
    body = await read_body(request, limit, detect_coding=True)
    if len(body) > limit:
        raise BodyTooLarge(f"the JSON has more than {limit} bytes, which is the limit; {remedy}")
    if len(body) > _UNACCOUNTED_BYTES:
        take_memory_now(_JSON_COPIES * len(body))
    return body


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form that are not empty, each with its first value.

    Raises
    ------
    UnsupportedMediaType
        If the body is no form.
    BodyTooLarge
        If the body has more than 4096 bytes.
    """
    media_types.check_content_type(request, (media_types.FORM,), media_types.FORM)
    body = (await read_json_bytes(request, _MAX_FORM_BYTES)).decode(errors="replace")
    return {name: values[0] for name, values in parse_qs(body).items()}


def parse_json(body: bytes, model: type[Model]) -> Model:
    """Parse a JSON body and validate it with a pydantic model. An empty body counts as ``{}``.

    Raises
    ------
    RequestValidationError
        If the body is not JSON, or does not match the model.
    """
    try:
        return model.model_validate_json(body.removeprefix(codecs.BOM_UTF8) or b"{}")
    except ValidationError as error:
        entries = error.errors(include_url=False)
        raise RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in entries]) from error


def decode_bitmap(text: str, n_samples: int, name: str) -> Bitmap:
    """Decode the bitmap of `n_samples` samples that a text holds in base64. Error messages call it `name`.

    Raises
    ------
    InvalidRequest
        If the text is not base64.
    BitmapLengthError
        If the bitmap has another length.
    TrailingBitsError
        If bits after the last sample are set.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            f"{name} is not base64 ({error}); encode the bitmap's bytes with standard base64"
        ) from error
    return bitmap.validate(data, n_samples, name)


def _check_digest(header: str, digest: bytes) -> None:
    """Raise `DigestMismatch` if a Content-Digest header has a SHA-256 other than `digest`."""
    match = _SHA256.search(header)
    if match is None:
        return  # digests of other algorithms are ignored (RFC 9530)
    actual = base64.b64encode(digest).decode()
    if match[1] != actual:
        raise DigestMismatch(
            f"the body's sha-256 is {actual}, Content-Digest says {match[1]}; it was damaged in transit, send it again"
        )


def parse_npy(body: bytes, name: str, kinds: str = "iu") -> NDArray[Any]:
    """Parse a one-dimensional array in numpy's npy format without copying it or trusting its header.

    Parameters
    ----------
    body
        The npy file.
    name
        What error messages call the array.
    kinds
        Allowed kinds of the data type, as the letters of `numpy.dtype.kind`.

    Raises
    ------
    MalformedBody
        If the body is not an npy file, or is damaged.
    InvalidRequest
        If the array has more than one dimension, or a data type of another kind.
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
        raise InvalidRequest(f"{name} are {dtype} of shape {shape}; send {allowed} in one dimension")
    data = stream.read()
    if len(data) != shape[0] * dtype.itemsize:
        raise MalformedBody(
            f"the npy file announces {shape[0]} {name} of {dtype.itemsize} bytes, but {len(data)} bytes follow; "
            "write it again"
        )
    return np.frombuffer(data, dtype=dtype)
