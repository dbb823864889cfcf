"""A selection on the wire: JSON, bitmap, npy, Arrow or CSV, with an ETag each."""

import csv
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import orjson
from fastapi import Request
from fastapi.responses import Response
from numpy.typing import NDArray

from mild_core import bitmap
from mild_service.api.negotiation import Form, etag, negotiate, respond
from mild_service.select import Answer

JSON = "application/json"
BITMAP = "application/octet-stream"
NPY = "application/x-npy"
ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"

SELECTION_TYPES = (JSON, BITMAP, NPY, *([ARROW] if find_spec("pyarrow") else []), CSV)
"""In order of preference where the caller has none."""

_BINARY = {"type": "string", "format": "binary"}

OPENAPI_CONTENT: Mapping[str, Any] = {
    BITMAP: {"schema": {**_BINARY, "description": "Bitmap of the kept samples."}},
    NPY: {"schema": {**_BINARY, "description": "Sorted int64 indices, numpy's npy format."}},
    ARROW: {"schema": {**_BINARY, "description": "Column `index` (int64), and `id` with `ids=true`; an IPC stream."}},
    CSV: {"schema": {"type": "string", "description": "Column `index`, and `id` with `ids=true`; a header line."}},
}


def form_of(request: Request, ids: bool = False) -> Form:
    """The form to answer with; with `ids` one that has room for them.

    Raises
    ------
    NotAcceptable
        If the caller accepts none that a selection has.
    """
    return negotiate(request, [kind for kind in SELECTION_TYPES if not ids or kind not in (BITMAP, NPY)])


async def encode(answer: Answer, form: Form) -> Response:
    """A selection as a response."""
    tag = etag(answer.identity, form) if answer.identity else None
    return await respond(form, lambda: _body(answer, form.kind), tag)


def _body(answer: Answer, kind: str) -> bytes:
    if kind == BITMAP:
        return answer.bitmap.tobytes()
    indices = bitmap.to_indices(answer.bitmap, answer.n_samples)
    if kind == NPY:
        return npy(indices)
    if kind == ARROW:
        return _arrow(indices, answer.ids)
    if kind == CSV:
        return _csv(indices, answer.ids)
    named = {} if answer.ids is None else {"ids": answer.ids}
    return orjson.dumps({**answer.document, "indices": indices, **named}, option=orjson.OPT_SERIALIZE_NUMPY)


def npy(array: NDArray[Any]) -> bytes:
    """An array in numpy's npy format."""
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=False)
    return out.getvalue()


def _arrow(indices: NDArray[np.int64], ids: Sequence[str] | None) -> bytes:
    import pyarrow

    columns = {"index": indices, **({} if ids is None else {"id": pyarrow.array(ids, pyarrow.large_string())})}
    table, out = pyarrow.table(columns), io.BytesIO()
    with pyarrow.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2**16)
    return out.getvalue()


def _csv(indices: NDArray[np.int64], ids: Sequence[str] | None) -> bytes:
    if ids is None:
        return b"\n".join([b"index", *(str(index).encode() for index in indices.tolist()), b""])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("index", "id"))
    writer.writerows(zip(indices.tolist(), ids, strict=True))
    return out.getvalue().encode()
