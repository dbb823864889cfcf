"""Map external ids in logs to sample indices."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mild_core.sample_ids import IdIndex, find_id_error
from mild_service.errors import LimitExceeded

_ENTRY_BYTES = 150
"""Bytes of memory that an id takes in addition to its text."""


class SampleNameError(Exception):
    """The id at `position` of the ids to resolve names no sample; the message is the reason."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class SampleResolver(Protocol):
    """Maps external ids to sample indices.

    Attributes
    ----------
    cells_are_ids
        Whether a number in a CSV cell is an external id, since CSV does not distinguish numbers from strings.
    """

    cells_are_ids: bool

    def resolve(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the index of the sample that each id names, shape (n_ids,); may raise `SampleNameError`."""

    def accept_numbers(self) -> None:
        """Accept that the log names samples by numbers, or raise `SampleNameError` if it must not."""


class RunSampleResolver:
    """Maps the external ids of a run to samples. A log may also name samples by their indices.

    Parameters
    ----------
    load
        Loads the ids of the run; called at the first id.
    """

    cells_are_ids = True

    def __init__(self, load: Callable[[], IdIndex]) -> None:
        self._load = load
        self._index: IdIndex | None = None

    @property
    def is_used(self) -> bool:
        """Whether the log has named a sample by an id."""
        return self._index is not None

    def resolve(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the sample that each id names, shape (n_ids,); raise `SampleNameError` if an id names none."""
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
        """Do nothing: numbers are always accepted, as indices."""


class NewSampleResolver:
    """Maps the external ids of a log without a run to samples, numbered in the order in which ids first appear.

    Parameters
    ----------
    n_samples
        Most samples.
    n_bytes
        Most bytes of memory for the ids.
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
        """Return the index of the sample that each id names, shape (n_ids,); new ids get the next indices."""
        self._set_kind("ids", repr(ids[0][:60]))
        indices = self._indices
        n_before = len(indices)
        samples = np.fromiter((indices.setdefault(name, len(indices)) for name in ids), np.int64, len(ids))
        if len(indices) > n_before:
            self._check_new_ids(ids, samples, n_before)
        return samples

    def accept_numbers(self) -> None:
        """Raise `SampleNameError` if the log has ids: numbers and ids would stand for the same indices."""
        self._set_kind("numbers", "a number")

    def _set_kind(self, kind: Literal["ids", "numbers"], got: str) -> None:
        """Set how the log names samples; raise `SampleNameError`, which quotes `got`, if it did otherwise before."""
        self._kind = self._kind or kind
        if self._kind != kind:
            raise SampleNameError(
                0, f"got {got}, while others are named by {self._kind}; name all samples by numbers, or all by ids"
            )

    def _check_new_ids(self, ids: Sequence[str], samples: NDArray[np.int64], n_before: int) -> None:
        """Check the form, the number and the memory of the ids that are new since there were `n_before`."""
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
