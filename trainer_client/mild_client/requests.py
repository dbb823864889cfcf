"""A call as a flow: a generator that yields requests, is sent their answers, and returns what the caller gets.

So each call is written once, without any I/O, and the blocking and the asynchronous client are two small drivers of
the same flows (`drivers`); httpx describes its authentication in the same way.

A part of a file as a body: streamed, read afresh by every try, and never held as a whole.
"""

import base64
import functools
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeAlias, TypeVar

import anyio.to_thread
import httpx

_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes `start` to `stop` of a file, behind a `head` of their own."""

    path: Path
    start: int
    stop: int
    head: bytes = b""

    @property
    def n_bytes(self) -> int:
        """Length of the body."""
        return len(self.head) + self.stop - self.start

    def digest(self) -> bytes:
        """SHA-256 of the body; reads all of it."""
        received = hashlib.sha256()
        for piece in self.pieces():
            received.update(piece)
        return received.digest()

    def headers(self) -> dict[str, str]:
        """The body's length and digest; reads all of it."""
        return {"Content-Length": str(self.n_bytes), "Content-Digest": content_digest(self.digest())}

    def pieces(self) -> Iterator[bytes]:
        """The body, piece by piece."""
        yield self.head
        left = self.stop - self.start
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left and (piece := file.read(min(left, _PIECE_BYTES))):
                left -= len(piece)
                yield piece

    async def async_pieces(self) -> AsyncIterator[bytes]:
        """The body, piece by piece, each read in a worker thread."""
        pieces = self.pieces()
        while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
            yield piece


def content_digest(sha256: bytes) -> str:
    """The header's value (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


T = TypeVar("T")

JSON = "application/json"
BITMAP = "application/octet-stream"
NPY = "application/x-npy"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Whatever it asks for may be asked for again: that is what lets the drivers repeat it.

    Attributes
    ----------
    method, path
        What to do, and to which route below the service's address.
    params
        Query parameters.
    headers
        Beside those that every request has.
    content
        The body; None: no body.
    patience
        Seconds that the answer may take; None: as long as the client waits for any.
    """

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | FileSlice | None = None
    patience: float | None = None

    @classmethod
    def of_body(cls, method: str, path: str, content: bytes, media_type: str, attempt: int | None = None) -> Self:
        """A request with a body and its digest (RFC 9530), which the service checks, written by `attempt`."""
        digest = content_digest(hashlib.sha256(content).digest())
        headers = {"Content-Type": media_type, "Content-Digest": digest, **attempt_header(attempt)}
        return cls(method, path, headers=headers, content=content)

    @classmethod
    def of_json(cls, method: str, path: str, body: object, attempt: int | None = None) -> Self:
        """A request with a JSON body."""
        content = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        return cls.of_body(method, path, content, JSON, attempt)


Flow: TypeAlias = Generator[Request, httpx.Response, T]
"""Yields requests and is sent answers that succeed; an error is thrown in where it yielded."""


class Steps(Generic[T]):
    """A flow, a request at a time, for whoever sends them: it ends with `request` None, and then has its `value`."""

    value: T

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self._step: Callable[[], Request] = functools.partial(next, flow)

    def request(self) -> Request | None:
        """What to send now; None at the end."""
        try:
            return self._step()
        except StopIteration as end:
            self.value = end.value
            return None

    def answered(self, response: httpx.Response) -> None:
        """The request had this answer."""
        self._step = functools.partial(self._flow.send, response)

    def failed(self, error: Exception) -> None:
        """The request had none that succeeds."""
        self._step = functools.partial(self._flow.throw, error)


Answer: TypeAlias = dict[str, Any]
"""A JSON object in the wire's names."""


def attempt_header(attempt: int | None) -> dict[str, str]:
    """The header that says which attempt writes; none for the current one."""
    return {} if attempt is None else {"Mild-Attempt": str(attempt)}
