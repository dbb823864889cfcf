"""Arrays in numpy's npy format, read without trusting their header."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_service.errors import InvalidRequest, MalformedBody

NPY = "application/x-npy"


def parse(body: bytes, what: str, kinds: str = "iu") -> NDArray[Any]:
    """A one-dimensional array whose type is one of `kinds` (numpy's letters), without a copy.

    Raises
    ------
    MalformedBody
        If it is no npy file, or a damaged one.
    InvalidRequest
        If it holds something else.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    except Exception as error:  # numpy's parser raises whatever Python's own does
        raise MalformedBody(f"the body is no npy file ({error}); write it with numpy.save") from error
    if dtype.kind not in kinds or len(shape) != 1:
        allowed = "integers, or booleans," if "b" in kinds else "integers"
        raise InvalidRequest(f"{what} are {dtype} of shape {shape}; send {allowed} in one dimension")
    data = stream.read()
    if len(data) != shape[0] * dtype.itemsize:
        raise MalformedBody(
            f"the npy file announces {shape[0]} {what} of {dtype.itemsize} bytes, but {len(data)} bytes follow; "
            "write it again"
        )
    return np.frombuffer(data, dtype=dtype)
