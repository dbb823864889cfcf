"""The events of a run, and the parser of its stream of server-sent events."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mild_client.requests import Request, build_run_path

_READ_TIMEOUT = 120.0
"""Seconds of silence after which a connection counts as lost; the service sends a heartbeat more often."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run.

    Attributes
    ----------
    kind
        Kind of event, such as ``epoch-committed``. Ignore unknown kinds, as new ones may be added.
    data
        ``run_id``, for most kinds ``at`` (Unix time in seconds), and the fields of the kind, as in the HTTP API.
    id
        Value of ``last_event_id`` with which a new stream continues after this event. Empty for the last event of a
        run.
    """

    kind: str
    data: Mapping[str, Any]
    id: str


class EventStream:
    """Parser of a run's events, which continues over several connections; does no I/O.

    Attributes
    ----------
    retry_seconds
        Seconds to wait before the next connection, set by the service.
    has_ended
        Whether the run was deleted. No events follow.
    """

    def __init__(self, run_id: str, last_event_id: str | None) -> None:
        self.retry_seconds = 1.0
        self.has_ended = False
        self._path = build_run_path(run_id, "events")
        self._last_event_id = last_event_id
        self._buffer = b""
        self._fields: dict[str, str] = {}

    def build_connect_request(self) -> Request:
        """Build the request of a new connection, which asks for the events after the last one read.

        An event that the previous connection sent only in part is discarded. The service sends it again.
        """
        self._buffer, self._fields = b"", {}
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        return Request("GET", self._path, headers=headers, read_timeout=_READ_TIMEOUT)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Parse the next bytes of the response, and yield each event that is complete.

        The rest of `chunk` is kept for the next call.
        """
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            text = line.decode().removesuffix("\r")
            if text:
                name, _, value = text.partition(":")
                self._fields[name] = value.removeprefix(" ")
            else:
                yield from self._complete_event()

    def _complete_event(self) -> Iterator[Event]:
        """Yield the event of the fields read so far, unless they have no data, and clear the fields."""
        fields, self._fields = self._fields, {}
        if fields.get("retry", "").isdecimal():
            self.retry_seconds = int(fields["retry"]) / 1000
        if "data" not in fields:
            return
        event = Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id", ""))
        self._last_event_id = event.id or self._last_event_id
        self.has_ended = event.kind == "run-deleted"
        yield event
