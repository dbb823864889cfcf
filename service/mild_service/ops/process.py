"""Senders that keep a connection busy with no request: uvicorn waits for them, so its protocol is given bounds here.

The end of a process, announced: balancers are told, and nobody is kept waiting.

The Python interpreter, set for a process that serves: by default it is set for programs that run and end.
"""

import asyncio
import gc
import sys

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mild_service.selecting.event_feed import EventFeed

_HEAD_BYTES = 64 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1, where a request's head, and a body that goes on after its answer, have `patience` seconds each.

    After that the connection is closed, and at once where a head is too long. What follows an early answer is thrown
    away until then, as a connection that is closed while the other side sends may lose it the answer.
    """

    patience = 10.0
    _timer: asyncio.TimerHandle | None = None
    _n_head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its parent
        """Expect the first request."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, as long as the head is not too long."""
        super().data_received(data)
        self._n_head_bytes = self._n_head_bytes + len(data) if self._in_head else 0
        if self._n_head_bytes > _HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Expect the rest of a request's head."""
        super().on_message_begin()
        self._in_head = True
        self._start()

    def on_headers_complete(self) -> None:
        """Let the request take its time from here on: the application counts it."""
        self._in_head = False
        self._stop()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait for the next request as usual."""
        self._stop()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that nobody reads, but not for long."""
        if self.cycle.response_complete and self.cycle.more_body:
            self._start()
        super().on_response_complete()

    def _start(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.patience, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bounded(patience: float) -> type[BoundedProtocol]:
    """The protocol with a limit of its own, as uvicorn takes a class."""
    return type("BoundedProtocol", (BoundedProtocol,), {"patience": patience})


class Drain:
    """Whether the service is about to end."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed
        self.begun = False

    def begin(self) -> None:
        """Be ready no more, and let long-polls and event streams end."""
        self.begun = True
        self._feed.close()


_YOUNG = 10_000
"""Objects that are made, and not freed, between two looks for cycles. Python's own 700 are made by a few requests,
which leave next to no cycles behind; no cycle was seen to hold a body."""
_SWITCH_SECONDS = 0.0005
"""How long a thread that computes keeps the event loop from going on; Python's own is ten times as long.

The loop lets go of the interpreter at every call to the system, several times a request, and while sets are computed
each time it has to wait for its turn again."""


def settle() -> None:
    """Set it; to be called when all is loaded, before serving.

    Modules, routes and schemas are some hundred thousand objects which stay for good. Going through them for cycles
    held up every request that came meanwhile, and all such looking took a sixth of the time of an epoch's PUT.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
    sys.setswitchinterval(_SWITCH_SECONDS)
