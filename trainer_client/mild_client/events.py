"""The events of a run: parsing of its server-sent event stream, which continues over several connections."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mild_client.requests import Request

_READ_TIMEOUT = 120.0
"""Seconds of silence after which a connection counts as lost; the service sends a heartbeat more often."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a run.

    Attributes
    ----------
    kind
        Kind of event, such as ``epoch-committed``. Kinds may be added; ignore unknown ones.
    data
        ``run_id``, usually ``at`` (Unix time in seconds), and the fields of the kind, as in the HTTP API.
    id
        Value for ``last_event_id`` to continue after this event; empty for the last event of a run.
    """

    kind: str
    data: Mapping[str, Any]
    id: str


class EventStream:
    """Parser of a run's event stream, over any number of connections; does no I/O.

    Attributes
    ----------
    retry_seconds
        Seconds to wait before the next connection, as the service asks.
    has_ended
        Whether the run was deleted, after which there are no events.
    """

    def __init__(self, run_id: str, last_event_id: str | None) -> None:
        self.retry_seconds = 1.0
        self.has_ended = False
        self._path = f"/runs/{run_id}/events"
        self._last_event_id = last_event_id
        self._buffer = b""
        self._fields: dict[str, str] = {}

    def next_request(self) -> Request:
        """Return the request of a new connection, for the events after the last one read."""
        self._buffer, self._fields = b"", {}
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        return Request("GET", self._path, headers=headers, read_timeout=_READ_TIMEOUT)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that `chunk` completes. An event that was cut off is sent again on the next connection."""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            text = line.decode().removesuffix("\r")
            if text:
                name, _, value = text.partition(":")
                self._fields[name] = value.removeprefix(" ")
            else:
                yield from self._dispatch()

    def _dispatch(self) -> Iterator[Event]:
        fields, self._fields = self._fields, {}
        if fields.get("retry", "").isdecimal():
            self.retry_seconds = int(fields["retry"]) / 1000
        if "data" not in fields:
            return
        event = Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id", ""))
        self._last_event_id = event.id or self._last_event_id
        self.has_ended = event.kind == "run-deleted"
        yield event
