"""Content codings, both ways: bodies inflated within a bound, answers deflated; gzip (RFC 1952) and zstd (RFC 8878)."""

import zlib
from collections.abc import Iterator
from typing import Literal, Protocol, TypeAlias

import zstandard

from mild_service.errors import MalformedBody, UnsupportedMediaType

Coding: TypeAlias = Literal["identity", "zstd", "gzip"]

CODINGS: tuple[Coding, ...] = ("zstd", "gzip", "identity")
"""What is read and written; where the caller has no preference, the first is taken."""

_PIECE_BYTES = 1024 * 1024
"""Most bytes that gzip inflates at once."""
_ZSTD_SLICE = 256
"""Most bytes that zstd is fed at once: 4 of them may stand for 128 KiB, so 8 MiB come of it at most."""
_ZSTD_WINDOW = 8 * 1024 * 1024
"""Most memory that a frame may ask for (RFC 9659)."""
_LEVELS = {"gzip": 1, "zstd": 3}
"""Sets and pages compress little better with more work."""


class Inflater(Protocol):
    """Takes a coded body piece by piece. Both may raise `MalformedBody`."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What `piece` inflates to, in parts of bounded size."""

    def end(self) -> None:
        """Check that the body has ended where its coding does."""


def inflater(coding: str) -> Inflater | None:
    """An inflater of one body; None where there is nothing to do.

    Raises
    ------
    UnsupportedMediaType
        If the coding is unknown.
    """
    if coding not in CODINGS:
        raise UnsupportedMediaType(f"content coding {coding!r} is not read; send gzip, zstd, or none")
    return {"identity": lambda: None, "gzip": _Gzip, "zstd": _Zstd}[coding]()


def deflate(body: bytes, coding: Coding) -> bytes:
    """Put a coding on a body."""
    if coding == "zstd":
        return zstandard.ZstdCompressor(level=_LEVELS["zstd"]).compress(body)
    if coding == "gzip":
        deflater = zlib.compressobj(_LEVELS["gzip"], wbits=31)
        return deflater.compress(body) + deflater.flush()
    return body


class _Gzip:
    """Gzip, of one member."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        try:
            while piece and not self._inner.eof:
                yield self._inner.decompress(piece, _PIECE_BYTES)
                piece = self._inner.unconsumed_tail or self._inner.unused_data
        except zlib.error as error:
            raise _broken("gzip", error) from error
        if piece:
            raise MalformedBody("something follows the gzip stream; compress the body again, or send it uncompressed")

    def end(self) -> None:
        if not self._inner.eof:
            raise _cut_off("gzip")


class _Zstd:
    """Zstandard, of any number of frames."""

    def __init__(self) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._inner = self._decompressor.decompressobj()
        self._within = True

    def feed(self, piece: bytes) -> Iterator[bytes]:
        parts, n_bytes = [], 0
        for start in range(0, len(piece), _ZSTD_SLICE):
            part = self._inflated(piece[start : start + _ZSTD_SLICE])
            parts.append(part)
            n_bytes += len(part)
            if n_bytes >= _PIECE_BYTES:
                yield b"".join(parts)
                parts, n_bytes = [], 0
        yield b"".join(parts)

    def end(self) -> None:
        if self._within:
            raise _cut_off("zstd")

    def _inflated(self, data: bytes) -> bytes:
        out = []
        try:
            while data:
                if not self._within:
                    self._inner, self._within = self._decompressor.decompressobj(), True
                out.append(self._inner.decompress(data))
                data = b""
                if self._inner.eof:
                    data, self._within = self._inner.unused_data, False
        except zstandard.ZstdError as error:
            raise _broken("zstd", error) from error
        return b"".join(out)


def _broken(coding: str, error: Exception) -> MalformedBody:
    return MalformedBody(f"the body does not inflate ({coding}: {error}); compress it again, or send it uncompressed")


def _cut_off(coding: str) -> MalformedBody:
    return MalformedBody(f"the body is not one whole {coding} stream; compress it again, or send it uncompressed")
