"""A run's events: the lines of a server-sent event stream as values, and where a stream goes on that was cut off."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mild_client.requests import Request

_PATIENCE = 120.0
"""Seconds of silence after which a connection counts as lost; the service sends a heartbeat more often."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to a run.

    Attributes
    ----------
    kind
        What, such as ``epoch-committed``. Kinds may be added; a reader ignores those that it does not know.
    data
        ``run_id``, mostly ``at`` (Unix time in seconds), and what belongs to the kind, in the wire's names.
    id
        What to go on behind; empty where nothing comes behind it.
    """

    kind: str
    data: Mapping[str, Any]
    id: str


class EventStream:
    """What is read of a run's events, over as many connections as it takes; does no I/O.

    Attributes
    ----------
    pause
        Seconds to wait before connecting again, as the service asks.
    has_ended
        Whether the run is gone, and nothing more comes.
    """

    def __init__(self, run_id: str, last_event_id: str | None) -> None:
        self.pause = 1.0
        self.has_ended = False
        self._path = f"/runs/{run_id}/events"
        self._last_id = last_event_id
        self._buffer = b""
        self._fields: dict[str, str] = {}

    def request(self) -> Request:
        """What to ask a new connection for: the events behind the last one that was read."""
        self._buffer, self._fields = b"", {}
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if self._last_id:
            headers["Last-Event-ID"] = self._last_id
        return Request("GET", self._path, headers=headers, patience=_PATIENCE)

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that `piece` completes. An event that a connection was cut off in comes again with the next."""
        *lines, self._buffer = (self._buffer + piece).split(b"\n")
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
            self.pause = int(fields["retry"]) / 1000
        if "data" not in fields:
            return
        event = Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id", ""))
        self._last_id = event.id or self._last_id
        self.has_ended = event.kind == "run-deleted"
        yield event
