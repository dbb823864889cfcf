"""``/selection``: the clean index set of a run, or of bits that are sent along."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from mild_core import bitmap
from mild_core.errors import (
    BitmapLengthError,
    CorrectNotObservedError,
    InvalidInput,
    ParameterError,
    TrailingBitsError,
)
from mild_core.types import RoundBits, SelectionOptions
from mild_service.api import bodies, negotiation, representations
from mild_service.api.deps import (
    AgainDep,
    Changes,
    PredictionsDep,
    RunId,
    RunsDep,
    SampleIdsDep,
    SelectionsDep,
    SettingsDep,
    UntilEpoch,
    WhichRound,
)
from mild_service.api.negotiation import Form
from mild_service.api.predictions import LOG_CONTENT
from mild_service.api.problems import described
from mild_service.api.selection_views import SelectionView
from mild_service.api.stateless import StatelessRequest, body_schema, rounds_of
from mild_service.conflicts import NoEpochs, NoSampleIds, RoundNotOpen, RoundsNotComparable
from mild_service.errors import (
    BadRecord,
    BodyTooLarge,
    DigestMismatch,
    InvalidRequest,
    LimitExceeded,
    MalformedBody,
    NotAcceptable,
    RunNotFound,
    UnsupportedMediaType,
)
from mild_service.ids import no_sample_ids
from mild_service.ingest import FORMATS
from mild_service.select import Selections

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
        **described(
            InvalidRequest,
            LimitExceeded,
            ParameterError,
            RunNotFound,
            RoundNotOpen,
            RoundsNotComparable,
            NoEpochs,
            NoSampleIds,
            NotAcceptable,
        ),
    },
)
async def get_selection(
    request: Request,
    run_id: RunId,
    runs: RunsDep,
    selections: SelectionsDep,
    sample_ids: SampleIdsDep,
    changes: Changes,
    which: WhichRound,
    again: AgainDep,
    until_epoch: UntilEpoch = None,
    wait: Annotated[
        float | None,
        Query(allow_inf_nan=False, description="Seconds to wait for an explicit `round` to be finished (at most 60)."),
    ] = None,
    ids: Annotated[bool, Query(description="Give the samples' external ids beside their indices.")] = False,
) -> Response:
    """The clean index set: stored if the round is finished, else provisional.

    With options of a selection, or `until_epoch`, it shows what another choice would give; nothing is stored.
    """
    form = representations.form_of(request, ids)
    run = await runs.find(run_id)
    if ids and run.ids is None:
        raise no_sample_ids(run)
    if wait is not None:
        if not isinstance(which, int):
            raise InvalidRequest(
                f"wait needs an explicit round, got round={which}; ask for one, such as round=0&wait=30"
            )
        run = await selections.wait(run, which, wait)
        await again()
    choice = await selections.choose(run, which, changes, until_epoch)
    named = f":{run.ids.digest}" if ids and run.ids else ""
    tag = negotiation.etag(choice.identity + named, form)
    if negotiation.is_current(request, tag):
        return Response(status_code=304, headers=negotiation.headers(tag))
    answer = await selections.answer(choice, measure=form.kind == representations.JSON)
    if named:
        kept = await sample_ids.names(run, bitmap.to_indices(answer.bitmap, answer.n_samples))
        answer = replace(answer, identity=answer.identity + named, ids=kept)
    return await representations.encode(answer, form)


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
            BadRecord,
            DigestMismatch,
        ),
    },
    openapi_extra={
        "requestBody": {"required": True, "content": {**LOG_CONTENT, bodies.JSON: {"schema": body_schema()}}}
    },
)
async def select_stateless(
    request: Request,
    selections: SelectionsDep,
    predictions: PredictionsDep,
    settings: SettingsDep,
    changes: Changes,
    num_samples: Annotated[
        int | None, Query(description="Samples of a log; left out, they are those up to the greatest that it names.")
    ] = None,
) -> Response:
    """Bits or a prediction log in, set out, nothing stored. Options of a selection in the query win over the body's."""
    form = representations.form_of(request)
    media_type = bodies.media_type(request, tuple(FORMATS), bodies.JSON)
    options = SelectionOptions()
    log = bodies.pieces(request, settings.max_log_bytes)
    if media_type == bodies.JSON:
        body = await bodies.read_within(request, settings.max_json_bytes)
        if not body.lstrip().startswith(b"["):
            bits = bodies.parse_json(body, StatelessRequest)
            if num_samples is not None:
                raise InvalidRequest("query.num_samples: it belongs to a log; put it into the JSON beside the bits")
            options = bits.options.options()
            rounds = await to_thread.run_sync(rounds_of, bits, settings)
            return await _encoded(selections, rounds, options, changes, form)
        log = _single(body)
    rounds, named = await predictions.alone(media_type, log, num_samples)
    return await _encoded(selections, rounds, options, changes, form, named)


async def _encoded(
    selections: Selections,
    rounds: list[RoundBits],
    options: SelectionOptions,
    changes: Mapping[str, Any],
    form: Form,
    ids: Sequence[str] | None = None,
) -> Response:
    answer = await selections.stateless(rounds, replace(options, **changes).checked(), ids)
    return await representations.encode(answer, form)


async def _single(body: bytes) -> AsyncIterator[bytes]:
    yield body
