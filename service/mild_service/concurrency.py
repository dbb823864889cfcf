"""A bounded LRU cache, work in threads, reads of what others replace, and executors that serve callers in turn."""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Any, Generic, TypeVar

from anyio import to_thread

from mild_service.errors import StoreDamaged, StoreUnavailable
from mild_service.observability import phase

T = TypeVar("T")
R = TypeVar("R")
ReferenceT = TypeVar("ReferenceT")


class LruCache(Generic[T]):
    """Cache of values by name with a limit on their total size.

    Beyond the limit, the least recently used values are evicted. The value that was added last is always kept.

    Parameters
    ----------
    max_bytes
        Maximum total size of all values in bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self.n_bytes = 0
        """Total size of all values in bytes."""

    def get(self, name: str) -> T | None:
        """Return the value with this name; None if no such value is cached."""
        if name not in self._values:
            return None
        self._values.move_to_end(name)
        return self._values[name][0]

    def put(self, name: str, value: T, n_bytes: int) -> None:
        """Add or replace a value of `n_bytes` bytes, and evict other values beyond the limit."""
        _, n_previous = self._values.pop(name, (None, 0))
        self.n_bytes += n_bytes - n_previous
        self._values[name] = value, n_bytes
        if len(self._values) > 1:
            self.evict(min(self.n_bytes - self._max_bytes, self.n_bytes - n_bytes))

    def evict(self, n_bytes: int) -> int:
        """Evict the least recently used values until `n_bytes` are free or none is left; return the bytes evicted."""
        n_before = self.n_bytes
        while self._values and n_before - self.n_bytes < n_bytes:
            self.n_bytes -= self._values.popitem(last=False)[1][1]
        return n_before - self.n_bytes


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


READ_ATTEMPTS = 20
"""Maximum number of times that values are read which others replace meanwhile."""


async def read_current(
    record: R,
    find_reference: Callable[[R], ReferenceT],
    read: Callable[[R, ReferenceT], Awaitable[T]],
    refresh: Callable[[R], Awaitable[R]],
    subject: str,
) -> tuple[R, T]:
    """Read values to which a record refers, again by the current record if they were replaced in the meantime.

    Replaced values are deleted, so that they look damaged to who still reads them by the earlier reference.

    Parameters
    ----------
    record
        The record as it was read last.
    find_reference
        Returns the reference in a record.
    read
        Reads the values; raises `StoreDamaged` if some are missing or damaged.
    refresh
        Returns the current record.
    subject
        What is read, for the error message.

    Returns
    -------
    tuple
        The record that refers to the values, and the result of `read`.
    """
    for _ in range(READ_ATTEMPTS):
        reference = find_reference(record)
        try:
            return record, await read(record, reference)
        except StoreDamaged:
            record = await refresh(record)
            if find_reference(record) == reference:
                raise
    raise StoreUnavailable(f"{subject} changed {READ_ATTEMPTS} times while being read; ask again in a second")


_CALLS_AHEAD = 2
"""Calls that `BoundedExecutor.map` has submitted for each worker: the one that it does, and the next."""


class BoundedExecutor(Executor):
    """An executor whose `map` submits a bounded number of calls ahead, so that those of other callers get their turn.

    Parameters
    ----------
    executor
        Executor of the calls, shared by several callers; its calls are done in the order in which they are submitted.
    n_workers
        Number of calls that it does at the same time.
    """

    def __init__(self, executor: Executor, n_workers: int) -> None:
        self._executor, self._n_ahead = executor, _CALLS_AHEAD * n_workers

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start one call."""
        return self._executor.submit(fn, *args, **kwargs)

    def map(
        self, fn: Callable[..., T], /, *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """Start the first calls, and return the results of all in order; each result that is taken starts another call.

        What has been submitted is cancelled where a call fails, or where the caller takes no more results.
        """
        calls = zip(*iterables, strict=False)
        futures = deque(self.submit(fn, *arguments) for arguments in islice(calls, self._n_ahead))

        def iterate() -> Iterator[T]:
            try:
                while futures:
                    result = futures[0].result(timeout)
                    futures.popleft()
                    futures.extend(self.submit(fn, *arguments) for arguments in islice(calls, 1))
                    yield result
            finally:
                for future in futures:
                    future.cancel()

        return iterate()
