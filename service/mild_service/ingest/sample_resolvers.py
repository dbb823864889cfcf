"""Resolvers of external ids in logs to sample indices."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mild_core.sample_ids import IdIndex, find_id_error
from mild_service.errors import LimitExceeded

_ENTRY_BYTES = 150
"""Memory that an id takes besides its text."""


class SampleNameError(Exception):
    """The reason why the id at `position` of the ids to resolve names no sample."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class SampleResolver(Protocol):
    """Maps external ids to sample indices.

    Attributes
    ----------
    cells_are_ids
        Whether a CSV cell that looks like a number is an id, since CSV does not distinguish them.
    """

    cells_are_ids: bool

    def resolve(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the samples that ids name, shape (n_ids,); may raise `SampleNameError`."""

    def accept_numbers(self) -> None:
        """Note that the log also names samples by numbers; may raise `SampleNameError`."""


class RunSampleResolver:
    """Resolves the ids of a run, which are loaded at first use. A log may also name samples by their indices."""

    cells_are_ids = True

    def __init__(self, load: Callable[[], IdIndex]) -> None:
        self._load = load
        self._index: IdIndex | None = None

    @property
    def used(self) -> bool:
        """Whether the log has named a sample by an id."""
        return self._index is not None

    def resolve(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the samples that ids name, shape (n_ids,)."""
        if self._index is None:
            self._index = self._load()
        samples = self._index.find_indices(ids)
        if (samples < 0).any():
            first = int(np.argmax(samples < 0))
            raise SampleNameError(
                first, f"got {ids[first][:60]!r}, which is none of the run's {self._index.n_samples} ids"
            )
        return samples

    def accept_numbers(self) -> None:
        """Do nothing: numbers are indices."""


class NewSampleResolver:
    """Resolves the ids of a log without a run: samples are numbered in the order in which their ids first appear.

    Parameters
    ----------
    n_samples
        Most samples.
    n_bytes
        Most memory for the ids.
    """

    cells_are_ids = False

    def __init__(self, n_samples: int, n_bytes: int) -> None:
        self._indices: dict[str, int] = {}
        self._kind: Literal["ids", "numbers"] | None = None
        self._n_samples = n_samples
        self._n_bytes = n_bytes
        self._bytes_used = 0

    @property
    def ids(self) -> list[str] | None:
        """All ids, in order of their samples; None if the log names samples by numbers."""
        return list(self._indices) if self._kind == "ids" else None

    def resolve(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the samples that ids name, shape (n_ids,); new ids get the next numbers."""
        self._set_kind("ids", repr(ids[0][:60]))
        indices = self._indices
        n_before = len(indices)
        samples = np.fromiter((indices.setdefault(name, len(indices)) for name in ids), np.int64, len(ids))
        if len(indices) > n_before:
            self._check_new_ids(ids, samples, n_before)
        return samples

    def accept_numbers(self) -> None:
        """Refuse numbers in a log with ids: both would stand for the same indices."""
        self._set_kind("numbers", "a number")

    def _set_kind(self, kind: Literal["ids", "numbers"], got: str) -> None:
        self._kind = self._kind or kind
        if self._kind != kind:
            raise SampleNameError(
                0, f"got {got}, while others are named by {self._kind}; name all samples by numbers, or all by ids"
            )

    def _check_new_ids(self, ids: Sequence[str], samples: NDArray[np.int64], n_before: int) -> None:
        if len(self._indices) > self._n_samples:
            first = int(np.argmax(samples >= self._n_samples))
            raise SampleNameError(
                first, f"got {ids[first][:60]!r}, and {self._n_samples} other samples before, which is the limit"
            )
        for position in np.flatnonzero(samples >= n_before).tolist():
            name = ids[position]
            if reason := find_id_error(name):
                raise SampleNameError(position, reason)
            self._bytes_used += len(name.encode()) + _ENTRY_BYTES
        if self._bytes_used > self._n_bytes:
            raise LimitExceeded(
                f"the log's ids take {self._bytes_used} bytes of memory or more, at most {self._n_bytes} are kept; "
                "number the samples, open a run and put its sample ids, or have MILD_MAX_LOG_CELLS raised"
            )
