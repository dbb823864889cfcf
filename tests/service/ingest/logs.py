"""One log in every format."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from mild_core import bitmap

Record = dict[str, Any]

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
ARROW_FILE = "application/vnd.apache.arrow.file"
PARQUET = "application/vnd.apache.parquet"
CARTOGRAPHY = "application/x-cartography+ndjson"


def as_json(records: Sequence[Record]) -> bytes:
    return json.dumps(records).encode()


def as_ndjson(records: Sequence[Record]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def as_csv(records: Sequence[Record]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, _names(records))
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue().encode()


def as_arrow(records: Sequence[Record]) -> bytes:
    table, out = _table(records), io.BytesIO()
    with pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return out.getvalue()


def as_arrow_file(records: Sequence[Record]) -> bytes:
    table, out = _table(records), io.BytesIO()
    with pyarrow.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    return out.getvalue()


def as_parquet(records: Sequence[Record]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(_table(records), out, row_group_size=1000)
    return out.getvalue()


def as_cartography(records: Sequence[Record]) -> bytes:
    """Class 0 is the label, class 1 the other."""
    return as_ndjson(
        [
            {"guid": r["sample"], f"logits_epoch_{r['epoch']}": [0.5, 0.25 if r["correct"] else 0.75], "gold": 0}
            for r in records
        ]
    )


WRITERS: Mapping[str, Callable[[Sequence[Record]], bytes]] = {
    JSON: as_json,
    NDJSON: as_ndjson,
    CSV: as_csv,
    ARROW: as_arrow,
    ARROW_FILE: as_arrow_file,
    PARQUET: as_parquet,
    CARTOGRAPHY: as_cartography,
}


def log_of(bodies: Sequence[bytes], n_samples: int, samples: Iterable[int] | None = None) -> list[Record]:
    """Epoch bodies as records, for all samples or some."""
    names = list(range(n_samples) if samples is None else samples)
    rows = [bitmap.unpack(np.frombuffer(body, dtype=np.uint8), n_samples) for body in bodies]
    return [
        {"epoch": epoch, "sample": sample, "correct": bool(row[sample])}
        for epoch, row in enumerate(rows)
        for sample in names
    ]


def _names(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record))


def _table(records: Sequence[Record]) -> Any:
    return pyarrow.table({name: [record.get(name) for record in records] for name in _names(records)})


def aborting() -> bytes:
    """A Parquet file that says of its column, which may be empty, that it may not.

    pyarrow 26's `row_group(0).column(0)` then throws where nobody catches, which ends the process.
    """
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"epoch": [0]}), out, store_schema=False)
    column = b"\x25\x02\x18\x05epoch"
    assert out.getvalue().count(column) == 1
    return out.getvalue().replace(column, b"\x25\x00\x18\x05epoch")


def written(media_type: str, table: pyarrow.Table) -> bytes:
    out = pyarrow.BufferOutputStream()
    if media_type == PARQUET:
        pyarrow.parquet.write_table(table, out)
    else:
        with pyarrow.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    return bytes(out.getvalue())
