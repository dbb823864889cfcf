"""Encoding of records and bitmaps in Redis.

A bitmap is split into chunks of 128 KiB (1,048,576 samples), which limits the size of a reply. The epochs of one chunk
are in one hash, so that a round is read chunk by chunk with few commands, and a large run is spread over a cluster.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import orjson
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.draw import DrawChoice
from mild_core.types import RunSpec, SelectionOptions
from mild_service.errors import StoreDamaged, StoreNewer
from mild_service.models import (
    AnnotationRef,
    Epoch,
    EpochKind,
    Precondition,
    Round,
    Run,
    SampleIdsRef,
    SetRef,
    ShardRef,
)

Fields = Mapping[bytes, bytes]
"""Fields of a Redis hash and their values."""

_RECORD_FIELDS = ("run_id", "tags", "ttl_seconds")
"""Fields of a `RunSpec` that are stored separately from its JSON."""
_CHECKSUM = "checksum"
"""Field of the JSON of a spec: the XXH3 of the JSON without it."""


def encode_spec(spec: RunSpec) -> bytes:
    """Encode a run's spec as JSON, without the fields that are stored separately."""
    values = {name: value for name, value in spec.as_json().items() if name not in _RECORD_FIELDS}
    return orjson.dumps(values | {_CHECKSUM: xxh3_64_hexdigest(orjson.dumps(values))})


@lru_cache(maxsize=1024)
def decode_spec(run_id: str, value: bytes) -> RunSpec:
    """Decode the JSON of a run's spec; tags and time to live, which are stored separately, have their defaults."""
    try:
        values = orjson.loads(value)
        if values.pop(_CHECKSUM, "") != xxh3_64_hexdigest(orjson.dumps(values)):
            raise ValueError("its checksum does not match")
        return RunSpec.from_json({"run_id": run_id, **values})
    except (ValueError, AttributeError) as error:
        raise StoreDamaged(
            f"the record of run {run_id!r} is damaged in the store (its config); restore a backup of the store, or "
            "delete the run"
        ) from error
    except TypeError as error:
        raise StoreNewer(f"a run was opened by a later version of the service ({error}); upgrade this one") from error


@contextmanager
def _report_damage(record: str) -> Iterator[None]:
    """Context manager that raises `StoreDamaged` for a record that cannot be decoded."""
    try:
        yield
    except (KeyError, ValueError) as error:
        raise StoreDamaged(
            f"{record} is damaged in the store ({error}); restore a backup of the store, or delete the run"
        ) from error


def decode_run(run_id: str, fields: Fields) -> Run:
    """Decode the record of a run."""
    with _report_damage(f"the record of run {run_id!r}"):
        round_, n_finished = fields[b"round"], fields[b"n_finished"]
        if round_ != n_finished:  # the latest round would be another one
            raise ValueError(f"its open round is {int(round_)}, and {int(n_finished)} were finished")
        return Run(
            spec=replace(
                decode_spec(run_id, fields[b"config"]),
                tags=orjson.loads(fields[b"tags"]),
                ttl_seconds=int(fields[b"ttl"]),
            ),
            uid=fields[b"uid"].decode(),
            status=fields[b"status"].decode(),  # type: ignore[arg-type]  # written from the same literals
            attempt=int(fields[b"attempt"]),
            round=int(round_),
            created_at=int(fields[b"created"]) / 1000,
            updated_at=int(fields[b"updated"]) / 1000,
            expires_at=int(fields[b"expires"]) / 1000,
            labels=decode_annotation_ref(fields.get(b"labels")),
            audit=decode_annotation_ref(fields.get(b"audit")),
            logged_labels=decode_annotation_ref(fields.get(b"logged_labels")),
            n_events=int(fields[b"events"]),
            ids=decode_sample_ids_ref(fields.get(b"ids")),
        )


def encode_set_ref(ref: SetRef | None) -> str:
    """Encode a reference to a set of samples; None, which means all members or no planted samples, becomes empty."""
    return "" if ref is None else f"{ref.round}:{ref.digest}:{ref.n_members}"


def decode_set_ref(value: bytes) -> SetRef | None:
    """Decode a reference to a set of samples; return None, which means all members or no planted samples, if empty."""
    if not value:
        return None
    round_, digest, n_members = value.decode().split(":")
    return SetRef(int(round_), digest, int(n_members))


def encode_annotation_ref(ref: AnnotationRef | None) -> str:
    """Encode a reference to labels or to an audit; None becomes empty."""
    return (
        ""
        if ref is None
        else f"{ref.version}:{ref.digest}" + (f":{encode_draw(ref.draw).decode()}" if ref.draw else "")
    )


def decode_annotation_ref(value: bytes | None) -> AnnotationRef | None:
    """Decode a reference to labels or to an audit; return None if the record has none."""
    if value is None:
        return None
    version, digest, *draw = value.decode().split(":", 2)
    return AnnotationRef(int(version), digest, decode_draw(draw[0]) if draw else None)


def encode_draw(choice: DrawChoice) -> bytes:
    """Encode the choice that is recorded with a random draw as JSON."""
    return canonical_json(asdict(choice))


@lru_cache(maxsize=1024)
def decode_draw(value: str) -> DrawChoice:
    """Decode the choice that is recorded with a random draw."""
    fields = orjson.loads(value)
    try:
        return DrawChoice(**{**fields, "options": SelectionOptions(**fields["options"])})
    except TypeError as error:
        raise StoreNewer(f"a draw was made by a later version of the service ({error}); upgrade this one") from error


def encode_precondition(precondition: Precondition) -> str:
    """Encode a precondition as a script argument; none becomes empty.

    ``!`` means that nothing may be stored, ``*`` that any content must be stored, and digests between blanks that one
    of them must be stored.
    """
    if precondition.must_be_absent:
        return "!"
    return "" if precondition.digests is None else " ".join(sorted(precondition.digests)) or "*"


def encode_sample_ids_ref(ref: SampleIdsRef) -> str:
    """Encode a reference to external ids."""
    return f"{ref.upload}:{ref.digest}:{ref.piece_bytes}"


def decode_sample_ids_ref(value: bytes | None) -> SampleIdsRef | None:
    """Decode a reference to external ids; return None if the record has none."""
    if value is None:
        return None
    upload, digest, piece_bytes = value.decode().split(":")
    return SampleIdsRef(upload, digest, int(piece_bytes))


def encode_epoch(epoch: Epoch) -> str:
    """Encode the commit record of an epoch."""
    observed = "" if epoch.n_observed is None else epoch.n_observed
    counts = f"{epoch.planes}:{epoch.n_correct}:{observed}"
    shards = (
        ("v" if epoch.has_wrong_predictions else "")
        if epoch.n_shards is None
        else f"{epoch.n_stored_shards}/{epoch.n_shards}"
    )
    state = "partial" if epoch.partial else "committed"
    return f"{epoch.attempt}:{epoch.digest}:{counts}:{epoch.kind}:{state}:{shards}"


@lru_cache(maxsize=2**14)
def decode_epoch(number: int, value: bytes) -> Epoch:
    """Decode the commit record of an epoch. Cached, because the same records are decoded again at every read."""
    with _report_damage(f"the record of epoch {number}"):
        attempt, digest, planes, n_correct, observed, kind, state, shards = value.decode().split(":")
        if kind not in get_args(EpochKind) or state not in ("partial", "committed") or planes not in ("1", "2"):
            raise ValueError(f"it is {value!r}")
        if observed and int(n_correct) > int(observed):  # an epoch in which nothing was observed is left out
            raise ValueError(f"it has {int(n_correct)} correct samples of {int(observed)} observed ones")
        n_stored_shards, _, n_shards = shards.partition("/")
        return Epoch(
            number=number,
            attempt=int(attempt),
            digest=digest,
            planes=int(planes),
            n_correct=int(n_correct),
            n_observed=int(observed) if observed else None,
            kind=kind,  # type: ignore[arg-type]  # written from the same literals
            partial=state == "partial",
            n_shards=int(n_shards) if n_shards else None,
            n_stored_shards=int(n_stored_shards) if n_shards else None,
            has_wrong_predictions=shards == "v",
        )


def decode_shard(shard: int, value: bytes) -> ShardRef:
    """Decode the record of a shard."""
    name, digest, *_ = value.decode().split(":")
    return ShardRef(shard, name, digest)


def decode_round(number: int, fields: Fields, epochs: Fields, metrics: Fields) -> Round:
    """Decode a round from its record, the commit records of its epochs, and its metrics."""
    with _report_damage(f"the record of round {number}"):
        if (n_epochs := int(fields.get(b"n_epochs", 0))) != len(epochs):
            raise ValueError(f"it has the records of {len(epochs)} epochs, {n_epochs} were stored")
        finished = {b"finished": True, b"open": False}[fields[b"state"]]
        records = {n: decode_epoch(n, value) for n, value in sorted((int(k), v) for k, v in epochs.items())}
        return Round(
            number=number,
            finished=finished,
            version=int(fields[b"version"]),
            members=decode_set_ref(fields[b"members"]),
            epochs={n: epoch for n, epoch in records.items() if not epoch.partial},
            partial_epochs={n: epoch for n, epoch in records.items() if epoch.partial},
            metrics={n: decode_metrics(number, n, v) for n, v in sorted((int(k), v) for k, v in metrics.items())},
            opened_at=int(fields[b"opened"]) / 1000,
            finished_at=int(fields[b"finished"]) / 1000 if finished else None,
            selected=decode_set_ref(fields[b"set"]) if finished else None,
            selection=orjson.loads(fields[b"selection"]) if finished else None,
            fit=orjson.loads(fields[b"fit"]) if finished else None,
            planted=decode_set_ref(fields.get(b"planted", b"")),
        )


def encode_metrics(round_: int, epoch: int, metrics: Mapping[str, float]) -> bytes:
    """Encode the metrics of an epoch as JSON and its XXH3 in its place: the best round is chosen by them."""
    content = canonical_json(metrics)
    return content + b" " + _sum_metrics(round_, epoch, content)


def decode_metrics(round_: int, epoch: int, value: bytes) -> dict[str, float]:
    """Decode the metrics of an epoch."""
    content, _, checksum = value.rpartition(b" ")
    if checksum != _sum_metrics(round_, epoch, content):
        raise ValueError(f"the metrics of epoch {epoch} do not match their checksum")
    metrics: dict[str, float] = orjson.loads(content)
    return metrics


def _sum_metrics(round_: int, epoch: int, content: bytes) -> bytes:
    return xxh3_64_hexdigest(content, seed=xxh3_64_intdigest(f"{round_}/{epoch}".encode())).encode()


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Encode as JSON with sorted keys, so that equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


CHUNK_BYTES = 128 * 1024
"""Bytes of a bitmap in one chunk; the last chunk may be shorter."""
CHUNK_SAMPLES = CHUNK_BYTES * 8
PIECE_SAMPLES = 8192
"""Number of external ids per piece; a piece has at most 4 MiB, since an id has at most 512 bytes."""
REPLY_BYTES = 8 * 1024 * 1024
"""Maximum bytes of values that one command or pipeline reads or writes."""


def count_chunks(n_samples: int) -> int:
    """Return the number of chunks of a bitmap of `n_samples` samples, at least 1."""
    return max(1, -(-n_samples // CHUNK_SAMPLES))


def list_pieces(chunk: int, n_samples: int) -> range:
    """Return the numbers of the pieces with the external ids of the samples of `chunk`."""
    n_in_chunk = CHUNK_SAMPLES // PIECE_SAMPLES
    return range(chunk * n_in_chunk, min((chunk + 1) * n_in_chunk, -(-n_samples // PIECE_SAMPLES)))


def split_chunks(planes: Sequence[NDArray[Any]], size: int = CHUNK_BYTES) -> list[bytes]:
    """Split arrays of one length into one value per chunk, each the concatenation of the arrays' `size` items of it."""
    starts = range(0, max(planes[0].size, 1), size)
    return [b"".join(plane[start : start + size].tobytes() for plane in planes) for start in starts]


def split_integers(planes: Sequence[NDArray[np.integer]]) -> list[bytes]:
    """Split arrays of an integer per sample, of the smallest sufficient width, into one value per chunk."""
    highest = max(int(plane.max()) for plane in planes)
    dtype = next(dtype for dtype in ("<u1", "<u2", "<u4") if highest <= np.iinfo(dtype).max)
    return split_chunks([plane.astype(dtype) for plane in planes], CHUNK_SAMPLES)


def chunk_slice(chunk: int, n_samples: int) -> slice:
    """Return the slice of a bitmap's bytes that `chunk` covers."""
    return slice(chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, bitmap.n_bytes(n_samples)))


def group_by_size(sizes: Sequence[int]) -> Iterator[range]:
    """Split the positions of `sizes` into ranges of at most `REPLY_BYTES` in total, at least one position each."""
    start, total = 0, 0
    for position, size in enumerate(sizes):
        if position > start and total + size > REPLY_BYTES:
            yield range(start, position)
            start, total = position, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))


def decode_planes(value: bytes | memoryview, n_planes: int, chunk: int, n_samples: int) -> Bitmap:
    """Split the content of one chunk into its bitmaps, shape (n_planes, n_bytes of the chunk)."""
    extent = chunk_slice(chunk, n_samples)
    n_bytes = extent.stop - extent.start
    if len(value) != n_planes * n_bytes:
        raise StoreDamaged(
            f"a record in the store names {n_planes} bitmaps of {n_bytes} bytes, stored are {len(value)}; restore a "
            "backup of the store, or delete the run"
        )
    return np.frombuffer(value, dtype=np.uint8).reshape(n_planes, n_bytes)


def decode_integers(
    value: bytes | memoryview, n_planes: int, chunk: int, n_samples: int
) -> NDArray[np.unsignedinteger]:
    """Decode the content of one chunk of `split_integers`, shape (n_planes, n_samples of the chunk)."""
    n_items = n_planes * min(CHUNK_SAMPLES, n_samples - chunk * CHUNK_SAMPLES)
    integers: NDArray[np.unsignedinteger] = np.frombuffer(value, dtype=f"<u{len(value) // n_items}")
    return integers.reshape(n_planes, -1)


def group_samples(samples: NDArray[np.int64]) -> Iterator[tuple[int, slice, NDArray[np.int64]]]:
    """Yield the chunks of ascending sample indices, the positions of their samples, and their indices in the chunk."""
    chunks = samples // CHUNK_SAMPLES
    for chunk in np.unique(chunks).tolist():
        positions = slice(*np.searchsorted(chunks, (chunk, chunk + 1)))
        yield chunk, positions, samples[positions] - chunk * CHUNK_SAMPLES
