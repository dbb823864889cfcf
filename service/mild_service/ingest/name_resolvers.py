"""Map names in logs to numbers: external ids to sample indices, and names of classes to class numbers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import ParameterError
from mild_core.sample_ids import IdIndex, find_id_error
from mild_service.errors import LimitExceeded

ReserveMemory: TypeAlias = Callable[[int], None]
"""Function that is called with a number of bytes before they are allocated, and raises an error if they may not."""
SamplesBy: TypeAlias = Literal["ids", "indices"]
"""How a log names samples."""
MIXED_NAMES = "while other samples are named by number; name all by index, or send samples_by=ids if all names are ids"
_ENTRY_BYTES = 150
"""Bytes of memory that an id takes in addition to its text."""


class NameResolutionError(Exception):
    """The name at `position` of those to resolve names no sample or class; the message is the reason."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class SampleResolver(ABC):
    """Maps the names of samples in a log to sample indices. All records name samples in the same way.

    Parameters
    ----------
    samples_by
        Whether the log names samples by ids or by indices. None: the first name decides.
    """

    def __init__(self, samples_by: SamplesBy | None = None) -> None:
        self.samples_by = samples_by

    def are_indices(self, first: int) -> bool:
        """Return whether the numbers in the log are indices; otherwise they spell ids. `first` is the next number."""
        if self.samples_by is None:
            self.samples_by = "indices" if self._can_be_index(first) else "ids"
        return self.samples_by == "indices"

    def resolve(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the index of the sample that each id names, shape (n_ids,)."""
        if self.samples_by == "indices":
            raise NameResolutionError(0, f"got {ids[0][:60]!r}, {MIXED_NAMES}")
        self.samples_by = "ids"
        return self._find_samples(ids)

    @abstractmethod
    def _can_be_index(self, number: int) -> bool:
        """Return whether the first number of a log may be an index."""

    @abstractmethod
    def _find_samples(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the index of the sample that each id names, or raise `NameResolutionError`."""


class RunSampleResolver(SampleResolver):
    """Maps the external ids of a run to samples. If any id of the run is a number, numbers in a log are ids.

    Parameters
    ----------
    load
        Loads the ids of the run; called at the first name.
    samples_by
        As for `SampleResolver`.
    """

    def __init__(self, load: Callable[[], IdIndex], samples_by: SamplesBy | None = None) -> None:
        super().__init__(samples_by)
        self._load = load
        self._index: IdIndex | None = None

    @property
    def is_used(self) -> bool:
        """Whether what the log names depends on the ids of the run."""
        return self._index is not None

    def _can_be_index(self, number: int) -> bool:
        return not self._load_index().has_numbers

    def _find_samples(self, ids: Sequence[str]) -> NDArray[np.int64]:
        index = self._load_index()
        samples = index.find_indices(ids)
        if (samples < 0).any():
            first = int(np.argmax(samples < 0))
            remedy = "; send samples_by=indices if the log names samples by index" if ids[first].isdecimal() else ""
            raise NameResolutionError(
                first, f"got {ids[first][:60]!r}, which is none of the run's {index.n_samples} ids{remedy}"
            )
        return samples

    def _load_index(self) -> IdIndex:
        if self._index is None:
            self._index = self._load()
        return self._index


class NewSampleResolver(SampleResolver):
    """Maps the external ids of a log without a run to samples, numbered in the order in which ids first appear.

    A number is an index, unless the first one is too large for any.

    Parameters
    ----------
    n_samples
        Most samples of this log.
    max_samples
        Most samples of any log.
    n_bytes
        Most bytes of memory for the ids.
    samples_by
        As for `SampleResolver`.
    reserve_memory
        Called with the bytes of new ids.
    """

    def __init__(
        self,
        n_samples: int,
        max_samples: int,
        n_bytes: int,
        samples_by: SamplesBy | None = None,
        reserve_memory: ReserveMemory = lambda _: None,
    ) -> None:
        super().__init__(samples_by)
        self._indices: dict[str, int] = {}
        self._n_samples = n_samples
        self._max_samples = max_samples
        self._max_bytes = n_bytes
        self._reserve_memory = reserve_memory
        self.n_bytes = 0
        """Memory of the ids in bytes."""

    @property
    def ids(self) -> list[str] | None:
        """All ids, in order of their samples; None if the log names samples by index."""
        return list(self._indices) if self.samples_by == "ids" else None

    def _can_be_index(self, number: int) -> bool:
        return number < self._max_samples

    def _find_samples(self, ids: Sequence[str]) -> NDArray[np.int64]:
        indices = self._indices
        n_before = len(indices)
        samples = np.fromiter((indices.setdefault(name, len(indices)) for name in ids), np.int64, len(ids))
        if len(indices) > n_before:
            self._check_new_ids(ids, samples, n_before)
        return samples

    def _check_new_ids(self, ids: Sequence[str], samples: NDArray[np.int64], n_before: int) -> None:
        """Check the form, the number and the memory of the ids that are new since there were `n_before`."""
        if len(self._indices) > self._n_samples:
            first = int(np.argmax(samples >= self._n_samples))
            raise NameResolutionError(
                first, f"got {ids[first][:60]!r}, and {self._n_samples} other samples before, which is the limit"
            )
        n_bytes_before = self.n_bytes
        for position in np.flatnonzero(samples >= n_before).tolist():
            name = ids[position]
            if reason := find_id_error(name):
                raise NameResolutionError(position, reason)
            self.n_bytes += len(name.encode()) + _ENTRY_BYTES
        self._reserve_memory(self.n_bytes - n_bytes_before)
        if self.n_bytes > self._max_bytes:
            raise LimitExceeded(
                f"the log's ids take {self.n_bytes} bytes of memory or more, at most {self._max_bytes} are kept; "
                "number the samples, open a run and put its sample ids, or have MILD_MAX_LOG_CELLS raised"
            )


class ClassNames:
    """Maps class names in a log to class numbers, in the order in which names first appear until `sort` is called."""

    def __init__(self, names: Sequence[str] | None = None) -> None:
        """Map these names, in the order of the class numbers; by default those in the log."""
        self._numbers: dict[str, int] = {name: number for number, name in enumerate(names or ())}
        self._is_complete = names is not None
        self._has_numbers = False
        error = next(filter(None, map(find_id_error, names or ())), None)
        if error is not None:
            raise ParameterError(f"class_names: {error}; give the name of each class")
        if names is not None and len(self._numbers) < len(names):
            twice = next(name for number, name in enumerate(names) if self._numbers[name] != number)
            raise ParameterError(f"class_names has {twice[:60]!r} twice; give each of the {len(names)} classes a name")

    @property
    def names(self) -> list[str] | None:
        """The name of each class; None if the log has class numbers."""
        return list(self._numbers) or None

    def sort(self) -> None:
        """Number the names in alphabetical order from now on, as the classes of data sets are numbered."""
        self._numbers = {name: number for number, name in enumerate(sorted(self._numbers))}

    def resolve(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the class of each name, shape (n_names,)."""
        numbers = self._numbers
        for position, name in enumerate(names):
            if name not in numbers:
                if self._has_numbers:
                    raise NameResolutionError(position, _describe_mixture(repr(name[:60])))
                if self._is_complete:
                    raise NameResolutionError(
                        position,
                        f"got {name[:60]!r}, which is none of the {len(numbers)} class_names; name every class",
                    )
                if reason := find_id_error(name):
                    raise NameResolutionError(position, reason)
                numbers[name] = len(numbers)
        return np.fromiter((numbers[name] for name in names), np.int64, len(names))

    def accept_numbers(self) -> None:
        """Raise `NameResolutionError` if the log has class names."""
        self._has_numbers = True
        if self._numbers:
            raise NameResolutionError(0, _describe_mixture("a number"))


def _describe_mixture(got: str) -> str:
    return f"got {got}, and both numbers and names stand for classes; give all classes as numbers, or all as names"
