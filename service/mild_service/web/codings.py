"""Content codings: request bodies are decompressed, responses compressed, with gzip (RFC 1952) or zstd (RFC 8878)."""

import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Literal, Protocol, TypeAlias

import zstandard

from mild_service.errors import MalformedBody, UnsupportedMediaType

Coding: TypeAlias = Literal["identity", "zstd", "gzip"]

CODINGS: tuple[Coding, ...] = ("zstd", "gzip", "identity")
"""Supported codings, in order of preference where the client has none."""

_PIECE_BYTES = 1024 * 1024
"""Most bytes that gzip decompresses at once."""
_ZSTD_SLICE = 256
"""Most bytes that are given to zstd at once: 4 bytes may expand to 128 KiB, so at most 8 MiB result."""
_ZSTD_WINDOW = 8 * 1024 * 1024
"""Most memory that a frame may require (RFC 9659)."""
_LEVELS = {"gzip": 1, "zstd": 3}
"""Compression levels; higher ones make sets and pages hardly smaller."""


class Inflater(Protocol):
    """Decompresses a body chunk by chunk. Both methods raise `MalformedBody` if it is not validly compressed."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes of `chunk`, in parts of bounded size."""

    def end(self) -> None:
        """Check that the compressed stream is complete."""


def make_inflater(coding: str) -> Inflater | None:
    """Return an object that decompresses one body; None for the coding ``identity``."""
    if coding not in CODINGS:
        raise UnsupportedMediaType(f"content coding {coding!r} is not read; send gzip, zstd, or none")
    return {"identity": lambda: None, "gzip": _GzipInflater, "zstd": _ZstdInflater}[coding]()


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


class _GzipInflater:
    """Decompresses a gzip stream of any number of members, as bgzip writes; zeros may pad it after a member."""

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(wbits=31)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while chunk:
                if self._decompressor.eof:
                    chunk = chunk.lstrip(b"\0")
                    if not chunk:
                        return
                    self._decompressor = zlib.decompressobj(wbits=31)
                yield self._decompressor.decompress(chunk, _PIECE_BYTES)
                chunk = self._decompressor.unconsumed_tail or self._decompressor.unused_data
        except zlib.error as error:
            raise _decompression_error("gzip", error) from error

    def end(self) -> None:
        if not self._decompressor.eof:
            raise _truncated_error("gzip")


class _ZstdInflater:
    """Decompresses a Zstandard stream of any number of frames."""

    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._decompressor = self._context.decompressobj()
        self._in_frame = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        parts, n_bytes = [], 0
        for start in range(0, len(chunk), _ZSTD_SLICE):
            part = self._decompress(chunk[start : start + _ZSTD_SLICE])
            parts.append(part)
            n_bytes += len(part)
            if n_bytes >= _PIECE_BYTES:
                yield b"".join(parts)
                parts, n_bytes = [], 0
        yield b"".join(parts)

    def end(self) -> None:
        if self._in_frame:
            raise _truncated_error("zstd")

    def _decompress(self, data: bytes) -> bytes:
        """Decompress `data`, in which frames may end and begin."""
        parts = []
        try:
            while data:
                if not self._in_frame:
                    self._decompressor, self._in_frame = self._context.decompressobj(), True
                parts.append(self._decompressor.decompress(data))
                data = b""
                if self._decompressor.eof:
                    data, self._in_frame = self._decompressor.unused_data, False
        except zstandard.ZstdError as error:
            raise _decompression_error("zstd", error) from error
        return b"".join(parts)


def _decompression_error(coding: str, error: Exception) -> MalformedBody:
    return MalformedBody(
        f"the body cannot be decompressed ({coding}: {error}); compress it again, or send it uncompressed"
    )


def _truncated_error(coding: str) -> MalformedBody:
    return MalformedBody(f"the body is not one complete {coding} stream; compress it again, or send it uncompressed")
