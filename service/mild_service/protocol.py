"""Senders that keep a connection busy with no request: uvicorn waits for them, so its protocol is given bounds here."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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
