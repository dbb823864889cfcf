"""A small HTTP server in a thread that answers as it is told, and keeps what it was sent, byte for byte."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; without a status the connection is closed instead."""

    status: int | None = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


HANG_UP = Reply(status=None)
VERSION: Mapping[str, Any] = MappingProxyType({"oldest_client": "0.1.0", "limits": {}})


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it came."""

    line: bytes
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Server(ThreadingHTTPServer):
    """Gives the replies in their order, and the last one from then on; to ``/version`` always its own."""

    daemon_threads = True

    def __init__(self, replies: list[Reply], version: Mapping[str, Any] | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = replies
        self.version = None if version is None else Reply(body=json.dumps(dict(version)).encode())
        self.sent: list[Sent] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    raw_requestline: bytes

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.version is not None and self.path == "/version":
            reply = self.server.version
        else:
            self.server.sent.append(Sent(self.raw_requestline, tuple(self.headers.items()), body))
            reply = self.server.replies[min(len(self.server.sent), len(self.server.replies)) - 1]
        if reply.status is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 (names that the base class looks for)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(*replies: Reply, version: Mapping[str, Any] | None = VERSION) -> Iterator[Server]:
    """A server with these replies; without a `version` that route has no answer of its own."""
    with Server(list(replies) or [Reply()], version) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
