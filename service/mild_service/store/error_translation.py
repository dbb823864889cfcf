"""Redis' errors as the service's own, translated at one boundary, where the store's time is taken too.

Redis' replies, narrowed: the client's types allow text and bytes, the connection is set to bytes.
"""

from collections.abc import Iterable, Mapping, Sequence

from redis.exceptions import ConnectionError, OutOfMemoryError, RedisClusterException, RedisError, TimeoutError

from mild_service.errors import StoreError, StoreFull, StoreUnavailable, StoreUnreplicated
from mild_service.observability import phase

BROKEN = (ConnectionError, TimeoutError, RuntimeError)
"""What a client raises when a connection has gone; uvloop's transports say by the last one that they are closed."""


class translated(phase):  # noqa: N801  # as its parent
    """Raises `StoreFull` or `StoreUnavailable` in place of Redis' errors."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("store")

    def __exit__(self, *raised: object) -> None:
        super().__exit__()
        error = raised[1]
        if isinstance(error, RedisError | RedisClusterException):
            raise _translation(error) from error
        if isinstance(error, RuntimeError) and "closed" in str(error):
            raise StoreUnavailable("the connection to the store was cut; try again in a second") from error


def _translation(error: RedisError | RedisClusterException) -> StoreError:
    if isinstance(error, OutOfMemoryError):
        return StoreFull(
            "the store has reached its memory limit; delete runs (DELETE /runs/{run_id}) or raise its `maxmemory`"
        )
    if isinstance(error, ConnectionError | TimeoutError | RedisClusterException):
        return StoreUnavailable(f"the store did not answer ({type(error).__name__}); try again in a second")
    if str(error).startswith("NOREPLICAS"):
        return StoreUnreplicated(
            "the store takes no writes, as too few replicas follow it (min-replicas-to-write); try again in a second"
        )
    if str(error).startswith("MISCONF"):
        return StoreUnavailable(
            f"the store takes no writes, as it cannot keep them on its disk ({error}); make room on the disk, then try "
            "again"
        )
    return StoreUnavailable(f"the store refused a command: {error}; see its log, then try again")


def blob(reply: bytes | str) -> bytes:
    """One value."""
    return reply if isinstance(reply, bytes) else reply.encode()


def blobs(reply: Iterable[bytes | str | None]) -> list[bytes | None]:
    """Values, None where there is none."""
    return [None if value is None else blob(value) for value in reply]


def words(reply: Iterable[bytes | str]) -> list[str]:
    """Names."""
    return [blob(value).decode() for value in reply]


def table(reply: Mapping[bytes | str, bytes | str]) -> dict[bytes, bytes]:
    """A hash."""
    return {blob(name): blob(value) for name, value in reply.items()}


def pairs(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash as scripts give it: fields and values in turn."""
    return dict(zip(reply[::2], reply[1::2], strict=True))
