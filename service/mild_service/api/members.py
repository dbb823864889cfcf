"""``/runs/{run_id}/rounds/{round}/members``: whom the model is trained on."""

import orjson
from anyio import to_thread
from fastapi import APIRouter, Request, Response

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import InvalidInput, SampleIndexError
from mild_service.api import bodies, npy, representations
from mild_service.api.deps import Attempt, CoveragesDep, RoundNumber, RunId, RunsDep, SettingsDep
from mild_service.api.negotiation import negotiate, respond
from mild_service.api.problems import described
from mild_service.api.refusals import BITS, PLACE, WRITE, binary
from mild_service.api.schemas import MembersDetail, MembersRequest, MembersView
from mild_service.config import Settings
from mild_service.errors import BodyTooLarge, InvalidRequest, MembersFrozen, NotAcceptable

router = APIRouter(tags=["rounds"])

_BINARY = {"type": "string", "format": "binary"}


@router.put(
    "/runs/{run_id}/rounds/{round}/members",
    response_model=MembersView,
    responses=described(*WRITE, *BITS, InvalidInput, SampleIndexError, MembersFrozen),
    openapi_extra=binary(
        "The members' bitmap.",
        **{
            bodies.JSON: {"schema": MembersRequest.model_json_schema()},
            npy.NPY: {"schema": {**_BINARY, "description": "Indices, or a boolean per sample."}},
        },
    ),
)
async def put_members(
    request: Request, run_id: RunId, round_: RoundNumber, runs: RunsDep, settings: SettingsDep, attempt: Attempt = None
) -> MembersView:
    """Set whom the model is trained on, before the round's first epoch."""
    run = await runs.find(run_id)
    members = await _read(request, run.config.n_samples, settings)
    changed, n_members = await runs.put_members(run, round_, members, attempt)
    return MembersView(run_id=run_id, round=round_, outcome="set" if changed else "same", num_members=n_members)


@router.get(
    "/runs/{run_id}/rounds/{round}/members",
    response_model=MembersDetail,
    responses={
        200: {
            "content": {
                bodies.BITMAP: {"schema": {**_BINARY, "description": "The members' bitmap."}},
                npy.NPY: {"schema": {**_BINARY, "description": "Sorted int64 indices."}},
            },
            "description": "The members; everyone, unless they were set or a round before has chosen",
        },
        **described(*PLACE, NotAcceptable),
    },
)
async def get_members(
    request: Request, run_id: RunId, round_: RoundNumber, runs: RunsDep, coverages: CoveragesDep
) -> Response:
    """Whom the model is trained on in a round: JSON, a bitmap, or indices as npy."""
    form = negotiate(request, (bodies.JSON, bodies.BITMAP, npy.NPY))
    run = await runs.find(run_id)
    round_state = await coverages.round(run, round_)
    members = await coverages.members(run, round_state)

    def body() -> bytes:
        if form.kind == bodies.BITMAP:
            return members.tobytes()
        indices = bitmap.to_indices(members, run.config.n_samples)
        if form.kind == npy.NPY:
            return representations.npy(indices)
        document = {"run_id": run_id, "round": round_, "num_members": indices.size, "indices": indices}
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)

    return await respond(form, body)


async def _read(request: Request, n_samples: int, settings: Settings) -> Bitmap:
    """The members in a body, shape (n_bytes,).

    Raises
    ------
    UnsupportedMediaType, BodyTooLarge, MalformedBody, InvalidRequest
        If the body cannot be read, or does not hold indices or bits.
    BitmapLengthError, TrailingBitsError, SampleIndexError
        If it is not of this run.
    """
    kind = bodies.media_type(request, (bodies.BITMAP, bodies.JSON, npy.NPY), bodies.BITMAP)
    if kind == bodies.BITMAP:
        return bitmap.check(await bodies.read_bitmaps(request, n_samples, count=1), n_samples, "members bitmap")
    limit = settings.max_json_bytes if kind == bodies.JSON else settings.max_body_bytes
    body = await bodies.read(request, limit)
    if len(body) > limit:
        size = bitmap.n_bytes(n_samples)
        raise BodyTooLarge(
            f"the body has more than {limit} bytes, which is the limit; send the members as a bitmap of {size} bytes"
        )
    if kind == bodies.JSON:
        return await to_thread.run_sync(_from_json, body, n_samples)
    return await to_thread.run_sync(_from_npy, body, n_samples)


def _from_json(body: bytes, n_samples: int) -> Bitmap:
    return bitmap.from_indices(bodies.parse_json(body, MembersRequest).indices, n_samples)


def _from_npy(body: bytes, n_samples: int) -> Bitmap:
    array = npy.parse(body, "members", "iub")
    if array.dtype.kind != "b":
        return bitmap.from_indices(array, n_samples)
    if array.size != n_samples:
        raise InvalidRequest(f"members are {array.size} booleans, the run has {n_samples} samples; send one for each")
    return bitmap.pack(array)
