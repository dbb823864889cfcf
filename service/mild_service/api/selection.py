"""``/selection``: the clean index set of a run, or of bits that are sent along."""

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from mild_core.errors import (
    BitmapLengthError,
    CorrectNotObservedError,
    InvalidInput,
    ParameterError,
    TrailingBitsError,
)
from mild_service.api import representations
from mild_service.api.deps import Changes, RunId, RunsDep, SelectionsDep, SettingsDep, UntilEpoch, WhichRound
from mild_service.api.problems import described
from mild_service.api.schemas import SelectionView, StatelessRequest
from mild_service.api.stateless import rounds_of
from mild_service.errors import (
    BodyTooLarge,
    InvalidRequest,
    LimitExceeded,
    MalformedBody,
    NoEpochs,
    NotAcceptable,
    RoundNotOpen,
    RunNotFound,
    UnsupportedMediaType,
)

router = APIRouter(tags=["selection"])

_FORMS: dict[int | str, dict[str, Any]] = {
    200: {"content": dict(representations.OPENAPI_CONTENT), "description": "The clean index set"}
}


@router.get(
    "/selection/{run_id}",
    response_model=SelectionView,
    responses={
        **_FORMS,
        304: {"description": "The caller has this representation already (`If-None-Match`)"},
        **described(InvalidRequest, LimitExceeded, ParameterError, RunNotFound, RoundNotOpen, NoEpochs, NotAcceptable),
    },
)
async def get_selection(
    request: Request,
    run_id: RunId,
    runs: RunsDep,
    selections: SelectionsDep,
    changes: Changes,
    which: WhichRound,
    until_epoch: UntilEpoch = None,
    wait: Annotated[
        float | None,
        Query(allow_inf_nan=False, description="Seconds to wait for an explicit `round` to be finished (at most 60)."),
    ] = None,
) -> Response:
    """The clean index set: stored if the round is finished, else provisional.

    With options of a selection, or `until_epoch`, it shows what another choice would give; nothing is stored.
    """
    kind = representations.negotiate(request)
    run = await runs.find(run_id)
    if wait is not None:
        if which == "latest":
            raise InvalidRequest("wait needs an explicit round, got round=latest; ask for one, such as round=0&wait=30")
        run = await selections.wait(run, which, wait)
    choice = await selections.choose(run, which, changes, until_epoch)
    tag = representations.etag(choice.identity, kind)
    if representations.is_current(request, tag):
        return Response(status_code=304, headers=representations.headers(tag))
    answer = await selections.answer(choice, measure=kind == representations.JSON)
    return await representations.encode(answer, kind)


@router.post(
    "/selection",
    response_model=SelectionView,
    responses={
        **_FORMS,
        **described(
            MalformedBody,
            BodyTooLarge,
            UnsupportedMediaType,
            NotAcceptable,
            InvalidRequest,
            InvalidInput,
            LimitExceeded,
            ParameterError,
            BitmapLengthError,
            TrailingBitsError,
            CorrectNotObservedError,
        ),
    },
)
async def select_stateless(
    request: Request, body: StatelessRequest, selections: SelectionsDep, settings: SettingsDep
) -> Response:
    """Bits in, set out, nothing stored."""
    kind = representations.negotiate(request)
    rounds = await to_thread.run_sync(rounds_of, body, settings)
    return await representations.encode(await selections.stateless(rounds, body.options.options()), kind)
