"""The server process: connection timeouts, draining before it stops, and settings of the Python interpreter."""

import asyncio
import gc
import resource
import sys

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mild_service.selecting.event_feed import EventFeed

_HEAD_BYTES = 64 * 1024
_MAX_FILES = 65_536
_PROBES = (b"/health", b"/ready")
_PROBE_CONNECTIONS = 64
"""Connections beyond the limit that are accepted for probes; all other requests on them are answered with 503."""
_OTHER_FILES = 128
"""Files that are kept for workers, temporary files and the store's own connections of each process."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with limits for the head of a request, and for a body that outlasts the response.

    The connection is closed if either takes longer than `timeout_seconds`, or at once if the head is too long. The rest
    of a body after an early response is read and discarded, since closing a connection while the client is sending may
    lose the response. A connection whose client does not read for `write_seconds` is dropped with the response. Beyond
    `max_connections`, only probes are answered.
    """

    timeout_seconds = 10.0
    write_seconds = 30.0
    max_connections: int | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _timer: asyncio.TimerHandle | None = None
    _n_head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its parent
        """Start the timer for the head of the first request."""
        super().connection_made(transport)
        self._start_timer()
        if self.max_connections is not None and len(self.connections) > self.max_connections + _PROBE_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the timer for the client to read: the connection takes no more of the response."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer: the client has read."""
        self._stop_write_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Read data, and close the connection if the head of a request is too long."""
        super().data_received(data)
        self._n_head_bytes = self._n_head_bytes + len(data) if self._in_head else 0
        if self._n_head_bytes > _HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Start the timer for the rest of a request's head."""
        super().on_message_begin()
        self._in_head = True
        self._start_timer()

    def on_headers_complete(self) -> None:
        """Stop the timer: the application limits the time from here on."""
        self._in_head = False
        self._stop_timer()
        is_probe = self.url.partition(b"?")[0].endswith(_PROBES)
        self.limit_concurrency = None if is_probe else self.max_connections  # uvicorn answers 503 and logs it
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the timer: uvicorn limits the time until the next request."""
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the timer for the rest of a body that the application has not read."""
        if self.cycle.response_complete and self.cycle.more_body:
            self._start_timer()
        super().on_response_complete()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.timeout_seconds, self.transport.close)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def make_protocol(
    timeout_seconds: float, write_seconds: float = 30.0, max_connections: int | None = None
) -> type[BoundedProtocol]:
    """Return a subclass of `BoundedProtocol` with these limits: uvicorn takes a class, not an object."""
    limits = {"timeout_seconds": timeout_seconds, "write_seconds": write_seconds, "max_connections": max_connections}
    return type("BoundedProtocol", (BoundedProtocol,), limits)


def find_connection_limit(store_connections: int) -> int:
    """Raise the soft limit of open files to the hard one, and return how many connections that leaves to clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        soft = limit
    files = limit if soft == resource.RLIM_INFINITY else soft
    return max(_PROBE_CONNECTIONS, files - store_connections - _OTHER_FILES - _PROBE_CONNECTIONS)


class Drain:
    """State of the shutdown: whether the service has begun to refuse new work.

    Parameters
    ----------
    feed
        Event feed, which ends when the shutdown begins.
    """

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed
        self.has_begun = False

    def begin(self) -> None:
        """Make the readiness probe fail, and end long polls and event streams."""
        self.has_begun = True
        self._feed.close()


_GC_THRESHOLD = 10_000
"""New objects between two runs of the cycle collector. Python's default of 700 is reached within a few requests, which
leave hardly any cycles; no cycle was seen to hold a body."""
_SWITCH_SECONDS = 0.0005
"""Longest time that a computing thread may block the event loop; Python's default is ten times as long.

The loop releases the interpreter at every system call, several times per request, and has to wait for it each time
while sets are computed."""


def tune_gc() -> None:
    """Tune the garbage collector and thread switching; called once everything is loaded, before serving.

    Modules, routes and schemas are some hundred thousand permanent objects. Traversing them delayed all requests, and
    garbage collection took a sixth of the time of an epoch's PUT.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    sys.setswitchinterval(_SWITCH_SECONDS)
