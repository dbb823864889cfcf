"""Work on bodies: at once where they are small, else beside the event loop."""

from collections.abc import Callable
from typing import TypeVar

from anyio import to_thread

from mild_service.tracing import phase

T = TypeVar("T")

_THREAD_BYTES = 256 * 1024
"""Bodies from this size on are checked and hashed in a worker thread."""


async def offload(n_bytes: int, work: Callable[[], T]) -> T:
    """Check and hash a body of `n_bytes`."""
    with phase("decode"):
        return work() if n_bytes < _THREAD_BYTES else await to_thread.run_sync(work)
