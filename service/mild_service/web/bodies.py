"""Request bodies: decompressed within limits, checked against their digest, and read as JSON, bitmaps or npy arrays."""

import base64
import binascii
import codecs
import hashlib
import io
import re
from asyncio import sleep
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs

import numpy as np
import orjson
from anyio import to_thread
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import BitmapLengthError
from mild_service.admission import take_memory_now
from mild_service.concurrency import offload
from mild_service.config import Settings
from mild_service.errors import BodyTooLarge, DigestMismatch, InvalidRequest, MalformedBody, UnsupportedMediaType
from mild_service.web import codings, media_types
from mild_service.web.request_limits import UNACCOUNTED_BYTES


def get_highest(setting: str) -> int:
    """Return the highest value that a setting may have; requests are bounded by it where they are declared."""
    return next(int(rule.le) for rule in Settings.model_fields[setting].metadata if hasattr(rule, "le"))


MAX_ENTRIES = 64
"""Most entries of an object in a request."""
MAX_LISTED = 2**20
"""Most items of a list in JSON, and of all lists and objects of a body: parsing as many takes some 20 ms."""
MAX_BASE64_LENGTH = -(-bitmap.n_bytes(get_highest("max_samples")) // 3) * 4
"""Most characters of a bitmap in base64."""
_MAX_NODES = 2**15
"""Most lists, objects and strings of a JSON body. Each takes ten times as long to parse as a number."""
_LONG_DOCUMENT = 2**16
"""Bytes from which on a declared JSON body is parsed in a thread."""
_MAX_ERRORS = 8
"""Most entries of an error about a body."""
_BASE64_PIECE = 2**20
"""Characters of a bitmap that are decoded while the other threads stand still; a multiple of 4."""
_SLICE = 2**16
"""Most items of a list that are converted while the other threads stand still."""
JSON_REMEDY = "send a bitmap or npy in its place, or have MILD_MAX_JSON_BYTES raised"
"""Remedy in the error for JSON that is too long."""
_MAX_FORM_BYTES = 4096
_BODY_COPIES = 3
"""Copies of a body in memory: as bitmaps, as what is written to the store, and as the command."""
_JSON_COPIES = 12
"""Memory of JSON once it is parsed, of lists of short numbers."""
_SHA256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]*):", re.IGNORECASE)


def check_entry_count(value: object) -> object:
    """Return `value` unchanged, after checking that a dict has at most `MAX_ENTRIES` entries.

    It runs before pydantic's validation, which would otherwise create one error for each of a million unknown fields.
    """
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries, at most {MAX_ENTRIES} are read")
    return value


def _to_integer(value: object) -> object:
    """Convert a float without a fraction, such as 60.0, to an int: JSON schemas do not distinguish them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_to_integer)]
"""An integer; a JSON number such as 60.0 is accepted too."""


BitmapText = Annotated[str, Field(max_length=MAX_BASE64_LENGTH)]
"""A bitmap in base64."""


def _long_list(**items: Any) -> Any:
    """Return the `Field` of a long list in JSON, whose items have this schema and are checked when they are converted.

    Pydantic takes four times as long for a list whose items it checks, and holds Python's lock all the time.
    """
    return Field(max_length=MAX_LISTED, fail_fast=True, json_schema_extra={"items": items})


IntegerList = Annotated[list[Any], _long_list(type="integer", minimum=-(2**63), maximum=2**63 - 1)]
"""A list of integers, for `to_integers`."""
MarkList = Annotated[list[Any], _long_list(type=["boolean", "null"])]
"""A list of booleans or null, for `check_types`."""
BitList = Annotated[list[Any], _long_list(enum=[0, 1, True, False])]
"""A list of 0 and 1 (or false and true), for `to_bits`."""


class RequestModel(BaseModel):
    """Base class of JSON request bodies. Unknown fields and numbers in strings are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _check_entry_count(cls, value: object) -> object:
        return check_entry_count(value)


Model = TypeVar("Model", bound=RequestModel)


def check_types(values: list[Any], types: set[type], name: str, remedy: str) -> None:
    """Check that all items of a list in JSON have one of these types."""
    for start, part in _slice(values):
        if not set(map(type, part)) <= types:
            position, value = next((n, value) for n, value in enumerate(part, start) if type(value) not in types)
            raise InvalidRequest(f"{name}[{position}] is {str(value)[:60]}; {remedy}")


def to_integers(values: list[Any], name: str) -> NDArray[np.int64]:
    """Convert the items of an `IntegerList`, shape (n_items,)."""
    check_types(values, {int}, name, "send integers of 64 bits")
    integers = np.empty(len(values), dtype=np.int64)
    try:
        for start, part in _slice(values):
            integers[start : start + len(part)] = part
    except OverflowError as error:
        position, value = next((n, value) for n, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise InvalidRequest(f"{name}[{position}] is {str(value)[:60]}; send integers of 64 bits") from error
    return integers


def to_bits(values: list[Any], name: str) -> NDArray[np.bool_]:
    """Convert the items of a `BitList`, shape (n_items,)."""
    bits = np.empty(len(values), dtype=np.bool_)
    for start, part in _slice(values):
        if not (set(map(type, part)) <= {int, bool, float} and set(part) <= {0, 1}):
            raise InvalidRequest(f"{name} holds values other than 0 and 1 (or true and false); give one bit per sample")
        bits[start : start + len(part)] = part
    return bits


def _slice(values: list[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield parts of a list with their starts, between which other threads have their turn."""
    for start in range(0, len(values), _SLICE):
        yield start, values[start : start + _SLICE]


def check_content_type(request: Request, allowed: tuple[str, ...], default: str) -> str:
    """Return the content type of a request without its parameters, or `default` if the header is absent."""
    content_type = request.headers.get("content-type", default).partition(";")[0].strip().lower()
    if content_type not in allowed:
        raise UnsupportedMediaType(
            f"content type {content_type!r} is not read here; send {' or '.join(allowed)} "
            f"(curl: -H 'Content-Type: {default}')"
        )
    return content_type


class RequestBody:
    """The decompressed body of a request. It is received only as far as it is read.

    The Content-Digest header is checked when the end of the body is reached.

    Parameters
    ----------
    request
        The request, whose body has not been read yet.
    detect_coding
        Whether a body without Content-Encoding is decompressed if it begins as gzip or zstd do. Bitmaps may begin so.
    """

    def __init__(self, request: Request, detect_coding: bool = False) -> None:
        self._stream = codings.peek(request.stream()) if detect_coding else request.stream()
        self._detect_coding = detect_coding
        coding = request.headers.get("content-encoding")
        self._inflater = None if coding is None else codings.make_inflater(coding.strip().lower())
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
        """
        if self._n_buffered <= limit:
            async for chunk in self._inflated:
                self._buffer.append(chunk)
                self._n_buffered += len(chunk)
                if self._n_buffered > UNACCOUNTED_BYTES:
                    take_memory_now(_BODY_COPIES * len(chunk))
                if self._n_buffered > limit:
                    break
        self._buffer = [b"".join(self._buffer)]
        return self._buffer[0][: limit + 1]

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the decompressed body in chunks, without keeping them."""
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
                await sleep(0)  # a chunk may inflate a thousandfold, and other requests have their turn meanwhile
        if self._inflater is not None:
            self._inflater.end()
        if self._digest is not None:
            _check_digest(self._digest, digest.digest())
            self.sha256 = digest.hexdigest() if self._inflater is None else None


async def read_body(
    request: Request, limit: int, remedy: str, name: str = "body", detect_coding: bool = False
) -> bytes:
    """Return the decompressed body of a request.

    Parameters
    ----------
    request
        The request.
    limit
        Most bytes of the body.
    remedy, name
        End of the error message for a body that is too long, and what it calls the body.
    detect_coding
        As for `RequestBody`.
    """
    body = await RequestBody(request, detect_coding).read_prefix(limit)
    if len(body) > limit:
        raise BodyTooLarge(f"the {name} has more than {limit} bytes, which is the limit; {remedy}")
    return body


async def stream_body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the decompressed body of a request in chunks."""
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
    """
    limit = count * bitmap.n_bytes(n_samples)
    body = await RequestBody(request).read_prefix(limit)
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
    """
    body = await read_json_bytes(request, limit, remedy)
    return await offload(len(body), lambda: parse_json(body, model))


async def read_json_bytes(request: Request, limit: int, remedy: str = JSON_REMEDY) -> bytes:
    """Return a JSON body without parsing it.

    Parsing blocks all threads, so `limit` must be low enough for that. `remedy` ends the error message.
    """
    body = await read_body(request, limit, remedy, "JSON", detect_coding=True)
    if len(body) > UNACCOUNTED_BYTES:
        take_memory_now(_JSON_COPIES * len(body))
    return body


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form that are not empty, each with its first value."""
    check_content_type(request, (media_types.FORM,), media_types.FORM)
    body = (await read_json_bytes(request, _MAX_FORM_BYTES)).decode(errors="replace")
    return {name: values[0] for name, values in parse_qs(body).items()}


def parse_json(body: bytes, model: type[Model]) -> Model:
    """Parse a JSON body and validate it with a pydantic model. An empty body counts as ``{}``."""
    check_json_size(body)
    # Twice as fast as pydantic's own parser, and other threads have a turn between parsing and validation.
    document = _load_json(body.removeprefix(codecs.BOM_UTF8) or b"{}")
    try:
        return model.model_validate(document)
    except ValidationError as error:
        entries = error.errors(include_url=False)[:_MAX_ERRORS]
        raise RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in entries]) from error


def check_json_size(body: bytes) -> None:
    """Check that a JSON body has few enough values, and among them lists, objects and strings, before it is parsed.

    Their characters in strings count too: no text that a request may hold has many of them.
    """
    n_values = body.count(b",") + 1
    if n_values > MAX_LISTED:
        raise InvalidRequest(
            f"the JSON has {n_values} values, at most {MAX_LISTED} are read; send bitmaps or npy in their place"
        )
    n_nodes = body.count(b"[") + body.count(b"{") + body.count(b'"') // 2
    if n_nodes > _MAX_NODES:
        raise InvalidRequest(
            f"the JSON has {n_nodes} lists, objects and strings, at most {_MAX_NODES} are read; send longer lists, or "
            "bitmaps, npy or a log in their place"
        )


def _load_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}; send valid JSON") from error


class DocumentRoute(APIRoute):
    """Route whose JSON body is a declared parameter: its size is checked before FastAPI parses it.

    A long one is parsed here, in a thread.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that handles a request."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_checked(request: Request) -> Response:
            body = await request.body()
            check_json_size(body)
            if len(body) > _LONG_DOCUMENT and media_types.JSON in request.headers.get("content-type", ""):
                request._json = await to_thread.run_sync(_load_json, body)  # where FastAPI looks for it
            return await handle(request)

        return handle_checked


def decode_bitmap(text: str, n_samples: int, name: str) -> Bitmap:
    """Decode the bitmap of `n_samples` samples that a text holds in base64. Error messages call it `name`."""
    starts = range(0, len(text), _BASE64_PIECE)
    try:
        parts = [base64.b64decode(text[start : start + _BASE64_PIECE], validate=True) for start in starts]
        if any(len(part) * 4 != _BASE64_PIECE * 3 for part in parts[:-1]):
            raise ValueError("padding before the end")
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            f"{name} is not base64 ({error}); encode the bitmap's bytes with standard base64"
        ) from error
    return bitmap.validate(b"".join(parts), n_samples, name)


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
