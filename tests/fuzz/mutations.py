"""What can be wrong with a request: its bytes, its coding, its headers, its address."""

import base64
import gzip
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import zstandard

Bytes = Callable[[np.random.Generator, bytes], bytes]

_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?")
_NUMBERS = (b"1e400", b"-1", b"NaN", b"Infinity", b"-0", b"0.5", b"1" * 400, b"18446744073709551616", b"2147483648",
            b"9223372036854775808", b"true", b"null", b'"1"', b"[]", b"{}", b"0x10", b"1_0", b"")  # fmt: skip
_TEXTS = (b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"\r", b"\n\n", b'"', b"\\u0000", b"\\ud800", b"\xef\xbb\xbf", b",",
          b"\xf0\x9f\x92\xa9" * 300)  # fmt: skip
_TYPES = ("application/json", "application/octet-stream", "application/x-npy", "text/csv", "text/plain", "text/html",
          "application/x-ndjson", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet",
          "application/x-cartography+ndjson", "application/json; charset=utf-16", "", "*/*", "a" * 3000,
          "multipart/form-data", "application/x-www-form-urlencoded")  # fmt: skip
_HEADERS = (("Mild-Attempt", "0"), ("Mild-Attempt", "2"), ("Mild-Attempt", "-1"), ("Mild-Attempt", "9" * 30),
            ("Mild-Attempt", "x"), ("Content-Digest", "sha-256=:AAAA:"), ("Content-Digest", "sha-256=:%%:"),
            ("Content-Digest", "md5=:AAAA:"), ("Accept", "text/html"), ("Accept", "*/*;q=x"), ("Accept", "," * 500),
            ("Accept-Encoding", "br;q=1, *;q=0"), ("X-Request-ID", "\xff" * 50), ("Expect", "100-continue"),
            ("If-None-Match", "*"), ("Content-Encoding", "br"), ("Content-Encoding", "gzip, gzip"),
            ("Authorization", "Bearer wrong"), ("Origin", "https://evil.example"), ("Cookie", "a=\x80"),
            ("Range", "bytes=0-1"), ("Content-Length", "1"))  # fmt: skip
_QUERIES = ("replace=true", "replace=maybe", "complete=true", "complete=", "allow_gaps=true", "of=3", "of=2", "of=0",
            "of=99999999999999999999", "num_samples=203", "num_samples=0", "num_samples=-1", "num_samples=1e9", "p=nan",
            "metric=x", "threshold=value", "unknown=1", "%ff=%00", "replace=true&replace=false", "fraction=1e308",
            "&&&=", "complete=true&Mild-Attempt=1")  # fmt: skip
_IDS = ("open", "empty", "finished", "members", "logs", "shards", "absent", "a" * 65, "..", "%2e%2e", "%00", "%ff",
        "-a", "a%2Fb", "a;b", "ü")  # fmt: skip
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, 0x15, 0x16, 0x18, 0x19, 0x1C, 0x2C)
"""Bytes where numbers end, and the heads of Thrift's fields."""
_LENGTHS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_BINARY = ("parquet", "arrow", "npy")
_PLACES = (
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "-1",
    "255",
    "256",
    "4096",
    "99999999999999999999",
    "x",
    "1.5",
    "%20",
    "٣",
)


@dataclass(frozen=True)
class Request:
    """One request to be sent."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    cut_off: int | None = None


def _flip(rng: np.random.Generator, body: bytes) -> bytes:
    out = bytearray(body)
    for _ in range(int(rng.integers(1, 9))):
        if out:
            out[rng.integers(len(out))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _place(rng: np.random.Generator, body: bytes) -> int:
    return int(rng.integers(len(body) + 1))


def _truncate(rng: np.random.Generator, body: bytes) -> bytes:
    return body[: _place(rng, body)]


def _drop(rng: np.random.Generator, body: bytes) -> bytes:
    start = _place(rng, body)
    return body[:start] + body[start + int(rng.integers(1, 20)) :]


def _repeat(rng: np.random.Generator, body: bytes) -> bytes:
    start, stop = sorted((_place(rng, body), _place(rng, body)))
    return body[:stop] + body[start:stop] * int(rng.integers(1, 4)) + body[stop:]


def _insert(rng: np.random.Generator, body: bytes) -> bytes:
    at = _place(rng, body)
    return body[:at] + rng.bytes(int(rng.integers(1, 30))) + body[at:]


def _text(rng: np.random.Generator, body: bytes) -> bytes:
    at = _place(rng, body)
    return body[:at] + _TEXTS[rng.integers(len(_TEXTS))] + body[at:]


def _number(rng: np.random.Generator, body: bytes) -> bytes:
    found = list(_NUMBER.finditer(body))
    if not found:
        return _insert(rng, body)
    hit = found[rng.integers(len(found))]
    return body[: hit.start()] + _NUMBERS[rng.integers(len(_NUMBERS))] + body[hit.end() :]


def _nest(rng: np.random.Generator, body: bytes) -> bytes:
    depth, at = int(rng.integers(2, 30_000)), _place(rng, body)
    opening, closing = ((b"[", b"]"), (b'{"a":', b"}"))[rng.integers(2)]
    return body[:at] + opening * depth + closing * (depth if rng.random() < 0.5 else 0) + body[at:]


def _noise(rng: np.random.Generator, body: bytes) -> bytes:
    return rng.bytes(int(rng.integers(0, 2 * len(body) + 2)))


def _structure(rng: np.random.Generator, body: bytes) -> bytes:
    """A few bytes of what says where the rest lies: a Parquet file's footer, an Arrow stream's head, or npy's."""
    n_bytes, length = int.from_bytes(body[-8:-4], "little"), len(body)
    start, end = (length - 8 - n_bytes, length) if 0 < n_bytes < length - 8 else (0, min(length, 400))
    out = bytearray(body)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(start, end + 1))
        kind = rng.integers(5)
        if kind == 0:
            out[at : at + 1] = bytes([_EDGES[rng.integers(len(_EDGES))]])
        elif kind == 1:
            out[at : at + 1] = bytes([out[at] ^ 1 << int(rng.integers(8))]) if at < len(out) else b""
        elif kind == 2:  # a length, or a place
            width = (2, 4, 8)[rng.integers(3)]
            out[at : at + width] = _LENGTHS[rng.integers(len(_LENGTHS))].to_bytes(8, "little")[:width]
        elif kind == 3:  # two parts in each other's place
            other = int(rng.integers(start, end + 1))
            width = int(rng.integers(1, 12))
            out[at : at + width], out[other : other + width] = out[other : other + width], out[at : at + width]
        else:
            other = int(rng.integers(start, end + 1))
            out[at:at] = out[other : other + int(rng.integers(1, 40))]
    return bytes(out)


_BYTES: tuple[Bytes, ...] = (_flip, _truncate, _drop, _repeat, _insert, _text, _number, _number, _nest, _noise)


def _coded(rng: np.random.Generator, request: Request) -> Request:
    """A coding on top, right or broken; now and then one that inflates to far more than it says."""
    coding, body = ("gzip", "zstd")[rng.integers(2)], request.body
    if rng.random() < 0.02:
        body = bytes(48 * 1024 * 1024)
    coded = gzip.compress(body, 1) if coding == "gzip" else zstandard.ZstdCompressor(level=1).compress(body)
    if rng.random() < 0.6:
        coded = _BYTES[rng.integers(4)](rng, coded) if rng.random() < 0.8 else body
    return replace(request, headers=(*request.headers, ("Content-Encoding", coding)), body=coded)


def _typed(rng: np.random.Generator, request: Request) -> Request:
    kept = tuple(header for header in request.headers if header[0] != "Content-Type")
    given = (("Content-Type", _TYPES[rng.integers(len(_TYPES))]),) if rng.random() < 0.9 else ()
    return replace(request, headers=(*kept, *given))


def _headed(rng: np.random.Generator, request: Request) -> Request:
    return replace(request, headers=(*request.headers, _HEADERS[rng.integers(len(_HEADERS))]))


def _digested(_: np.random.Generator, request: Request) -> Request:
    digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
    return replace(request, headers=(*request.headers, ("Content-Digest", f"sha-256=:{digest}:")))


def _asked(rng: np.random.Generator, request: Request) -> Request:
    return replace(request, query=_QUERIES[rng.integers(len(_QUERIES))])


def _addressed(rng: np.random.Generator, request: Request) -> Request:
    parts = request.path.split("/")
    for position in range(2, len(parts)):
        if rng.random() < 0.4:
            choices = _IDS if position == 2 else _PLACES
            parts[position] = choices[rng.integers(len(choices))]
    return replace(request, path="/".join(parts))


def _cut(rng: np.random.Generator, request: Request) -> Request:
    return replace(request, cut_off=int(rng.integers(len(request.body)))) if request.body else request


_REQUESTS = (_coded, _coded, _typed, _headed, _digested, _asked, _addressed, _cut)


def mutated(rng: np.random.Generator, request: Request) -> Request:
    """A request with one to three things wrong, most often with its body; now and then they cancel out."""
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.65:
            binary = any(name in dict(request.headers).get("Content-Type", "") for name in _BINARY)
            change = _structure if binary and rng.random() < 0.5 else _BYTES[rng.integers(len(_BYTES))]
            request = replace(request, body=change(rng, request.body))
        else:
            request = _REQUESTS[rng.integers(len(_REQUESTS))](rng, request)
    return request
