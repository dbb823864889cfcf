"""What was used last, in a bounded memory."""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Something that knows its memory."""

    @property
    def n_bytes(self) -> int:
        """Bytes that it takes."""
        ...


T = TypeVar("T", bound=Sized)


class Recent(Generic[T]):
    """Values by name. The least recently used ones go once all together take more than `limit` bytes, but for the last.

    Parameters
    ----------
    limit
        Bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[str, T] = OrderedDict()

    def get(self, name: str) -> T | None:
        """The value of that name, if it is still there."""
        if name in self._values:
            self._values.move_to_end(name)
        return self._values.get(name)

    def put(self, name: str, value: T) -> None:
        """Keep a value."""
        self._values[name] = value
        self._values.move_to_end(name)
        while len(self._values) > 1 and self.n_bytes > self._limit:
            self._values.popitem(last=False)

    @property
    def n_bytes(self) -> int:
        """Bytes that all values take."""
        return sum(value.n_bytes for value in self._values.values())
