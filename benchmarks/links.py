"""TCP connections between a client and a server that can be cut."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self


class Link:
    """Forwards TCP connections to a server, and cuts them in the middle of what is sent."""

    def __init__(self) -> None:
        self.port = 0
        self.n_cuts = 0
        self._target: int | Path | None = None
        self._budget: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = server.result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lead_to(self, target: int | Path) -> None:
        """Forward new connections to a port or a Unix socket."""
        self._target = target

    def cut_after(self, n_bytes: int) -> None:
        """Cut all connections after so many more bytes to the server."""
        self._loop.call_soon_threadsafe(setattr, self, "_budget", n_bytes)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        server_writer = None
        try:
            server_reader, server_writer = await self._connect()
            self._writers.add(server_writer)
            both = (_pump(reader, server_writer, self._spend), _pump(server_reader, writer, lambda n_bytes: n_bytes))
            ways = [asyncio.ensure_future(way) for way in both]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            server_writer.close()
            writer.close()
            await asyncio.wait(ways)
        except OSError:
            pass
        finally:
            for end in (writer, server_writer):
                if end is not None:
                    end.close()
                    self._writers.discard(end)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    def _spend(self, n_bytes: int) -> int:
        """Return how many of these bytes are forwarded."""
        if self._budget is None:
            return n_bytes
        n_passed = min(self._budget, n_bytes)
        self._budget -= n_passed
        if self._budget == 0:
            self._budget = None
            self._loop.call_soon(self._cut)
        return n_passed

    def _cut(self) -> None:
        self.n_cuts += 1
        for writer in self._writers:
            _reset(writer)

    async def _close(self) -> None:
        self._server.close()
        self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=5)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: Callable[[int], int]) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece[: limit(len(piece))])
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    if end is not None and end.family == socket.AF_INET:
        with contextlib.suppress(OSError):  # gone already
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
