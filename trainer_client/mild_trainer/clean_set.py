"""Files of samples: a clean set as indices in a ``.npy``, and lines of samples in a ``.csv``.

A clean set has a line for each sample. The list of ``mild review`` has the same columns, for the samples to check.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_client import MildClient
from mild_client.atomic_write import open_atomically
from mild_client.errors import Conflict
from mild_client.requests import JsonObject
from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.results import Selection, is_identified
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

COLUMNS = ("index", "id", "label", "suggested", "score", "noisy_posterior", "kept", "mark")
"""Columns of a ``.csv`` of samples, named as in the HTTP API; `mark` is the answer of a person."""
ClassLabel: TypeAlias = int | str | None
"""Number or name of a class; None where it is unknown."""
_SUFFIXES = (".csv", ".npy")
_BLOCK_ROWS = 65536


@dataclass(frozen=True, slots=True, eq=False)
class CleanSet:
    """What a selection says of every sample; a value that is None or NaN is unknown.

    Attributes
    ----------
    kept
        Booleans of shape (n_samples,): whether the sample is in the clean set.
    scores, noisy_posterior
        Shape (n_samples,), scores and probabilities of being mislabelled.
    ids
        External id of each sample; the path of a picture.
    labels, suggested
        Given label of each sample, and the label that the model suggests in its place: class numbers or names.
    audit
        Marks of the samples that are checked already.
    """

    kept: NDArray[np.bool_]
    scores: NDArray[np.floating] | None = None
    noisy_posterior: NDArray[np.floating] | None = None
    ids: Sequence[str] | None = None
    labels: Sequence[ClassLabel] | None = None
    suggested: Sequence[ClassLabel] | None = None
    audit: Audit | None = None

    @classmethod
    def from_selection(cls, selection: Selection, **attributes: Any) -> Self:
        """Return the set of a selection made in this process; `attributes` are the others, by name."""
        kept = bitmap.unpack(selection.bitmap, selection.n_samples)
        return cls(kept=kept, scores=selection.scores, noisy_posterior=selection.identified_posterior, **attributes)

    def name_samples(self, data: Dataset, predicted: NDArray[np.int64] | None) -> Self:
        """Return the set with the samples and classes named as in `data`.

        `predicted`, shape (n_samples,), are the classes that the network predicts, which are suggested where they
        differ from the given labels; None if they are unknown.
        """
        ids = None if data.sample_ids is None else data.sample_ids.tolist()
        suggested = None
        if predicted is not None:
            suggested = name_classes(np.where(predicted == data.y_train, -1, predicted), data.class_names)
        return replace(self, ids=ids, labels=name_classes(data.y_train, data.class_names), suggested=suggested)

    def write(self, path: Path) -> None:
        """Replace the file at `path` by this set.

        A ``.npy`` has the indices of the kept samples, ascending, as int64 of shape (n_selected,). A ``.csv`` has the
        columns `COLUMNS` and a line for every sample, kept (``true``) or not (``false``); what is unknown is empty.
        """
        check_set_path(path)
        if path.suffix.lower() == ".npy":
            with open_atomically(path) as file:
                np.save(file, np.flatnonzero(self.kept).astype(np.int64), allow_pickle=False)
            return
        with open_atomically(path, "w", newline="", encoding="utf-8") as file:
            write_rows(file, self.format_rows(np.arange(self.kept.size)))

    def describe_file(self, path: Path) -> str:
        """Return the line that names the file at `path`, to which this set was written."""
        n_kept, n_samples = int(np.count_nonzero(self.kept)), self.kept.size
        if path.suffix.lower() == ".npy":
            return f"The clean set: {path}, the indices of {n_kept:,} of {n_samples:,} samples"
        return f"The clean set: {path}, a line for each of {n_samples:,} samples, {n_kept:,} of them kept"

    def format_rows(self, indices: NDArray[np.integer]) -> Iterator[tuple[str, ...]]:
        """Yield the row of each sample of `indices`, a text for each of `COLUMNS`."""
        audit = Audit.empty(self.kept.size) if self.audit is None else self.audit
        texts, numbers = (self.ids, self.labels, self.suggested), (self.scores, self.noisy_posterior)
        for block in np.split(indices, range(_BLOCK_ROWS, len(indices), _BLOCK_ROWS)):
            positions, unknown = block.tolist(), [None] * len(block)
            is_marked, is_clean = bitmap.get_sample_bits(np.stack((audit.checked, audit.clean)), block).tolist()
            columns = (
                *(unknown if values is None else [values[index] for index in positions] for values in texts),
                *(unknown if values is None else values[block].tolist() for values in numbers),
                self.kept[block].tolist(),
                (mark if has_mark else None for has_mark, mark in zip(is_marked, is_clean, strict=True)),
            )
            yield from map(format_sample, positions, *columns)


def format_sample(
    index: int,
    sample_id: str | None,
    label: ClassLabel,
    suggested: ClassLabel,
    score: float | None,
    noisy_posterior: float | None,
    is_kept: bool | None,
    mark: bool | None,
) -> tuple[str, ...]:
    """Return the row of a sample, a text for each of `COLUMNS`; a value that is None or NaN is empty."""
    return (
        str(index),
        *("" if value is None else str(value) for value in (sample_id, label, suggested)),
        *("" if value is None or value != value else f"{value:.6g}" for value in (score, noisy_posterior)),
        "" if is_kept is None else str(is_kept).lower(),
        "" if mark is None else "clean" if mark else "wrong",
    )


def write_rows(file: IO[str], rows: Iterable[tuple[str, ...]]) -> None:
    """Write rows of samples to a file, after a header."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)


def fetch_clean_set(
    client: MildClient, run_id: str, round: int | str, changes: Mapping[str, Any] | None = None
) -> tuple[JsonObject, CleanSet]:
    """Return the selection of a round, as in the HTTP API, and its clean set.

    Labels and suggestions are those of the dropped samples, as the service has no others to give. `changes` are
    options, by name, that replace those of the run.
    """
    selection = client.selection(run_id, round, changes=changes)
    number, n_samples = selection["round"], selection["num_samples"]
    kept = np.zeros(n_samples, dtype=np.bool_)
    kept[selection["indices"]] = True
    labels: list[ClassLabel] = [None] * n_samples
    suggested_labels = list(labels)
    for dropped in client.suggestions(run_id, number, changes=changes):
        index, label, suggested = dropped["index"], dropped["label"], dropped["suggested"]
        labels[index] = label
        suggested_labels[index] = None if suggested == label else suggested
    scores, posterior = client.scores(run_id, number, changes=changes)
    ids = _find_sample_ids(client, run_id)
    if ids is not None:
        selection["ids"] = [ids[index] for index in selection["indices"]]
    audit = client.audit(run_id, n_samples)
    posterior = posterior if is_identified(selection["verdict"]) else None
    return selection, CleanSet(kept, scores, posterior, ids, labels, suggested_labels, audit)


def _find_sample_ids(client: MildClient, run_id: str) -> list[str] | None:
    """Return the external ids of a run's samples; None if it has none."""
    try:
        return client.sample_ids(run_id)
    except Conflict as error:
        if error.code != "no-sample-ids":
            raise
        return None


def name_classes(classes: NDArray[np.integer], names: Sequence[str] | None) -> list[ClassLabel]:
    """Return the name of each class, or its number where classes have no names; None for -1."""
    return [None if label < 0 else names[label] if names else label for label in classes.tolist()]


def check_set_path(path: Path, sources: Iterable[Path] = ()) -> None:
    """Raise DataError if no set can be written to `path`; called before the work whose result is written there.

    The set replaces no file of the `sources` that it is made from, and is not written into a folder of them.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise DataError(f"the set {path} ends in {path.suffix!r}; give a file that ends in {' or '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise DataError(f"the folder of the set {path} does not exist; create {path.parent}, or give another file")
    for source in filter(Path.exists, sources):
        if source.samefile(path.parent) or (path.exists() and source.samefile(path)):
            raise DataError(f"the set {path} would replace or join what it is made from, {source}; give another file")
    if path.is_dir():
        raise DataError(f"the set {path} is a folder; give a file")
