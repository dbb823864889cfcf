"""Translation of Redis errors to errors of the service, timing of the store, and conversion of replies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from redis.exceptions import (
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError,
)

from mild_service.errors import StoreError, StoreFull, StoreUnavailable, StoreUnreplicated
from mild_service.observability import phase

CONNECTION_ERRORS = (ConnectionError, TimeoutError, RuntimeError)
"""Errors of a lost connection; transports of uvloop raise RuntimeError when they are closed."""


class translate_errors(phase):  # noqa: N801  # as its parent
    """Context manager that times its block as the phase ``store`` and translates Redis errors to `StoreError`."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("store")

    def __exit__(self, *raised: object) -> None:
        super().__exit__()
        error = raised[1]
        if isinstance(error, RedisError | RedisClusterException):
            raise _translate(error) from error
        if isinstance(error, RuntimeError) and "closed" in str(error):
            raise StoreUnavailable("the connection to the store was cut; try again in a second") from error


@contextmanager
def translate_blocking_errors() -> Iterator[None]:
    """Context manager that translates Redis errors to `StoreError` in threads and processes that serve no request."""
    try:
        yield
    except (RedisError, RedisClusterException) as error:
        raise _translate(error) from error


def _translate(error: RedisError | RedisClusterException) -> StoreError:
    if isinstance(error, OutOfMemoryError):
        return StoreFull(
            "the store has reached its memory limit; delete runs (DELETE /runs/{run_id}) or raise its `maxmemory`"
        )
    if isinstance(error, ConnectionError | TimeoutError | RedisClusterException):
        reason = "the connection was lost" if isinstance(error, ConnectionError) else "it took too long"
        return StoreUnavailable(f"the store did not answer ({reason}); try again in a second")
    if str(error).startswith("NOREPLICAS"):
        return StoreUnreplicated(
            "the store takes no writes, as too few replicas follow it (min-replicas-to-write); try again in a second"
        )
    if isinstance(error, ReadOnlyError):
        return StoreUnavailable(
            "the store takes no writes, as it is a read-only replica; name its primary in MILD_STORE_URL, or try again "
            "once it is promoted"
        )
    if str(error).startswith("MISCONF"):
        return StoreUnavailable(
            f"the store takes no writes, as it cannot keep them on its disk ({error}); make room on the disk, then try "
            "again"
        )
    return StoreUnavailable(f"the store refused a command: {error}; see its log, then try again")


def to_bytes(reply: bytes | str) -> bytes:
    """Return a reply as bytes; text is encoded as UTF-8."""
    return reply if isinstance(reply, bytes) else reply.encode()


def to_bytes_list(reply: Iterable[bytes | str | None]) -> list[bytes | None]:
    """Return the values of a reply as bytes, with None for missing values."""
    return [None if value is None else to_bytes(value) for value in reply]


def to_texts(reply: Iterable[bytes | str]) -> list[str]:
    """Return the values of a reply as text; what is not UTF-8, as a damaged name may be, is escaped."""
    return [to_bytes(value).decode(errors="backslashreplace") for value in reply]


def to_bytes_dict(reply: Mapping[bytes | str, bytes | str]) -> dict[bytes, bytes]:
    """Return a hash as a dictionary of bytes, by field."""
    return {to_bytes(name): to_bytes(value) for name, value in reply.items()}


def pairs_to_dict(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return a hash that a script has returned as a list of alternating fields and values as a dictionary."""
    return dict(zip(reply[::2], reply[1::2], strict=True))
