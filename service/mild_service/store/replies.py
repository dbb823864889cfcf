"""Redis' replies, narrowed: the client's types allow text and bytes, the connection is set to bytes."""

from collections.abc import Iterable, Mapping, Sequence


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
