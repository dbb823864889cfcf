"""Labels as people store them - numbers from any start, with gaps, as text or one-hot - as classes 0..n_classes-1.

`ClassFilter` says which classes of a data set are loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import get_reason
from mild_trainer.errors import DataError

RawLabels: TypeAlias = NDArray[np.int64] | NDArray[np.str_]
"""Labels of shape (n_samples,), as the file has them: all numbers, or all names."""

_MAX_LISTED = 5


@dataclass(frozen=True, slots=True)
class ClassFilter:
    """The classes to load, and the size of the images.

    Attributes
    ----------
    classes
        ``all``; ``present``, those that have samples; of a folder of images also the number of classes to take from
        the first on, or a file whose lines begin with the names of classes.
    size
        Height and width that images are resized to; 0 takes the default of the loader.
    """

    classes: str = "all"
    size: int = 0

    def select_indices(self, names: Sequence[str]) -> list[int]:
        """Return the positions of the selected classes in `names`, those of all classes, in the order of `classes`."""
        if self.classes in ("all", "present"):
            return list(range(len(names)))
        if self.classes.isdecimal():
            n_classes = int(self.classes)
            if not 1 <= n_classes <= len(names):
                raise DataError(
                    f"--classes is {n_classes}, and there are {len(names)}; give a number in 1..{len(names)}"
                )
            return list(range(n_classes))
        path = Path(self.classes)
        try:
            selected_names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"--classes {path} cannot be read ({get_reason(error)}); give a number or a list of classes"
            ) from None
        positions = {name: i for i, name in enumerate(names)}
        unknown = [name for name in selected_names if name not in positions]
        if unknown or not selected_names or len(set(selected_names)) < len(selected_names):
            problem = f"names {unknown[0]!r}, which is no class here" if unknown else "names no class, or one twice"
            raise DataError(f"--classes {path} {problem}; list names such as {names[0]!r}, each once")
        return [positions[name] for name in selected_names]

    def renumbers(self, dataset: str) -> bool:
        """Return whether numbers of classes that leave some out are to be replaced by positions among those left."""
        if self.size:
            raise DataError(f"--image-size is {self.size}, for folders of images and not for {dataset}; leave it out")
        if self.classes not in ("all", "present"):
            raise DataError(f"--classes is {self.classes}, and {dataset} takes all or present; leave it out")
        return self.classes == "present"


@dataclass(frozen=True, slots=True, eq=False)
class NumberedLabels:
    """Labels of the parts of a data set, numbered by class.

    Attributes
    ----------
    labels
        Shape (n_samples,) each, by the name of the part.
    class_names
        Name of each class; empty where the numbers are those of the file.
    note
        How the classes were numbered, for people; empty if they were not.
    """

    labels: Mapping[str, NDArray[np.int64]]
    n_classes: int
    class_names: tuple[str, ...]
    note: str


def read_labels(source: str, name: str, values: NDArray[Any]) -> RawLabels:
    """Return labels of shape (n_samples,), as integers or as text.

    A column of shape (n_samples, 1) and one-hot rows lose their second axis, whole floats become integers, and bytes
    become text.
    """
    where = f"{source}: {name}"
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "biuf":
        if not (np.isin(values, (0, 1)).all() and (values.sum(axis=1) == 1).all()):
            raise DataError(
                f"{where} has the shape {values.shape} and is not one-hot; give one label for each sample: samples "
                "with several labels are not supported, and of probabilities take the argmax"
            )
        values = values.argmax(axis=1)
    if values.ndim != 1:
        raise DataError(f"{where} has the shape {values.shape}; give one label for each sample")
    if values.dtype.kind in "SU":
        return _clean_names(where, values)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or (values != np.rint(values)).any():
            wrong = format_names(values[~np.isfinite(values) | (values != np.rint(values))][:_MAX_LISTED].tolist())
            raise DataError(
                f"{where} is {values.dtype} with {wrong}; give classes as whole numbers or names, "
                "and leave samples without a label out"
            )
    elif values.dtype.kind not in "biu":
        raise DataError(f"{where} is {values.dtype}; give classes as whole numbers or names")
    return values.astype(np.int64)


def split_names(labels: RawLabels) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels as classes, shape (n_samples,), and the name of each class.

    Numbers stand for themselves and have no names; names are numbered in alphabetical order.
    """
    if labels.dtype.kind != "U":
        return labels.astype(np.int64), ()
    names, classes = np.unique(labels, return_inverse=True)
    return classes.astype(np.int64), tuple(names.tolist())


def number_classes(
    source: str, parts: Mapping[str, RawLabels], names: Sequence[str] = (), *, renumber: bool = False
) -> NumberedLabels:
    """Number the classes of labels 0..n_classes-1.

    The classes are those of the training samples (parts whose names contain ``train``), so none is without samples.
    Names are numbered in alphabetical order. Numbers have to be 0..n_classes-1, unless `renumber` or `names` say what
    they stand for.

    Parameters
    ----------
    source
        Where the labels are from, for messages.
    parts
        Labels by the name of the part, such as ``y_train`` and ``y_test``.
    names
        Names of classes 0, 1, …, where the source has them.
    renumber
        Whether numbers that are not 0..n_classes-1 are numbered in ascending order, and become names.
    """
    parts = {name: labels for name, labels in parts.items() if len(labels)}
    kinds = {labels.dtype.kind for labels in parts.values()}
    if len(kinds) > 1:
        raise DataError(f"{source}: {' and '.join(parts)} hold numbers here and names there; give one kind")
    train = [labels for name, labels in parts.items() if "train" in name]
    if not train:
        return NumberedLabels({}, 0, (), "")
    classes: Any = np.unique(np.concatenate(train))
    _check_classes(source, parts, classes, len(train[0]), renumber)
    numbered = {name: np.searchsorted(classes, labels).astype(np.int64) for name, labels in parts.items()}
    if names and kinds != {"U"}:
        if classes[-1] >= len(names):
            raise DataError(f"{source}: label {classes[-1]} has no name among the {len(names)} given; name every class")
        return NumberedLabels(numbered, len(classes), tuple(names[label] for label in classes), "")
    if kinds == {"U"}:
        return NumberedLabels(numbered, len(classes), tuple(classes.tolist()), "")
    if classes[0] == 0 and classes[-1] == len(classes) - 1:
        return NumberedLabels(numbered, len(classes), (), "")
    texts = tuple(str(label) for label in classes.tolist())
    pairs = format_names([f"{text} is {number}" for number, text in enumerate(texts)])
    gap = _describe_gap(classes)
    if not renumber:
        raise DataError(
            f"{source}: {gap}; give --classes present to number the {len(classes)} that occur from 0 ({pairs}), "
            "or save the labels as 0.., or as names"
        )
    return NumberedLabels(numbered, len(classes), texts, f"{gap}; the classes that occur are numbered from 0: {pairs}")


def _describe_gap(classes: RawLabels) -> str:
    """Return in which way `classes` are not 0..n_classes-1."""
    first, last, n_classes = classes[0], classes[-1], len(classes)
    if int(last) - int(first) == n_classes - 1:
        return f"the labels count from {first} ({first}..{last})"
    n_absent = int(last) + 1 - n_classes
    absent = np.setdiff1d(np.arange(min(int(last), 10_000)), classes)
    return (
        f"the labels run over {first}..{last} with gaps: no sample has {format_names(absent.tolist()[:3])}"
        f"{f' and {n_absent - 3:,} more' if n_absent > 3 else ''}"
    )


def _check_classes(
    source: str, parts: Mapping[str, RawLabels], classes: RawLabels, n_train: int, renumber: bool
) -> None:
    """Raise DataError if `classes`, those of the training samples, cannot be the classes of a training."""
    if classes.dtype.kind == "i" and classes[0] < 0 and not (renumber and classes.tolist() == [-1, 1]):
        n_negative = int((next(iter(parts.values())).astype(np.int64) < 0).sum())
        raise DataError(
            f"{source}: {n_negative} labels are negative ({classes[0]}), which often stands for no label; leave these "
            "samples out, or number the classes from 0"
            + (" (--classes present does)" if classes.tolist() == [-1, 1] else "")
        )
    if len(classes) == 1:
        raise DataError(f"{source}: all labels are {classes[0]!s}; give samples of at least 2 classes")
    if classes.dtype.kind == "i" and len(classes) > max(2, n_train / 2):
        raise DataError(
            f"{source}: {n_train} samples have {len(classes)} classes, as if the labels were numbers of samples or "
            "measurements; give classes that several samples share"
        )
    for name, labels in parts.items():
        unknown = np.setdiff1d(labels, classes)
        if unknown.size:
            raise DataError(
                f"{source}: {name} has the classes {format_names(unknown.tolist())}, which no training sample has; "
                "leave these samples out, or add training samples of these classes"
            )


def _clean_names(where: str, values: NDArray[Any]) -> NDArray[np.str_]:
    """Return names of classes as text without surrounding spaces; raise DataError if one is empty or no text."""
    try:
        texts = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()], dtype=np.str_)
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is no UTF-8 ({error}); save names as text") from None
    names: NDArray[np.str_] = np.strings.strip(texts)
    if n_empty := int((names == "").sum()):
        raise DataError(f"{where} is empty for {n_empty} of {names.size} samples; leave samples without a label out")
    return names


def format_names(values: Sequence[Any]) -> str:
    """Return the first few values as text, and the number of the others."""
    rest = len(values) - _MAX_LISTED
    return ", ".join(map(str, values[:_MAX_LISTED])) + (f" and {rest} more" if rest > 0 else "")
