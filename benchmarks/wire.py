"""HTTP/1.1 over a plain socket: sends any request, valid or not, at little cost."""

import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; status 0 if the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection that is kept open, and reopened after it was closed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._socket: socket.socket | None = None

    def send(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        cut_off: int | None = None,
    ) -> Answer:
        """Send a request.

        Parameters
        ----------
        target
            Path and query, sent as they are.
        cut_off
            Close the connection after so many bytes of the body, and do not wait for an answer.
        """
        lines = [f"{method} {target} HTTP/1.1", "Host: benchmark", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if cut_off is not None:
            self._socket.sendall(head + body[:cut_off])
            self.close()
            return Answer(0, {}, b"")
        with suppress(BrokenPipeError, ConnectionResetError):  # rejected early: there may be an answer nevertheless
            self._socket.sendall(head + body)
        return self._read_answer()

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_answer(self) -> Answer:
        assert self._socket is not None, "the connection is open"
        head, body = b"HTTP/1.1 100", b""
        while head.startswith(b"HTTP/1.1 1"):  # 100 (continue) is not the answer yet
            while b"\r\n\r\n" not in body:
                piece = self._receive()
                if not piece:
                    self.close()
                    return Answer(0, {}, b"")
                body += piece
            head, _, body = body.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        length = int(headers.get("content-length", 0))
        while len(body) < length:
            piece = self._receive()
            if not piece:
                break
            body += piece
        if headers.get("connection") == "close" or len(body) > length:  # further bytes answer a rest of the request
            self.close()
        return Answer(int(first.split(" ")[1]), headers, body[:length])

    def _receive(self) -> bytes:
        assert self._socket is not None, "the connection is open"
        try:
            return self._socket.recv(65536)
        except ConnectionResetError:
            return b""
