"""Requests whose head trickles or never ends: uvicorn would wait for them, so its protocol is given bounds here."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_BYTES = 64 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1; closes a connection whose request line and headers are too long, or not in after `head_seconds`."""

    head_seconds = 10.0
    _timer: asyncio.TimerHandle | None = None
    _n_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its parent
        """Expect the first request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._head_is_in()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, as long as the head is not too long."""
        super().data_received(data)
        if self._timer is not None:
            self._n_bytes += len(data)
            if self._n_bytes > _HEAD_BYTES:
                self.transport.close()

    def on_message_begin(self) -> None:
        """Expect the rest of a request's head."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Let the request take its time from here on: other limits count it."""
        self._head_is_in()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _head_is_in(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._n_bytes = 0


def bounded(head_seconds: float) -> type[BoundedProtocol]:
    """The protocol with a limit of its own, as uvicorn takes a class."""
    return type("BoundedProtocol", (BoundedProtocol,), {"head_seconds": head_seconds})
