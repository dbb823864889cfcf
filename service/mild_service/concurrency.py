"""A size-bounded LRU cache, and work on large bodies in threads."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from anyio import to_thread

from mild_service.observability import phase


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
        self.n_bytes = 0
        """Total size of all values in bytes."""

    def get(self, name: str) -> SizedT | None:
        """Return the value with this name; None if no such value is cached."""
        if name in self._values:
            self._values.move_to_end(name)
        return self._values.get(name)

    def put(self, name: str, value: SizedT) -> None:
        """Add or replace a value, and evict other values beyond the limit."""
        previous = self._values.pop(name, None)
        self.n_bytes += value.n_bytes - (0 if previous is None else previous.n_bytes)
        self._values[name] = value
        if len(self._values) > 1:
            self.evict(min(self.n_bytes - self._max_bytes, self.n_bytes - value.n_bytes))

    def evict(self, n_bytes: int) -> int:
        """Evict the least recently used values until `n_bytes` are free or none is left; return the bytes evicted."""
        n_before = self.n_bytes
        while self._values and n_before - self.n_bytes < n_bytes:
            self.n_bytes -= self._values.popitem(last=False)[1].n_bytes
        return n_before - self.n_bytes


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
