"""An application behind a real socket, in a thread: for streams, which an in-process transport would gather up."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import uvicorn
from fastapi import FastAPI

from tests.waiting import PATIENCE


@contextmanager
def serving(app: FastAPI, **config: Any) -> Iterator[str]:
    """The base URL of `app`, served on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = {"log_config": None, "timeout_graceful_shutdown": 5, **config}
        server = uvicorn.Server(uvicorn.Config(app, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def connect(url: str) -> socket.socket:
    """A bare connection to a served application, for what no HTTP client would do."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def until_closed(connection: socket.socket) -> bytes:
    """What comes until the other side closes the connection."""
    answer = bytearray()
    while piece := connection.recv(65536):
        answer += piece
    return bytes(answer)


def status(connection: socket.socket) -> int:
    """Status of the next answer, which is read to its end: it may come in several pieces."""
    with HTTPResponse(connection) as response:
        response.begin()
        response.read()
        return response.status
