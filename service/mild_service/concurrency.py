"""Work that a process does at the same time, and how much of it may wait for its turn.

What was used last, in a bounded memory.

Work on bodies: at once where they are small, else beside the event loop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from anyio import to_thread
from prometheus_client import Gauge

from mild_service.errors import Overloaded
from mild_service.observability import phase


class WorkLimiter:
    """So many at work, so many waiting, and no more."""

    def __init__(self, n_working: int, n_waiting: int, work: str, waiting: Gauge) -> None:
        self._n_working = n_working
        self._semaphore = asyncio.Semaphore(n_working)
        self._n_waiting = n_waiting
        self._work = work
        self._gauge = waiting
        self._waiting = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        """Hold a slot, after waiting for it if need be.

        Raises
        ------
        Overloaded
            If as many are waiting as may.
        """
        if self._semaphore.locked() and self._waiting >= self._n_waiting:
            raise Overloaded(
                f"the service is {self._work} for {self._n_working} requests and {self._n_waiting} wait, "
                "as many as may; try again in a second, or have MILD_MAX_WAITING raised"
            )
        self._waiting += 1
        try:
            with self._gauge.track_inprogress():
                await self._semaphore.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._semaphore.release()


class HasByteSize(Protocol):
    """Something that knows its memory."""

    @property
    def n_bytes(self) -> int:
        """Bytes that it takes."""
        ...


SizedT = TypeVar("SizedT", bound=HasByteSize)


class LruCache(Generic[SizedT]):
    """Values by name. The least recently used ones go once all together take more than `limit` bytes, but for the last.

    Parameters
    ----------
    limit
        Bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[str, SizedT] = OrderedDict()

    def get(self, name: str) -> SizedT | None:
        """The value of that name, if it is still there."""
        if name in self._values:
            self._values.move_to_end(name)
        return self._values.get(name)

    def put(self, name: str, value: SizedT) -> None:
        """Keep a value."""
        self._values[name] = value
        self._values.move_to_end(name)
        while len(self._values) > 1 and self.n_bytes > self._limit:
            self._values.popitem(last=False)

    @property
    def n_bytes(self) -> int:
        """Bytes that all values take."""
        return sum(value.n_bytes for value in self._values.values())


T = TypeVar("T")

_THREAD_BYTES = 256 * 1024
"""Bodies from this size on are checked and hashed in a worker thread."""


async def offload(n_bytes: int, work: Callable[[], T]) -> T:
    """Check and hash a body of `n_bytes`."""
    with phase("decode"):
        return work() if n_bytes < _THREAD_BYTES else await to_thread.run_sync(work)
