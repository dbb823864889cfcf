"""A small HTTP server in a thread that answers as it is told, and keeps what it was sent, byte for byte."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; without a status there is none: the connection is closed, or held for as long as the client waits."""

    status: int | None = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    is_held: bool = False

    @classmethod
    def problem(cls, status: int, code: str = "some-code", **more: object) -> Self:
        """A problem document."""
        body = {"type": f"/problems/{code}", "detail": "limit, value, remedy", "request_id": "r-1", **more}
        return cls(status, json.dumps(body).encode(), {"Content-Type": "application/problem+json"})


HANG_UP = Reply(status=None)
SILENCE = Reply(status=None, is_held=True)
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

    def __init__(self, replies: list[Reply], version: Mapping[str, Any] | None, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.replies = replies
        self.version = None if version is None else Reply(body=json.dumps(dict(version)).encode())
        self.sent: list[Sent] = []
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        """Close every connection, as a process that ends does."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

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
            if reply.is_held:
                self.rfile.read(1)  # nothing comes: it returns when the client has closed the connection
            self.close_connection = True
            return
        self.send_response_only(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), "Mild-API": "1", **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 (names that the base class looks for)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(*replies: Reply, version: Mapping[str, Any] | None = VERSION, port: int = 0) -> Iterator[Server]:
    """A server with these replies; without a `version` that route has no answer of its own."""
    with Server(list(replies) or [Reply()], version, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.hang_up()
