"""What routes are given: the write path, the read path, settings, and the parameters that several share.

Dependencies are coroutines though they wait for nothing: plain functions would each cost every request a change to a
worker thread and back.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Header, Path, Query, Request
from fastapi.dependencies.models import Dependant
from pydantic.json_schema import SkipJsonSchema

from mild_core.types import SelectionOptions
from mild_service.annotations.external_ids import ExternalIds
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.api_keys import ApiKey
from mild_service.config import Settings
from mild_service.errors import InvalidRequest
from mild_service.recording.epoch_status import StatusReader
from mild_service.recording.epoch_writer import EpochWriter
from mild_service.recording.prediction_writer import PredictionWriter
from mild_service.recording.run_writer import RunWriter
from mild_service.recording.shard_writer import ShardWriter
from mild_service.selecting.event_feed import EventFeed
from mild_service.selecting.label_suggestions import LabelSuggester
from mild_service.selecting.sample_tables import SampleTables
from mild_service.selecting.selections import RoundChoice, Selections
from mild_service.web.schemas import query_parameters

RunId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="The caller's name for the run.")]
RoundNumber = Annotated[int, Path(ge=0, alias="round", description="0 and up.")]
EpochNumber = Annotated[int, Path(ge=0, alias="epoch", description="0 and up, in any order.")]
ShardNumber = Annotated[int, Path(ge=0, alias="shard", description="0 to `of` - 1, such as the writer's rank.")]
Attempt = Annotated[
    int | SkipJsonSchema[None],  # a header is there or not, it is never null
    Header(alias="Mild-Attempt", description="The writer's attempt, as the run's PUT returned it; none: the current."),
]
Again: TypeAlias = Callable[[], Awaitable[None]]
"""Raises `Unauthenticated` once the caller's key counts no more: to be asked where an answer takes its time."""
Replace = Annotated[bool, Query(description="Replace other content, while the round is open.")]


async def _runs(request: Request) -> RunWriter:
    runs: RunWriter = request.app.state.runs
    return runs


async def _selections(request: Request) -> Selections:
    selections: Selections = request.app.state.selections
    return selections


async def _labels_and_audits(request: Request) -> LabelsAndAudits:
    labels_and_audits: LabelsAndAudits = request.app.state.labels_and_audits
    return labels_and_audits


async def _predictions(request: Request) -> PredictionWriter:
    predictions: PredictionWriter = request.app.state.predictions
    return predictions


async def _feed(request: Request) -> EventFeed:
    feed: EventFeed = request.app.state.event_feed
    return feed


async def _epochs(request: Request) -> EpochWriter:
    epochs: EpochWriter = request.app.state.epochs
    return epochs


async def _shards(request: Request) -> ShardWriter:
    shards: ShardWriter = request.app.state.shards
    return shards


async def _status_reader(request: Request) -> StatusReader:
    status_reader: StatusReader = request.app.state.status_reader
    return status_reader


async def _sample_ids(request: Request) -> ExternalIds:
    sample_ids: ExternalIds = request.app.state.sample_ids
    return sample_ids


async def _suggester(request: Request) -> LabelSuggester:
    suggester: LabelSuggester = request.app.state.suggester
    return suggester


async def _tables(request: Request) -> SampleTables:
    tables: SampleTables = request.app.state.sample_tables
    return tables


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _caller(request: Request) -> ApiKey:
    caller: ApiKey = request.state.caller
    return caller


async def _again(request: Request) -> Again:
    again: Again = request.state.again
    return again


async def known_query_only(request: Request) -> None:
    """Refuse a query parameter that the route does not have: misspelt, it would silently leave the default in force.

    Raises
    ------
    InvalidRequest
        If there is one.
    """
    if not request.query_params:
        return
    known = _query_names(request.scope["route"].dependant)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes none"
        raise InvalidRequest(f"query.{unknown[0]}: unknown parameter, this route {takes}; check the spelling")


def _query_names(dependant: Dependant) -> list[str]:
    """Query parameters of a route and of what it depends on, in OpenAPI's order.

    Not out of the OpenAPI document: while a process makes that, at the first such request, nobody else is answered.
    """
    own = [parameter.alias for parameter in dependant.query_params]
    return own + [name for each in dependant.dependencies for name in _query_names(each)]


RunsDep = Annotated[RunWriter, Depends(_runs)]
SelectionsDep = Annotated[Selections, Depends(_selections)]
LabelsAndAuditsDep = Annotated[LabelsAndAudits, Depends(_labels_and_audits)]
PredictionsDep = Annotated[PredictionWriter, Depends(_predictions)]
EventFeedDep = Annotated[EventFeed, Depends(_feed)]
EpochsDep = Annotated[EpochWriter, Depends(_epochs)]
ShardsDep = Annotated[ShardWriter, Depends(_shards)]
StatusReaderDep = Annotated[StatusReader, Depends(_status_reader)]
SampleIdsDep = Annotated[ExternalIds, Depends(_sample_ids)]
CallerDep = Annotated[ApiKey, Depends(_caller)]
AgainDep = Annotated[Again, Depends(_again)]
SuggesterDep = Annotated[LabelSuggester, Depends(_suggester)]
SampleTablesDep = Annotated[SampleTables, Depends(_tables)]
SettingsDep = Annotated[Settings, Depends(_settings)]


Changes = Annotated[dict[str, Any], Depends(query_parameters(SelectionOptions))]
"""Options of the selection to look at in place of the run's; nothing is stored."""


async def _which(
    round_: Annotated[
        str,
        Query(
            alias="round",
            pattern=r"^(latest|best|[0-9]{1,9})$",
            description="`latest` finished one (else 0), the `best` finished one by the audit or else by "
            "`validation_accuracy`, or a number.",
        ),
    ] = "latest",
) -> RoundChoice:
    if round_ == "latest":
        return "latest"
    return "best" if round_ == "best" else int(round_)


WhichRound = Annotated[RoundChoice, Depends(_which)]

UntilEpoch = Annotated[int | None, Query(ge=0, description="Last epoch of the round that counts.")]
