"""Events of a run: ``/runs/{run_id}/events``, a stream of server-sent events."""

import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic.json_schema import SkipJsonSchema

from mild_service.admission import Admission, get_current_key
from mild_service.config import Settings
from mild_service.errors import AccessError, InvalidRequest, StoreError
from mild_service.models import Event, Run
from mild_service.observability import Telemetry
from mild_service.selecting.event_feed import EventFeed
from mild_service.web import media_types
from mild_service.web.dependencies import EventFeedDep, RevalidateKey, RevalidateKeyDep, RunDep, SettingsDep

router = APIRouter(tags=["events"])

_EVENT_ID = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})")
_EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}
_RETRY_MS = 1000
"""Milliseconds after which a client reconnects."""

LastEventId = Annotated[
    str | SkipJsonSchema[None],
    Header(
        alias="Last-Event-ID",
        description="Id of the last event that was received; without it, the stream begins with the oldest stored one.",
    ),
]


async def _take_stream(request: Request) -> AsyncIterator[None]:
    """Take one of the service's event streams until the response has ended."""
    telemetry: Telemetry = request.app.state.telemetry
    if _is_head(request):
        yield
        return
    admission: Admission = request.app.state.admission
    with admission.hold_share(admission.streams, get_current_key(), 1), telemetry.streams.track_inprogress():
        yield


@router.get(
    "/runs/{run_id}/events",
    dependencies=[Depends(_take_stream)],
    response_class=StreamingResponse,
    responses={
        200: {
            # as OpenAPI 3.2 and FastAPI describe the items of a stream
            "content": {media_types.EVENT_STREAM: {"itemSchema": _EVENT_SCHEMA}},
            "description": "Events, as they happen",
        },
    },
)
async def get_events(
    request: Request,
    run: RunDep,
    feed: EventFeedDep,
    settings: SettingsDep,
    revalidate_key: RevalidateKeyDep,
    last_event_id: LastEventId = None,
) -> StreamingResponse:
    """Stream the events of a run until the run is deleted: the stored ones after `Last-Event-ID`, then new ones."""
    last_number = _parse_event_id(run, last_event_id)
    # A proxy must forward events at once, and no cache may store them.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = iter(()) if _is_head(request) else _stream_events(feed, run, last_number, settings, revalidate_key)
    return StreamingResponse(stream, headers=headers, media_type=media_types.EVENT_STREAM)


def _is_head(request: Request) -> bool:
    """Return whether only the headers of the stream are asked for, which takes none of the streams."""
    return getattr(request.state, "is_head", False)


def _parse_event_id(run: Run, last_event_id: str | None) -> int | None:
    """Return the number in an event id: 0 without an id, None if the id is of a deleted run of the same name."""
    if not last_event_id:
        return 0
    match = _EVENT_ID.fullmatch(last_event_id)
    if match is None:
        raise InvalidRequest(
            f"header.Last-Event-ID: {last_event_id[:64]!r} is not an event id; send the last `id` from this route"
        )
    number = int(match[2])
    return number if match[1] == run.uid and number <= run.n_events else None


async def _stream_events(
    feed: EventFeed, run: Run, last_number: int | None, settings: Settings, revalidate_key: RevalidateKey
) -> AsyncIterator[bytes]:
    """Yield events and heartbeats until the run, key or service ends, or the stream reaches its longest duration."""
    yield format_sse_event(retry=_RETRY_MS)
    deadline = time.monotonic() + settings.stream_seconds
    is_unknown, last_sent = last_number is None, last_number or 0
    async with feed.watch(run) as tail:
        while not feed.closing and (remaining := deadline - time.monotonic()) > 0:
            try:
                events = await tail.wait_for_events(last_sent, min(settings.heartbeat_seconds, remaining))
                await revalidate_key()
            except (StoreError, AccessError):
                return  # the client reconnects, to a replica that reaches the store
            if events and (is_unknown or events[0].number > last_sent + 1):
                number = events[0].number - 1
                yield _format_lost_events(run, number, None if is_unknown else number - last_sent)
                is_unknown = False
            for event in events:
                yield _format_event(run, event)
                last_sent = event.number
            if not events and not tail.is_alive:
                yield format_sse_event(event="run-deleted", data_str=_to_json({"run_id": run.run_id}))
                return
            if not events:
                yield KEEPALIVE_COMMENT
    yield format_sse_event(comment="to be continued: connect again with Last-Event-ID", retry=_RETRY_MS)


def _format_event(run: Run, event: Event) -> bytes:
    """Format an event as a server-sent event."""
    data = {"run_id": run.run_id, "at": event.at, **event.fields}
    return format_sse_event(event=event.kind, data_str=_to_json(data), id=f"{run.uid}-{event.number}")


def _format_lost_events(run: Run, number: int, n_missed: int | None) -> bytes:
    """Format the notice that `n_missed` events up to `number` are no longer stored; None if they cannot be counted."""
    data = {"run_id": run.run_id, "num_missed": n_missed}
    return format_sse_event(event="events-lost", data_str=_to_json(data), id=f"{run.uid}-{number}")


def _to_json(value: dict[str, Any]) -> str:
    return orjson.dumps(value).decode()
