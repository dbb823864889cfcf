"""FastAPI dependencies of the routes: services, settings, and parameters that several routes share.

All dependencies are coroutines, since FastAPI runs plain functions in a worker thread, which costs each request time.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Header, Path, Query, Request
from fastapi.dependencies.models import Dependant
from pydantic.json_schema import SkipJsonSchema

from mild_core.types import RUN_ID_PATTERN, SelectionOptions
from mild_service.annotations.external_ids import ExternalIds
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.api_keys import ApiKey
from mild_service.auth import Authenticator
from mild_service.config import Settings
from mild_service.errors import InvalidRequest
from mild_service.models import NO_PRECONDITION, Precondition, Run
from mild_service.recording.epoch_status import StatusReader
from mild_service.recording.epoch_writer import EpochWriter
from mild_service.recording.prediction_writer import PredictionWriter
from mild_service.recording.run_writer import RunWriter
from mild_service.recording.shard_writer import ShardWriter
from mild_service.selecting.audit_draws import AuditDraws
from mild_service.selecting.event_feed import EventFeed
from mild_service.selecting.round_selection import RoundSelection
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
RevalidateKey: TypeAlias = Callable[[], Awaitable[ApiKey]]
"""Function that raises `Unauthenticated` if the caller's key has become invalid; called during long responses."""
Replace = Annotated[bool, Query(description="Replace other content, while the round is open.")]


def _from_state(name: str) -> Any:
    """Return the dependency that gives an object of the application, by its name in `FastAPI.state`."""

    async def get(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(get)


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


RunsDep = Annotated[RunWriter, _from_state("runs")]


async def _find_run(run_id: RunId, runs: RunsDep) -> Run:
    return await runs.find(run_id)


RunDep = Annotated[Run, Depends(_find_run)]
"""The current record of the run in the path."""
SelectionsDep = Annotated[Selections, _from_state("selections")]
LabelsAndAuditsDep = Annotated[LabelsAndAudits, _from_state("labels_and_audits")]
AuditDrawsDep = Annotated[AuditDraws, _from_state("audit_draws")]
PredictionsDep = Annotated[PredictionWriter, _from_state("predictions")]
EventFeedDep = Annotated[EventFeed, _from_state("event_feed")]
EpochsDep = Annotated[EpochWriter, _from_state("epochs")]
ShardsDep = Annotated[ShardWriter, _from_state("shards")]
StatusReaderDep = Annotated[StatusReader, _from_state("status_reader")]
SampleIdsDep = Annotated[ExternalIds, _from_state("sample_ids")]
SettingsDep = Annotated[Settings, _from_state("settings")]
AuthenticatorDep = Annotated[Authenticator, _from_state("authenticator")]
CallerDep = Annotated[ApiKey, Depends(_get_caller)]
RevalidateKeyDep = Annotated[RevalidateKey, Depends(_get_revalidate_key)]


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


async def _open_chosen(
    run: RunDep,
    selections: SelectionsDep,
    which: WhichRound,
    changes: Changes,
    until_epoch: UntilEpoch = None,
) -> RoundSelection:
    return await selections.open(run, which, changes, until_epoch)


async def _open_of_round(
    run: RunDep,
    round_: RoundNumber,
    selections: SelectionsDep,
    changes: Changes,
    until_epoch: UntilEpoch = None,
) -> RoundSelection:
    return await selections.open(run, round_, changes, until_epoch)


ChosenSelectionDep = Annotated[RoundSelection, Depends(_open_chosen)]
"""The selection of the run in the path, of the round and with the options in the query."""
RoundSelectionDep = Annotated[RoundSelection, Depends(_open_of_round)]
"""The selection of the run and the round in the path, with the options in the query."""


_DIGEST_ETAG = re.compile(r'"([0-9a-f]{1,64})"')
"""Form of the ETags of stored content."""
_NO_DIGEST = "none"
"""Digest that no stored content has, for a header without a possible ETag."""
_MAX_LENGTHS = {"If-Match": 8192, "If-None-Match": 64}
"""Most characters of each header."""
_DESCRIPTIONS = {
    "If-Match": "Write only over content with one of these ETags; * is any.",
    "If-None-Match": "Only *: write only where there is nothing yet.",
}


async def _read_precondition(request: Request) -> Precondition:
    """Return the precondition in the headers If-Match and If-None-Match of a write."""
    # Not declared as parameters: FastAPI's validation of each would slow down every epoch's PUT.
    if_match, if_none_match = (request.headers.get(name) for name in _MAX_LENGTHS)
    if if_match is if_none_match is None:
        return NO_PRECONDITION
    for name, value in (("If-Match", if_match), ("If-None-Match", if_none_match)):
        if len(value or "") > _MAX_LENGTHS[name]:
            raise InvalidRequest(
                f"{name} has {len(value or '')} characters, at most {_MAX_LENGTHS[name]} are read; name fewer"
            )
    if if_none_match is not None and if_none_match.strip() != "*":
        raise InvalidRequest(f"If-None-Match is {if_none_match!r}; send * with a write, or If-Match with an ETag")
    if if_match is None:
        return Precondition(must_be_absent=if_none_match is not None)
    if if_none_match is not None:
        raise InvalidRequest("If-Match and If-None-Match are both sent, and never hold together; send one of them")
    tags = [tag.strip() for tag in if_match.split(",")]
    if tags == ["*"]:
        return Precondition(digests=frozenset())
    digests = frozenset(match[1] for tag in tags if (match := _DIGEST_ETAG.fullmatch(tag)))
    return Precondition(digests=digests or frozenset([_NO_DIGEST]))  # a weak tag never matches (RFC 9110, 13.1.1)


PreconditionDep = Annotated[Precondition, Depends(_read_precondition)]
"""The precondition of a write, from If-Match and If-None-Match."""


PRECONDITION_HEADERS = [
    {
        "name": name.lower(),
        "in": "header",
        "required": False,
        "schema": {"type": "string", "maxLength": max_length, "title": name},
        "description": _DESCRIPTIONS[name],
    }
    for name, max_length in _MAX_LENGTHS.items()
]
"""The headers of a precondition in OpenAPI."""


def make_etag_header(digest: str) -> dict[str, str]:
    """Return the header ETag of stored content with this digest."""
    return {"ETag": f'"{digest}"'}
