"""Requests of the client: paths, headers and bodies, without doing any I/O except reading files."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias
from urllib.parse import quote

import anyio.to_thread

from mild_client.arguments import to_integer, to_json
from mild_core.errors import ParameterError
from mild_core.types import validate_run_id

JSON = "application/json"
BITMAP = "application/octet-stream"
NPY = "application/x-npy"
NDJSON = "application/x-ndjson"

_CHUNK_BYTES = 1024 * 1024

JsonObject: TypeAlias = dict[str, Any]
"""A JSON object with the names of the HTTP API."""


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A request body that is read from a file: `prefix`, then the bytes from `start` up to `stop`.

    The body is read in chunks on every attempt, and never held in memory as a whole.
    """

    path: Path
    start: int
    stop: int
    prefix: bytes = b""

    def build_headers(self) -> dict[str, str]:
        """Read the whole body and return the headers with its length and digest."""
        n_bytes = len(self.prefix) + self.stop - self.start
        return {"Content-Length": str(n_bytes), **build_digest_header(self.iter_chunks())}

    def iter_chunks(self) -> Iterator[bytes]:
        """Iterate over the body in chunks of at most 1 MiB."""
        yield self.prefix
        n_left = self.stop - self.start
        with self.path.open("rb") as file:
            file.seek(self.start)
            while n_left and (chunk := file.read(min(n_left, _CHUNK_BYTES))):
                n_left -= len(chunk)
                yield chunk

    async def aiter_chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body in chunks of at most 1 MiB, each read in a worker thread."""
        chunks = self.iter_chunks()
        while (chunk := await anyio.to_thread.run_sync(next, chunks, None)) is not None:
            yield chunk


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, which may be repeated because it is idempotent.

    Attributes
    ----------
    method, path
        HTTP method, and the path below the service's address.
    params
        Query parameters.
    headers
        Headers in addition to those of every request.
    content
        The body; None without a body.
    limit
        Name of the service's limit for the body.
    read_timeout
        Seconds that the response may take; None takes the timeout of the HTTP client.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | FileSlice | None = None
    limit: str = "max_body_bytes"
    read_timeout: float | None = None

    @classmethod
    def with_body(
        cls, method: str, path: str, content: bytes, media_type: str, attempt: int | None = None, **fields: Any
    ) -> Self:
        """Create a request with a body; `fields` are further attributes."""
        headers = {"Content-Type": media_type, **build_attempt_header(attempt)}
        return cls(method, path, headers=headers, content=content, **fields)

    @classmethod
    def with_json(cls, method: str, path: str, body: object, attempt: int | None = None, **fields: Any) -> Self:
        """Create a request with a JSON body; `fields` are further attributes."""
        try:
            content = json.dumps(to_json(body), separators=(",", ":"), allow_nan=False).encode()
        except ValueError as error:
            raise ParameterError(
                f"the body of {method} {path} cannot be sent ({error}); give finite numbers, texts, lists or mappings"
            ) from error
        return cls.with_body(method, path, content, JSON, attempt, **fields)


def drop_none(**values: Any) -> JsonObject:
    """Return the values that are not None, by name."""
    return {name: value for name, value in values.items() if value is not None}


def build_digest_header(body: Iterable[bytes]) -> dict[str, str]:
    """Return the header with the SHA-256 of a body (RFC 9530), which the service verifies."""
    sha256 = hashlib.sha256()
    for chunk in body:
        sha256.update(chunk)
    return {"Content-Digest": f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"}


def build_attempt_header(attempt: int | None) -> dict[str, str]:
    """Return the header with the number of the writer; empty for None, which stands for the current writer."""
    return {} if attempt is None else {"Mild-Attempt": str(to_integer(attempt, "attempt"))}


def build_run_path(run_id: str, *parts: str | int) -> str:
    """Return the path ``/runs/{run_id}/{parts}``, each part percent-encoded."""
    return "/".join(("/runs", validate_run_id(run_id), *(quote(str(part), safe="") for part in parts)))


def build_round_path(run_id: str, round: int, *parts: str | int) -> str:
    """Return the path ``/runs/{run_id}/rounds/{round}/{parts}``, each part percent-encoded."""
    return build_run_path(run_id, "rounds", to_integer(round, "round"), *parts)
