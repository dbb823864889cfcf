"""Samples that a log names by external ids instead of by numbers."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mild_core.sample_ids import IdIndex, find_id_error
from mild_service.errors import LimitExceeded

_ENTRY_BYTES = 150
"""What an id takes in memory beside its text."""


class NameFault(Exception):
    """What is wrong with the sample at `position` of those that were asked for."""

    def __init__(self, position: int, says: str) -> None:
        super().__init__(says)
        self.position = position


class Names(Protocol):
    """Which sample an id names.

    Attributes
    ----------
    cells_are_ids
        A cell of a CSV is an id even where it looks like a number: CSV itself does not tell them apart.
    """

    cells_are_ids: bool

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The samples that ids name; may raise `NameFault`."""

    def numbers(self) -> None:
        """Learn that samples are named by numbers too; may raise `NameFault`."""


class RunNames:
    """The ids that a run has; they are loaded when the first is asked for. Numbers are indices beside them."""

    cells_are_ids = True

    def __init__(self, load: Callable[[], IdIndex]) -> None:
        self._load = load
        self._index: IdIndex | None = None

    @property
    def used(self) -> bool:
        """Whether an id was asked for."""
        return self._index is not None

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The samples that ids name."""
        if self._index is None:
            self._index = self._load()
        found = self._index.find_indices(ids)
        if (found < 0).any():
            first = int(np.argmax(found < 0))
            raise NameFault(first, f"got {ids[first][:60]!r}, which is none of the run's {self._index.n_samples} ids")
        return found

    def numbers(self) -> None:
        """Numbers are indices, whatever ids there are."""


class NewNames:
    """The ids of a log that belongs to no run: its samples are numbered in the order in which they first appear.

    Parameters
    ----------
    n_samples
        Most of them.
    n_bytes
        Most memory that they take.
    """

    cells_are_ids = False

    def __init__(self, n_samples: int, n_bytes: int) -> None:
        self._places: dict[str, int] = {}
        self._kind: Literal["ids", "numbers"] | None = None
        self._n_samples = n_samples
        self._n_bytes = n_bytes
        self._held = 0

    @property
    def ids(self) -> list[str] | None:
        """All ids in their order; None where samples were named by numbers."""
        return list(self._places) if self._kind == "ids" else None

    def find(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The samples that ids name; new ids are numbered on."""
        self._settle("ids", repr(ids[0][:60]))
        places = self._places
        known = len(places)
        found = np.fromiter((places.setdefault(name, len(places)) for name in ids), np.int64, len(ids))
        if len(places) > known:
            self._take(ids, found, known)
        return found

    def numbers(self) -> None:
        """Numbers and ids would meet in the same indices."""
        self._settle("numbers", "a number")

    def _settle(self, kind: Literal["ids", "numbers"], got: str) -> None:
        self._kind = self._kind or kind
        if self._kind != kind:
            raise NameFault(
                0, f"got {got}, while others are named by {self._kind}; name all samples by numbers, or all by ids"
            )

    def _take(self, ids: Sequence[str], found: NDArray[np.int64], known: int) -> None:
        """Check ids that are new."""
        if len(self._places) > self._n_samples:
            first = int(np.argmax(found >= self._n_samples))
            raise NameFault(first, f"got {ids[first][:60]!r}, and {self._n_samples} other samples before, the most")
        for position in np.flatnonzero(found >= known).tolist():
            name = ids[position]
            if says := find_id_error(name):
                raise NameFault(position, says)
            self._held += len(name.encode()) + _ENTRY_BYTES
        if self._held > self._n_bytes:
            raise LimitExceeded(
                f"the log's ids take {self._held} bytes of memory or more, at most {self._n_bytes} are kept; "
                "number the samples, open a run and put its sample ids, or have MILD_MAX_LOG_CELLS raised"
            )
