"""A part of a file as a body: streamed, read afresh by every try, and never held as a whole."""

import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

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
