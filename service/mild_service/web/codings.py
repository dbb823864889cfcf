"""Content codings: request bodies are decompressed, responses compressed, with gzip (RFC 1952) or zstd (RFC 8878)."""

import zlib
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Literal, TypeAlias

import zstandard

from mild_service.errors import MalformedBody, UnsupportedMediaType

Coding: TypeAlias = Literal["identity", "zstd", "gzip"]

CODINGS: tuple[Coding, ...] = ("zstd", "gzip", "identity")
"""Supported codings, in order of preference where the client has none."""

_PIECE_BYTES = 1024 * 1024
"""Bytes that are decompressed before they are passed on."""
_SLICE_BYTES = 256
"""Most bytes that are decompressed at once: of gzip they become 264 KB at most, of zstd 8 MiB (4 bytes: 128 KiB)."""
_ZSTD_WINDOW = 8 * 1024 * 1024
"""Most memory that a frame may require (RFC 9659)."""
_LEVELS = {"gzip": 1, "zstd": 3}
"""Compression levels; higher ones make sets and pages hardly smaller."""


def make_inflater(coding: str) -> "Inflater | None":
    """Return an object that decompresses one body; None for the coding ``identity``."""
    if coding not in CODINGS:
        raise UnsupportedMediaType(f"content coding {coding!r} is not read; send gzip, zstd, or none")
    return None if coding == "identity" else Inflater(coding)


_MAGIC: dict[bytes, Coding] = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed data; no text begins so, nor does Arrow or Parquet."""


def detect_coding(start: bytes) -> Coding:
    """Return the coding of a body by its first bytes."""
    return next((coding for magic, coding in _MAGIC.items() if start.startswith(magic)), "identity")


async def peek(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks of `stream`; the first one is long enough for `detect_coding`, unless the body is shorter."""
    start, n_bytes = b"", max(map(len, _MAGIC))
    async for chunk in stream:
        start += chunk
        if len(start) >= n_bytes:
            break
    if start:
        yield start
    async for chunk in stream:
        yield chunk


def compress(body: bytes, coding: Coding) -> bytes:
    """Return a body compressed with a content coding."""
    if coding == "zstd":
        return zstandard.ZstdCompressor(level=_LEVELS["zstd"]).compress(body)
    return b"".join(compress_pieces(iter((body,)), coding))


def compress_pieces(pieces: Iterator[bytes], coding: Coding) -> Iterator[bytes]:
    """Yield the pieces of a body, none of them empty, compressed with a content coding."""
    if coding == "identity":
        yield from filter(None, pieces)
        return
    zstd = zstandard.ZstdCompressor(level=_LEVELS["zstd"])
    compressor = zstd.compressobj() if coding == "zstd" else zlib.compressobj(_LEVELS["gzip"], wbits=31)
    for piece in pieces:
        if compressed := compressor.compress(piece):
            yield compressed
    yield compressor.flush()


class Inflater:
    """Decompresses a body chunk by chunk; both methods raise `MalformedBody` if it is not validly compressed.

    A gzip stream has any number of members, as bgzip writes them, and zeros may pad it after a member; a Zstandard
    stream has any number of frames.
    """

    def __init__(self, coding: Literal["zstd", "gzip"]) -> None:
        zstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._coding = coding
        self._begin_frame = zstd.decompressobj if coding == "zstd" else partial(zlib.decompressobj, wbits=31)
        self._frame = self._begin_frame()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes of `chunk`, in parts of bounded size."""
        parts, n_bytes = [], 0
        for start in range(0, len(chunk), _SLICE_BYTES):
            for part in self._decompress(chunk[start : start + _SLICE_BYTES]):
                parts.append(part)
                n_bytes += len(part)
            if n_bytes >= _PIECE_BYTES:
                yield b"".join(parts)
                parts, n_bytes = [], 0
        yield b"".join(parts)

    def end(self) -> None:
        """Check that the compressed stream is complete."""
        if not self._frame.eof:
            raise MalformedBody(
                f"the body is not one complete {self._coding} stream; compress it again, or send it uncompressed"
            )

    def _decompress(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes of `data`, in which members or frames may end and begin."""
        try:
            while data:
                if self._frame.eof:
                    data = data.lstrip(b"\0") if self._coding == "gzip" else data
                    if not data:
                        return
                    self._frame = self._begin_frame()
                yield self._frame.decompress(data)
                data = self._frame.unused_data
        except (zlib.error, zstandard.ZstdError) as error:
            raise MalformedBody(
                f"the body cannot be decompressed ({self._coding}: {error}); compress it again, or send it uncompressed"
            ) from error
