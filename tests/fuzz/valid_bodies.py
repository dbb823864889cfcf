"""A valid body for every write route and content type: what a fuzzer mutates."""

import base64
import io
import json
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from mild_core import bitmap

N_SAMPLES = 203
"""Not a multiple of 8: there is padding to get wrong."""
N_SHARDS = 3

BITMAP, JSON, NPY = "application/octet-stream", "application/json", "application/x-npy"
NDJSON, TEXT = "application/x-ndjson", "text/plain"

Make = Callable[[np.random.Generator], bytes]


def bits(rng: np.random.Generator, planes: int = 1) -> bytes:
    """One bitmap, or several in a row, each within the one before."""
    rows = np.logical_and.accumulate(rng.random((planes, N_SAMPLES)) < 0.6)
    return bitmap.pack(rows).tobytes()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _run(rng: np.random.Generator) -> bytes:
    return _json(
        {
            "num_samples": N_SAMPLES,
            "num_classes": 10,
            "tags": {"seed": str(rng.integers(10))},
            "selection": {"metric": "mild-simple", "threshold": "posterior", "p": 0.5},
            "ttl_seconds": 86400,
            "expected_epochs": int(rng.integers(1, 9)),
        }
    )


def _resumed(rng: np.random.Generator) -> bytes:
    return _json({"num_samples": N_SAMPLES, "resume_from": {"round": 0, "epoch": int(rng.integers(6))}})


def _labels(_: np.random.Generator) -> bytes:
    return _json({"labels": (np.arange(N_SAMPLES) % 10).tolist()})  # those of the logs, which have to agree


def _array(values: NDArray[np.int64]) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def _marks(rng: np.random.Generator) -> bytes:
    indices = rng.choice(N_SAMPLES, 20, replace=False)
    return _json({"indices": indices.tolist(), "clean": (rng.random(20) < 0.5).tolist()})


def _ids(_: np.random.Generator) -> list[str]:
    return [f"image-{index}.png" for index in range(N_SAMPLES)]


def _finish(rng: np.random.Generator) -> bytes:
    used = base64.b64encode(bits(rng)).decode()
    return _json({"allow_gaps": True, "selected": used, "core_version": "0.1.0"} if rng.random() < 0.5 else {})


def _stateless(rng: np.random.Generator) -> bytes:
    rows = (rng.random((8, 30)) < 0.6).astype(int).tolist()
    packed = [base64.b64encode(bits(rng)).decode() for _ in range(8)]
    return _json({"correct": rows} if rng.random() < 0.5 else {"num_samples": N_SAMPLES, "correct": packed})


def _records(rng: np.random.Generator) -> list[dict[str, int]]:
    epoch = int(rng.integers(10, 14))  # these epochs are written by logs, others whole or in shards
    samples = rng.choice(N_SAMPLES, 40, replace=False).tolist()
    return [{"epoch": epoch, "sample": s, "predicted": int(rng.integers(10)), "label": s % 10} for s in samples]


def _csv(rng: np.random.Generator) -> bytes:
    records = _records(rng)
    lines = [",".join(records[0]), *(",".join(map(str, record.values())) for record in records)]
    return "\n".join(lines).encode()


def _arrow(rng: np.random.Generator) -> bytes:
    table, out = pyarrow.Table.from_pylist(_records(rng)), io.BytesIO()
    with pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _arrow_file(rng: np.random.Generator) -> bytes:
    table, out = pyarrow.Table.from_pylist(_records(rng)), io.BytesIO()
    with pyarrow.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _parquet(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(_records(rng)), out)
    return out.getvalue()


def _cartography(rng: np.random.Generator) -> bytes:
    lines = [
        {"guid": r["sample"], f"logits_epoch_{r['epoch']}": np.eye(10)[r["predicted"]].tolist(), "gold": r["label"]}
        for r in _records(rng)
    ]
    return b"\n".join(_json(line) for line in lines)


def _either(*makes: Make) -> Make:
    return lambda rng: makes[rng.integers(len(makes))](rng)


LOGS: Mapping[str, Make] = {
    JSON: lambda rng: _json(_records(rng)),
    NDJSON: lambda rng: b"\n".join(map(_json, _records(rng))),
    "text/csv": _csv,
    "application/vnd.apache.arrow.stream": _arrow,
    "application/vnd.apache.arrow.file": _arrow_file,
    "application/vnd.apache.parquet": _parquet,
    "application/x-cartography+ndjson": _cartography,
}

SET: Mapping[str, Make] = {
    BITMAP: bits,
    JSON: lambda rng: _json({"indices": rng.choice(N_SAMPLES, 50, replace=False).tolist()}),
    NPY: lambda rng: _array(rng.choice(N_SAMPLES, 50, replace=False)),
}

MAKES: Mapping[str, Mapping[str, Make]] = {
    "PUT /runs/{run_id}": {JSON: _either(_run, _resumed)},
    "PATCH /runs/{run_id}": {JSON: lambda rng: _json({"tags": {"a": str(rng.integers(9))}, "status": "running"})},
    "PUT /runs/{run_id}/labels": {JSON: _labels, NPY: lambda rng: _array(rng.integers(0, 10, N_SAMPLES))},
    "PUT /runs/{run_id}/audit": {JSON: _marks, BITMAP: lambda rng: bits(rng, 2)},
    "POST /runs/{run_id}/audit/draw": {JSON: lambda rng: _json({"n": int(rng.integers(1, N_SAMPLES))})},
    "PUT /runs/{run_id}/sample-ids": {
        JSON: lambda rng: _json(_ids(rng)),
        NDJSON: lambda rng: b"\n".join(map(_json, _ids(rng))),
        TEXT: lambda rng: "\n".join(_ids(rng)).encode(),
    },
    "PUT /runs/{run_id}/rounds/{round}/members": SET,
    "PUT /runs/{run_id}/planted": SET,
    "PUT /runs/{run_id}/rounds/{round}/epochs/{epoch}": {BITMAP: _either(bits, lambda rng: bits(rng, 2))},
    "PUT /runs/{run_id}/rounds/{round}/epochs/{epoch}/shards/{shard}": {BITMAP: lambda rng: bits(rng, 2)},
    "PUT /runs/{run_id}/rounds/{round}/metrics/{epoch}": {JSON: lambda rng: _json({"train_loss": rng.random()})},
    "POST /runs/{run_id}/rounds/{round}/finish": {JSON: _finish},
    "POST /runs/{run_id}/predictions": LOGS,
    "POST /selection": {**LOGS, JSON: _either(_stateless, LOGS[JSON])},
}
"""Route -> content type -> maker of a valid body."""


def makers(openapi: Mapping[str, Mapping[str, Mapping[str, Mapping[str, object]]]]) -> list[tuple[str, str, str, Make]]:
    """Method, path, content type and maker of every write that a service's OpenAPI has.

    Raises
    ------
    LookupError
        If there is no maker: a new route must have one.
    """
    found = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody")
            if not isinstance(body, dict):
                continue
            for media_type in body["content"]:
                route = f"{method.upper()} {path}"
                make = MAKES.get(route, {}).get(media_type)
                if make is None:
                    raise LookupError(f"no valid body is known for {route} as {media_type}; add one to MAKES")
                found.append((method.upper(), path, media_type, make))
    return found
