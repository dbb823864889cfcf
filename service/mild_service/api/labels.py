"""The body of ``PUT /runs/{run_id}/labels``: JSON, or numpy's npy format."""

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from mild_service.api import bodies, npy
from mild_service.api.truth_views import LabelsRequest
from mild_service.config import Settings
from mild_service.errors import BodyTooLarge


async def read_labels(request: Request, settings: Settings) -> NDArray[np.integer]:
    """The labels in a body, one-dimensional.

    Raises
    ------
    UnsupportedMediaType, BodyTooLarge, MalformedBody, InvalidRequest
        If the body cannot be read, or holds no integers.
    """
    if bodies.media_type(request, (bodies.JSON, npy.NPY), bodies.JSON) == bodies.JSON:
        sent = await bodies.read_json(request, LabelsRequest, settings.max_json_bytes)
        return np.array(sent.labels, dtype=np.int64)
    limit = settings.max_body_bytes
    body = await bodies.read(request, limit)
    if len(body) > limit:
        raise BodyTooLarge(
            f"the body has more than {limit} bytes, which is the limit; send labels in a smaller integer type"
        )
    return npy.parse(body, "labels")
