"""How a log is read whose columns, classes or values differ from those of the service's own format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import ParameterError
from mild_core.sample_ids import find_id_error
from mild_service.ingest.sample_resolvers import SampleNameError

CLASS_FIELDS = ("predicted", "label")


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
                    raise SampleNameError(position, _describe_mixture(repr(name[:60])))
                if self._is_complete:
                    raise SampleNameError(
                        position,
                        f"got {name[:60]!r}, which is none of the {len(numbers)} class_names; name every class",
                    )
                if reason := find_id_error(name):
                    raise SampleNameError(position, reason)
                numbers[name] = len(numbers)
        return np.fromiter((numbers[name] for name in names), np.int64, len(names))

    def accept_numbers(self) -> None:
        """Raise `SampleNameError` if the log has class names."""
        self._has_numbers = True
        if self._numbers:
            raise SampleNameError(0, _describe_mixture("a number"))


def _describe_mixture(got: str) -> str:
    return f"got {got}, and both numbers and names stand for classes; give all classes as numbers, or all as names"


@dataclass(frozen=True, slots=True, eq=False)
class LogOptions:
    """How a log is read where it differs from the service's own format.

    Attributes
    ----------
    columns
        Column of each field that has another name in the log.
    class_names
        Maps names of classes to numbers; None if the log must have numbers.
    labels
        Shape (n_labels,), given labels by sample index, for a log that lacks them; -1 where unknown. None if the log
        must have them.
    skip_unobserved
        Whether a record without an outcome stands for a sample that was not observed. Otherwise it is an error.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    class_names: ClassNames | None = None
    labels: NDArray[np.int64] | None = None
    skip_unobserved: bool = False

    @property
    def required_fields(self) -> set[str]:
        """The fields whose column a log must have."""
        return {"epoch", "sample", *self.columns} - ({"label"} if self.labels is not None else set())

    def map_columns(self, fields: Sequence[str]) -> dict[str, str]:
        """Return the field of each column that holds one of `fields`."""
        own = {name: name for name in fields if name not in self.columns}
        return own | {column: name for name, column in self.columns.items()}
