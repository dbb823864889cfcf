"""Limits on concurrent work, a size-bounded LRU cache, and work on large bodies in threads."""

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
    """Limits how many tasks do a type of work at the same time, and how many wait.

    Parameters
    ----------
    n_working, n_waiting
        Maximum number of tasks that work, and that wait.
    work
        Description of the work for the error message.
    waiting
        Gauge of the tasks that wait.
    """

    def __init__(self, n_working: int, n_waiting: int, work: str, waiting: Gauge) -> None:
        self._n_working = n_working
        self._semaphore = asyncio.Semaphore(n_working)
        self._n_waiting = n_waiting
        self._work = work
        self._gauge = waiting
        self._waiting = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        """Context manager that waits for a free slot and holds it.

        Raises
        ------
        Overloaded
            If the maximum number of tasks is waiting already.
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
    """A value that knows its size in memory."""

    @property
    def n_bytes(self) -> int:
        """Size in bytes."""
        ...


SizedT = TypeVar("SizedT", bound=HasByteSize)


class LruCache(Generic[SizedT]):
    """Cache of values by name that evicts the least recently used values beyond a total size.

    The value that was added last is always kept.

    Parameters
    ----------
    max_bytes
        Maximum total size of all values in bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[str, SizedT] = OrderedDict()

    def get(self, name: str) -> SizedT | None:
        """Return the value with this name; None if it is not cached."""
        if name in self._values:
            self._values.move_to_end(name)
        return self._values.get(name)

    def put(self, name: str, value: SizedT) -> None:
        """Add or replace a value, and evict others if needed."""
        self._values[name] = value
        self._values.move_to_end(name)
        while len(self._values) > 1 and self.n_bytes > self._max_bytes:
            self._values.popitem(last=False)

    @property
    def n_bytes(self) -> int:
        """Total size of all values in bytes."""
        return sum(value.n_bytes for value in self._values.values())


T = TypeVar("T")

_THREAD_BYTES = 256 * 1024
"""Bodies of at least this size are checked and hashed in a worker thread."""


async def offload(n_bytes: int, work: Callable[[], T]) -> T:
    """Run `work` on a body of `n_bytes`: directly if it is small, otherwise in a worker thread."""
    with phase("decode"):
        return work() if n_bytes < _THREAD_BYTES else await to_thread.run_sync(work)
