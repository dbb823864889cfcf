"""Redis' errors as the service's own, translated at one boundary, where the store's time is taken too."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import ConnectionError, OutOfMemoryError, RedisError, TimeoutError

from mild_service.errors import StoreFull, StoreUnavailable
from mild_service.tracing import phase


@contextmanager
def translated() -> Iterator[None]:
    """Raise `StoreFull` or `StoreUnavailable` in place of Redis' errors."""
    try:
        with phase("store"):
            yield
    except OutOfMemoryError as error:
        raise StoreFull(
            "the store has reached its memory limit; delete runs (DELETE /runs/{run_id}) or raise its `maxmemory`"
        ) from error
    except (ConnectionError, TimeoutError) as error:
        raise StoreUnavailable(f"the store did not answer ({type(error).__name__}); try again in a second") from error
    except RedisError as error:
        raise StoreUnavailable(f"the store refused a command: {error}; see its log, then try again") from error
