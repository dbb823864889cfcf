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
    """Limits how many tasks do one type of work at the same time, and how many tasks wait for their turn.

    Parameters
    ----------
    max_working, max_waiting
        Maximum number of tasks that work, and of tasks that wait.
    work
        Description of the work for the error message, such as "reading logs".
    waiting_gauge
        Gauge of the number of tasks that wait.
    """

    def __init__(self, max_working: int, max_waiting: int, work: str, waiting_gauge: Gauge) -> None:
        self._max_working = max_working
        self._semaphore = asyncio.Semaphore(max_working)
        self._max_waiting = max_waiting
        self._work = work
        self._waiting_gauge = waiting_gauge
        self._n_waiting = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        """Context manager that waits until the task may work, and counts it as working during the block.

        Raises
        ------
        Overloaded
            If the task would have to wait and the maximum number of tasks is waiting already.
        """
        if self._semaphore.locked() and self._n_waiting >= self._max_waiting:
            raise Overloaded(
                f"the service is {self._work} for {self._max_working} requests and {self._max_waiting} wait, "
                "as many as may; try again in a second, or have MILD_MAX_WAITING raised"
            )
        self._n_waiting += 1
        try:
            with self._waiting_gauge.track_inprogress():
                await self._semaphore.acquire()
        finally:
            self._n_waiting -= 1
        try:
            yield
        finally:
            self._semaphore.release()


class HasByteSize(Protocol):
    """A value with a known size in memory."""

    @property
    def n_bytes(self) -> int:
        """Size in bytes."""
        ...


SizedT = TypeVar("SizedT", bound=HasByteSize)


class LruCache(Generic[SizedT]):
    """Cache of values by name with a limit on their total size.

    Beyond the limit, the least recently used values are evicted. The value that was added last is always kept.

    Parameters
    ----------
    max_bytes
        Maximum total size of all values in bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[str, SizedT] = OrderedDict()

    def get(self, name: str) -> SizedT | None:
        """Return the value with this name; None if no such value is cached."""
        if name in self._values:
            self._values.move_to_end(name)
        return self._values.get(name)

    def put(self, name: str, value: SizedT) -> None:
        """Add or replace a value, and evict other values beyond the limit."""
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
"""Minimum size of a body for `offload` to use a worker thread."""


async def offload(n_bytes: int, work: Callable[[], T]) -> T:
    """Return the result of `work`, which runs in a worker thread if it processes a large body.

    Parameters
    ----------
    n_bytes
        Size of the body. For a small body, the change of threads would take longer than the work.
    work
        Function that processes the body.
    """
    with phase("decode"):
        return work() if n_bytes < _THREAD_BYTES else await to_thread.run_sync(work)
