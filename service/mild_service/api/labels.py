"""The body of ``PUT /runs/{run_id}/labels``: JSON, or numpy's npy format."""

import io

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from mild_service.api import bodies
from mild_service.api.truth_views import LabelsRequest
from mild_service.config import Settings
from mild_service.errors import BodyTooLarge, InvalidRequest, MalformedBody

NPY = "application/x-npy"


async def read_labels(request: Request, settings: Settings) -> NDArray[np.integer]:
    """The labels in a body, one-dimensional.

    Raises
    ------
    UnsupportedMediaType, BodyTooLarge, MalformedBody, InvalidRequest
        If the body cannot be read, or holds no integers.
    """
    if bodies.media_type(request, (bodies.JSON, NPY), bodies.JSON) == bodies.JSON:
        sent = await bodies.read_json(request, LabelsRequest, settings.max_json_bytes)
        return np.array(sent.labels, dtype=np.int64)
    limit = settings.max_body_bytes
    body = await bodies.read(request, limit)
    if len(body) > limit:
        raise BodyTooLarge(
            f"the body has more than {limit} bytes, which is the limit; send labels in a smaller integer type"
        )
    return _from_npy(body)


def _from_npy(body: bytes) -> NDArray[np.integer]:
    """Read an array without trusting its header, which numpy would allocate memory by."""
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    except Exception as error:  # numpy's parser raises whatever Python's own does
        raise MalformedBody(f"the body is no npy file ({error}); write it with numpy.save") from error
    if dtype.kind not in "iu" or len(shape) != 1:
        raise InvalidRequest(f"labels are {dtype} of shape {shape}; send integers, one per sample")
    data = stream.read()
    if len(data) != shape[0] * dtype.itemsize:
        raise MalformedBody(
            f"the npy file announces {shape[0]} labels of {dtype.itemsize} bytes, but {len(data)} bytes follow; "
            "write it again"
        )
    return np.frombuffer(data, dtype=dtype)
