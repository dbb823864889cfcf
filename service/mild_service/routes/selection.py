"""Clean index sets: ``/selection/{run_id}`` of a run, and ``/selection`` of bits in the request."""

import codecs
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import orjson
from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mild_core import bitmap
from mild_core.log_columns import parse_columns
from mild_core.results import Component, Estimate, Measured, SelectionSummary, Threshold
from mild_core.types import Metric, RoundBits, SelectionOptions, Verdict
from mild_service.annotations.external_ids import ExternalIds, no_sample_ids_error
from mild_service.concurrency import offload
from mild_service.errors import InvalidRequest
from mild_service.ingest import FORMATS
from mild_service.ingest.name_resolvers import SamplesBy
from mild_service.models import Basis
from mild_service.routes.predictions import LOG_CONTENT, ColumnsQuery
from mild_service.routes.stateless_selection import StatelessRequest, parse_rounds
from mild_service.selecting.round_selection import RoundSelection
from mild_service.web import bodies, media_types, responses
from mild_service.web.dependencies import (
    Changes,
    PredictionsDep,
    RevalidateKeyDep,
    RunDep,
    SampleIdsDep,
    SelectionsDep,
    SettingsDep,
    UntilEpoch,
    WhichRound,
)
from mild_service.web.openapi import describe_body
from mild_service.web.responses import Representation
from mild_service.web.schemas import make_response_model

if TYPE_CHECKING:
    _SummaryFields: TypeAlias = BaseModel
    ThresholdView: TypeAlias = BaseModel
    ComponentView: TypeAlias = BaseModel
    EstimateView: TypeAlias = BaseModel
    MeasuredView: TypeAlias = BaseModel
else:
    _SummaryFields = make_response_model(SelectionSummary)
    ThresholdView = make_response_model(Threshold)
    ComponentView = make_response_model(Component)
    EstimateView = make_response_model(Estimate)
    MeasuredView = make_response_model(Measured)


class SelectionView(_SummaryFields):
    """A clean index set, and its estimated and measured quality."""

    run_id: str | None
    round: int
    basis: Basis = Field(
        description="`stored`: the set that the round was finished with; `client`: the same, sent by an offline "
        "client; `computed`: computed for this request, and not stored."
    )
    provisional: bool = Field(description="The round is still open.")
    core_version: str
    client_core_version: str | None = Field(None, description="With `basis` client: version that computed the set.")
    differs: int | None = Field(
        None, description="With `basis` client: samples on which the service's own set differs."
    )
    measured: MeasuredView | None = Field(None, description="Quality of the set by the audit; null without an audit.")
    indices: list[int]
    ids: list[str] | None = Field(
        None, description="With `ids=true`, or from a log that names samples by ids: the external id of each index."
    )


class SelectionPart(BaseModel):
    """The selection that a response belongs to."""

    run_id: str
    round: int
    provisional: bool = Field(description="The round is still open.")


class HistogramView(BaseModel):
    """Histogram of the metric. Bin `j` contains the value `origin + width * j`."""

    origin: float
    width: float
    counts: list[float]


class CurvesView(BaseModel):
    """Estimated noise rate, precision and recall (a row each) if the first 0, 1, 2, … bins are kept."""

    value: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]


class FitView(SelectionPart):
    """The fitted mixture behind a selection."""

    histogram: HistogramView | None
    densities: list[list[float]] | None = Field(description="Expected counts per bin: clean, then noisy component.")
    curves: CurvesView | None = Field(
        description="Estimates of every cut, with 90% intervals; null where they are not identified."
    )
    early: int = Field(description="How often every round was cut to its first quarter.")
    levels: list[int] | None = Field(
        description="Numbers of observed epochs that are told apart, in bins; null where every judged sample was "
        "observed in every epoch.",
    )
    metric: Metric
    fitted: dict[str, EstimateView | None] = Field(description="As of a selection.")
    components: list[ComponentView]
    threshold: ThresholdView
    verdict: Verdict
    reasons: list[str]


router = APIRouter(tags=["selection"])

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": dict(responses.SET_CONTENT), "description": "The clean index set"}
}


@router.get(
    "/selection/{run_id}",
    response_model=SelectionView,
    responses={
        **_RESPONSES,
        304: {"description": "The client has this representation already (`If-None-Match`)"},
    },
)
async def get_selection(
    request: Request,
    run: RunDep,
    selections: SelectionsDep,
    sample_ids: SampleIdsDep,
    changes: Changes,
    which: WhichRound,
    revalidate_key: RevalidateKeyDep,
    until_epoch: UntilEpoch = None,
    wait: Annotated[
        float | None,
        Query(allow_inf_nan=False, description="Seconds to wait for an explicit `round` to be finished (at most 60)."),
    ] = None,
    ids: Annotated[bool, Query(description="Return the samples' external ids with their indices.")] = False,
) -> Response:
    """Return the clean index set: the stored one if the round is finished, else a provisional one.

    With selection options or `until_epoch`, the set is computed with these and not stored.
    """
    representation = responses.negotiate_selection(request, with_ids=ids)
    if ids and run.ids is None:
        raise no_sample_ids_error(run)
    if wait is not None:
        if not isinstance(which, int):
            raise InvalidRequest(f"wait needs an explicit round, got round={which}; name one, such as round=0&wait=30")
        run = await selections.wait_for_round(run, which, wait)
        await revalidate_key()
    selection = await selections.open(run, which, changes, until_epoch)
    etag = responses.make_etag(_make_identity(selection, with_ids=ids), representation)
    if responses.is_not_modified(request, etag):
        return Response(status_code=304, headers=responses.make_cache_headers(etag))
    return await make_selection_response(selection, representation, sample_ids if ids else None)


async def make_selection_response(
    selection: RoundSelection, representation: Representation, sample_ids: ExternalIds | None = None
) -> Response:
    """Return a selection as a response; with `sample_ids`, it has the external ids of the kept samples too."""
    document = await selection.read_document() if representation.media_type == media_types.JSON else {}
    clean_set, run, ids = await selection.read_set(), selection.run, None
    if sample_ids is not None:
        ids = await sample_ids.get_ids(run, bitmap.to_indices(clean_set, run.spec.num_samples))
    identity = _make_identity(selection, with_ids=sample_ids is not None)
    return await responses.make_set_response(representation, document, clean_set, run.spec.num_samples, ids, identity)


def _make_identity(selection: RoundSelection, *, with_ids: bool) -> str:
    """Return the identity of a selection, or of the selection with the external ids of its samples."""
    ids = selection.run.ids
    return f"{selection.identity}:{ids.digest}" if with_ids and ids else selection.identity


@router.post(
    "/selection",
    response_model=SelectionView,
    responses=_RESPONSES,
    openapi_extra=describe_body({**LOG_CONTENT, media_types.JSON: StatelessRequest}),
)
async def select_stateless(
    request: Request,
    selections: SelectionsDep,
    predictions: PredictionsDep,
    settings: SettingsDep,
    changes: Changes,
    num_samples: Annotated[
        int | None, Query(description="Samples of a log; by default those up to the greatest index in it.")
    ] = None,
    samples_by: Annotated[
        SamplesBy | None,
        Query(description="How a log names samples; by default by ids if the first one is no index, else by indices."),
    ] = None,
    columns: ColumnsQuery = None,
) -> Response:
    """Return the clean index set of the bits or the prediction log in the request. Nothing is stored.

    Selection options in the query override those in the body.
    """
    representation = responses.negotiate_selection(request)
    media_type = bodies.check_content_type(request, tuple(FORMATS), media_types.JSON)
    options, log = SelectionOptions(), bodies.stream_body(request, settings.max_log_bytes)
    rounds: list[RoundBits] = []
    ids: Sequence[str] | None = None
    if media_type == media_types.JSON:
        body = await bodies.read_json_bytes(request, settings.max_json_bytes)
        log = _stream_bytes(body)
        if not await offload(len(body), lambda: _holds_records(body)):
            bits = await offload(len(body), lambda: bodies.parse_json(body, StatelessRequest))
            if (num_samples, samples_by, columns) != (None, None, None):
                raise InvalidRequest(
                    "query: num_samples, samples_by and columns belong to a log; put num_samples into the JSON of bits"
                )
            options = bits.options.make_options()
            rounds = await to_thread.run_sync(parse_rounds, bits, settings)
    if not rounds:
        named_columns = parse_columns(columns or "")
        rounds, ids = await predictions.read_standalone(media_type, log, num_samples, samples_by, named_columns)
    document, clean_set = await selections.select_stateless(rounds, replace(options, **changes).validate())
    n_samples = rounds[0].n_samples
    kept_ids = None if ids is None else [ids[index] for index in bitmap.to_indices(clean_set, n_samples).tolist()]
    return await responses.make_set_response(representation, document, clean_set, n_samples, kept_ids)


def _holds_records(body: bytes) -> bool:
    """Return whether a JSON body is a log: an array, or lines of which the first is a record."""
    start = body.removeprefix(codecs.BOM_UTF8).lstrip()
    if not start.startswith(b"{"):
        return start.startswith(b"[")
    line = start.partition(b"\n")[0]
    if b'"sample"' not in line:
        return False
    bodies.check_json_size(line)
    try:
        return "sample" in orjson.loads(line)
    except orjson.JSONDecodeError:
        return False


async def _stream_bytes(body: bytes) -> AsyncIterator[bytes]:
    """Yield `body` as a stream of one chunk."""
    yield body
