"""FastAPI dependencies of the routes: services, settings, and parameters that several routes share.

All dependencies are coroutines, since FastAPI runs plain functions in a worker thread, which costs each request time.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Header, Path, Query, Request
from fastapi.dependencies.models import Dependant
from pydantic.json_schema import SkipJsonSchema

from mild_core.types import RUN_ID_PATTERN, SelectionOptions
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
from mild_service.selecting.audit_draws import AuditDraws
from mild_service.selecting.event_feed import EventFeed
from mild_service.selecting.label_suggestions import LabelSuggester
from mild_service.selecting.sample_tables import SampleTables
from mild_service.selecting.selections import RoundChoice, Selections
from mild_service.web.schemas import make_query_dependency

RunId = Annotated[str, Path(pattern=f"^{RUN_ID_PATTERN}$", description="The caller's name for the run.")]
RoundNumber = Annotated[int, Path(ge=0, alias="round", description="0 and up.")]
EpochNumber = Annotated[int, Path(ge=0, alias="epoch", description="0 and up, in any order.")]
ShardNumber = Annotated[int, Path(ge=0, alias="shard", description="0 to `of` - 1, such as the writer's rank.")]
Attempt = Annotated[
    int | SkipJsonSchema[None],  # a header may be absent, but it is never null
    Header(alias="Mild-Attempt", description="The writer's attempt, as the run's PUT returned it; none: the current."),
]
RevalidateKey: TypeAlias = Callable[[], Awaitable[None]]
"""Function that raises `Unauthenticated` if the caller's key has become invalid; called during long responses."""
Replace = Annotated[bool, Query(description="Replace other content, while the round is open.")]


async def _get_runs(request: Request) -> RunWriter:
    runs: RunWriter = request.app.state.runs
    return runs


async def _get_selections(request: Request) -> Selections:
    selections: Selections = request.app.state.selections
    return selections


async def _get_labels_and_audits(request: Request) -> LabelsAndAudits:
    labels_and_audits: LabelsAndAudits = request.app.state.labels_and_audits
    return labels_and_audits


async def _get_audit_draws(request: Request) -> AuditDraws:
    audit_draws: AuditDraws = request.app.state.audit_draws
    return audit_draws


async def _get_predictions(request: Request) -> PredictionWriter:
    predictions: PredictionWriter = request.app.state.predictions
    return predictions


async def _get_event_feed(request: Request) -> EventFeed:
    feed: EventFeed = request.app.state.event_feed
    return feed


async def _get_epochs(request: Request) -> EpochWriter:
    epochs: EpochWriter = request.app.state.epochs
    return epochs


async def _get_shards(request: Request) -> ShardWriter:
    shards: ShardWriter = request.app.state.shards
    return shards


async def _get_status_reader(request: Request) -> StatusReader:
    status_reader: StatusReader = request.app.state.status_reader
    return status_reader


async def _get_sample_ids(request: Request) -> ExternalIds:
    sample_ids: ExternalIds = request.app.state.sample_ids
    return sample_ids


async def _get_suggester(request: Request) -> LabelSuggester:
    suggester: LabelSuggester = request.app.state.suggester
    return suggester


async def _get_sample_tables(request: Request) -> SampleTables:
    tables: SampleTables = request.app.state.sample_tables
    return tables


async def _get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _get_caller(request: Request) -> ApiKey:
    caller: ApiKey = request.state.caller
    return caller


async def _get_revalidate_key(request: Request) -> RevalidateKey:
    revalidate_key: RevalidateKey = request.state.revalidate_key
    return revalidate_key


async def reject_unknown_query_parameters(request: Request) -> None:
    """Check that the route takes all query parameters of a request: a misspelt one would be ignored silently."""
    if not request.query_params:
        return
    allowed = _list_query_names(request.scope["route"].dependant)
    unknown = [name for name in request.query_params if name not in allowed]
    if unknown:
        takes = f"takes {', '.join(allowed)}" if allowed else "takes none"
        raise InvalidRequest(f"query.{unknown[0]}: unknown parameter, this route {takes}; check the spelling")


def _list_query_names(dependant: Dependant) -> list[str]:
    """Return the names of the query parameters of a route and of its dependencies, in OpenAPI's order.

    The OpenAPI document has the names too, but generating it blocks the process.
    """
    names = [parameter.alias for parameter in dependant.query_params]
    return names + [name for dependency in dependant.dependencies for name in _list_query_names(dependency)]


RunsDep = Annotated[RunWriter, Depends(_get_runs)]
SelectionsDep = Annotated[Selections, Depends(_get_selections)]
LabelsAndAuditsDep = Annotated[LabelsAndAudits, Depends(_get_labels_and_audits)]
AuditDrawsDep = Annotated[AuditDraws, Depends(_get_audit_draws)]
PredictionsDep = Annotated[PredictionWriter, Depends(_get_predictions)]
EventFeedDep = Annotated[EventFeed, Depends(_get_event_feed)]
EpochsDep = Annotated[EpochWriter, Depends(_get_epochs)]
ShardsDep = Annotated[ShardWriter, Depends(_get_shards)]
StatusReaderDep = Annotated[StatusReader, Depends(_get_status_reader)]
SampleIdsDep = Annotated[ExternalIds, Depends(_get_sample_ids)]
CallerDep = Annotated[ApiKey, Depends(_get_caller)]
RevalidateKeyDep = Annotated[RevalidateKey, Depends(_get_revalidate_key)]
SuggesterDep = Annotated[LabelSuggester, Depends(_get_suggester)]
SampleTablesDep = Annotated[SampleTables, Depends(_get_sample_tables)]
SettingsDep = Annotated[Settings, Depends(_get_settings)]


Changes = Annotated[dict[str, Any], Depends(make_query_dependency(SelectionOptions))]
"""Selection options in the query, which replace those of the run for this request only."""


async def _parse_round_choice(
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
    """Return the query parameter `round` as a number, or as one of the two names."""
    if round_ == "latest":
        return "latest"
    return "best" if round_ == "best" else int(round_)


WhichRound = Annotated[RoundChoice, Depends(_parse_round_choice)]

UntilEpoch = Annotated[int | None, Query(ge=0, description="Last epoch of the round that counts.")]
