"""``/runs/{run_id}/events``: what happens to a run, as server-sent events."""

import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic.json_schema import SkipJsonSchema

from mild_service.config import Settings
from mild_service.errors import AccessError, InvalidRequest, Overloaded, RunNotFound, StoreError
from mild_service.models import Event, Run
from mild_service.observability import Telemetry
from mild_service.selecting.event_feed import EventFeed
from mild_service.web.dependencies import Again, AgainDep, EventFeedDep, RunId, RunsDep, SettingsDep
from mild_service.web.problems import described

router = APIRouter(tags=["events"])

_ID = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})")
_MEDIA_TYPE = "text/event-stream"
_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}
_RETRY_MS = 1000
"""A client that was cut off comes back after this long."""

LastEventId = Annotated[
    str | SkipJsonSchema[None],
    Header(
        alias="Last-Event-ID", description="Id of the last event that was seen; none: from the oldest that is kept."
    ),
]


async def _slot(request: Request, settings: SettingsDep) -> AsyncIterator[None]:
    """One of the streams that may be open; given back when the response has ended."""
    telemetry: Telemetry = request.app.state.telemetry
    if request.app.state.streams.locked():
        raise Overloaded(
            f"{settings.max_streams} event streams are open, as many as this service serves at once; try again later, "
            "or have MILD_MAX_STREAMS raised"
        )
    async with request.app.state.streams:
        with telemetry.streams.track_inprogress():
            yield


@router.get(
    "/runs/{run_id}/events",
    dependencies=[Depends(_slot)],
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {_MEDIA_TYPE: {"itemSchema": _EVENT}},  # as OpenAPI 3.2 and FastAPI describe a stream's items
            "description": "Events, as they happen",
        },
        **described(InvalidRequest, RunNotFound, Overloaded),
    },
)
async def get_events(
    run_id: RunId,
    runs: RunsDep,
    feed: EventFeedDep,
    settings: SettingsDep,
    again: AgainDep,
    last_event_id: LastEventId = None,
) -> StreamingResponse:
    """What happens to a run, as it happens, until the run goes; first what has happened since `Last-Event-ID`."""
    run = await runs.find(run_id)
    after = _after(run, last_event_id)
    # A proxy must pass events on at once, and nobody may keep them.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(feed, run, after, settings, again), headers=headers, media_type=_MEDIA_TYPE)


def _after(run: Run, last_event_id: str | None) -> int | None:
    """The number to go on behind; None when the id is of a run of the same name that is gone."""
    if not last_event_id:
        return 0
    found = _ID.fullmatch(last_event_id)
    if found is None:
        raise InvalidRequest(
            f"header.Last-Event-ID: {last_event_id[:64]!r} is no event's id; send the last `id` that this route gave"
        )
    number = int(found[2])
    return number if found[1] == run.uid and number <= run.n_events else None


async def _stream(
    feed: EventFeed, run: Run, after: int | None, settings: Settings, again: Again
) -> AsyncIterator[bytes]:
    """The wire: events and heartbeats until run, key or service goes, or the stream is as old as it may get."""
    yield format_sse_event(retry=_RETRY_MS)
    ends = time.monotonic() + settings.stream_seconds
    lost, seen = after is None, after or 0
    async with feed.watch(run) as tail:
        while not feed.closing and (left := ends - time.monotonic()) > 0:
            try:
                events = await tail.next_events(seen, min(settings.heartbeat_seconds, left))
                await again()
            except (StoreError, AccessError):
                return  # the client comes back, to a replica that reaches the store
            if events and (lost or events[0].number > seen + 1):
                yield _lost(run, events[0].number - 1, None if lost else events[0].number - 1 - seen)
                lost = False
            for event in events:
                yield _told(run, event)
                seen = event.number
            if not events and not tail.alive:
                yield format_sse_event(event="run-deleted", data_str=_data({"run_id": run.run_id}))
                return
            if not events:
                yield KEEPALIVE_COMMENT
    yield format_sse_event(comment="to be continued: connect again with Last-Event-ID", retry=_RETRY_MS)


def _told(run: Run, event: Event) -> bytes:
    data = {"run_id": run.run_id, "at": event.at, **event.fields}
    return format_sse_event(event=event.kind, data_str=_data(data), id=f"{run.uid}-{event.number}")


def _lost(run: Run, number: int, missed: int | None) -> bytes:
    data = {"run_id": run.run_id, "num_missed": missed}
    return format_sse_event(event="events-lost", data_str=_data(data), id=f"{run.uid}-{number}")


def _data(value: dict[str, Any]) -> str:
    return orjson.dumps(value).decode()
