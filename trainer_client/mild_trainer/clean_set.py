"""Files of a clean set: indices as ``.npy``, or a line per sample as ``.csv``."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_client.atomic_write import replace_atomically, write_atomically
from mild_trainer.errors import DataError

COLUMNS = ("index", "id", "label", "kept", "probability", "suggested_label")
"""Columns of the ``.csv``; the second is ``path`` where the ids are paths."""
_SUFFIXES = (".csv", ".npy")
_BLOCK_ROWS = 65536


@dataclass(frozen=True, slots=True, eq=False)
class CleanSet:
    """What a selection says of every sample; a value that is None or NaN is unknown.

    Attributes
    ----------
    kept
        Booleans of shape (n_samples,): whether the sample is in the clean set.
    probability
        Shape (n_samples,), probability of being mislabelled; NaN without one.
    ids
        External id or path of each sample.
    labels, suggested_labels
        Given label of each sample, and the label that the model suggests in its place: class numbers or names.
    are_paths
        Whether `ids` are paths.
    """

    kept: NDArray[np.bool_]
    probability: NDArray[np.floating]
    ids: Sequence[str] | None = None
    labels: Sequence[int | str | None] | None = None
    suggested_labels: Sequence[int | str | None] | None = None
    are_paths: bool = False

    def write(self, path: Path) -> None:
        """Replace the file at `path` by this set.

        A ``.npy`` has the indices of the kept samples, ascending, as int64 of shape (n_selected,). A ``.csv`` has the
        columns `COLUMNS` and a line for every sample, kept (``true``) or not (``false``); what is unknown is empty.

        Raises
        ------
        DataError
            If the suffix of `path` is neither, or its folder does not exist.
        """
        check_set_path(path)
        if path.suffix == ".npy":
            write_indices(path, np.flatnonzero(self.kept))
            return
        temporary_path = path.with_name(f"{path.name}.part")
        with temporary_path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([COLUMNS[0], "path" if self.are_paths else "id", *COLUMNS[2:]])
            for first in range(0, self.kept.size, _BLOCK_ROWS):
                writer.writerows(self._format_rows(slice(first, first + _BLOCK_ROWS)))
        replace_atomically(temporary_path, path)

    def describe_file(self, path: Path) -> str:
        """Return the line that names the file at `path`, to which this set was written."""
        n_kept, n_samples = int(np.count_nonzero(self.kept)), self.kept.size
        if path.suffix == ".npy":
            return f"The clean set: {path}, the indices of {n_kept:,} of {n_samples:,} samples"
        return f"The clean set: {path}, a line for each of {n_samples:,} samples, {n_kept:,} of them kept"

    def _format_rows(self, rows: slice) -> Iterator[tuple[str, ...]]:
        """Yield the texts of each of these samples, one for each column."""
        kept = self.kept[rows].tolist()
        empty: list[int | str | None] = [None] * len(kept)
        ids, labels, suggested = (
            empty if values is None else values[rows] for values in (self.ids, self.labels, self.suggested_labels)
        )
        columns = zip(kept, self.probability[rows].tolist(), ids, labels, suggested, strict=True)
        for index, (is_kept, probability, name, label, suggestion) in enumerate(columns, rows.start):
            yield (
                str(index),
                "" if name is None else str(name),
                "" if label is None else str(label),
                "true" if is_kept else "false",
                "" if np.isnan(probability) else f"{probability:.6g}",
                "" if suggestion is None else str(suggestion),
            )


def name_classes(classes: NDArray[np.integer], names: Sequence[str] | None) -> list[int | str | None]:
    """Return the name of each class, or its number where classes have no names; None for -1."""
    return [None if label < 0 else names[label] if names else label for label in classes.tolist()]


def check_set_path(path: Path, suffixes: Sequence[str] = _SUFFIXES) -> None:
    """Raise DataError if no set can be written to `path`; called before the work whose result is written there."""
    if path.suffix not in suffixes:
        raise DataError(f"the set {path} ends in {path.suffix!r}; give a file that ends in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise DataError(f"the folder of the set {path} does not exist; create {path.parent}, or give another file")
    if path.is_dir():
        raise DataError(f"the set {path} is a folder; give a file")


def write_indices(path: Path, indices: NDArray[np.integer]) -> None:
    """Replace the ``.npy`` file at `path` by `indices` of samples, shape (n_selected,), as int64.

    Raises
    ------
    DataError
        If the suffix of `path` is not ``.npy``, or its folder does not exist.
    """
    check_set_path(path, (".npy",))
    content = io.BytesIO()
    np.save(content, indices.astype(np.int64), allow_pickle=False)
    write_atomically(path, content.getvalue())
