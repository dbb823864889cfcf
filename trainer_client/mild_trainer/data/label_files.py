"""Files of labels: JSON, ``.npy``, ``.npz``, ``torch.save`` or CSV, with a label for each training sample.

Noisy labels of published experiments are shared as such files (DivideMix's ``0.5_sym.json``, CIFAR-N's
``CIFAR-10_human.pt``), and so are labels that people have mended (``clean.csv``).
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import class_labels, files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_REMEDY = "give a .json, .npy, .npz, .pt, .csv or .txt file with a label for each training sample"
_LABEL_COLUMNS = ("label", "given_label", "noisy_label", "target", "labels")
_KEY_COLUMNS = ("path", "id", "index")
_CLEAN_COLUMNS = ("clean_label", "c10_clean_label", "c100_clean_label")


@dataclass(frozen=True, slots=True, eq=False)
class _LabelFile:
    """Columns of a file of labels, and the name of the column whose texts name the samples, if there is one."""

    path: Path
    columns: Mapping[str, Any]
    key_column: str | None = None


def replace_labels(data: Dataset, spec: str, *, is_noise: bool) -> Dataset:
    """Return the data set with the labels of a file as the given ones.

    Parameters
    ----------
    data
        The data set, complete and in its own order.
    spec
        Path of the file, with ``:`` and the name of a column if it has several.
    is_noise
        Whether the labels of the data set are the true ones. Otherwise, only its own true labels are kept.

    Raises
    ------
    DataError
        If the file is absent or damaged, has no label or several for a sample, or a label of no class.
    """
    path, column = _split_spec(spec)
    label_file = _read_file(path)
    name = _choose_column(label_file, column)
    values = _to_array(path, name, label_file.columns[name])
    labels = class_labels.read_labels(str(path), name, values)
    if label_file.key_column is not None:
        labels = labels[_match_samples(data, label_file)]
    if len(labels) != data.n_samples:
        raise DataError(
            f"{path}: {len(labels):,} labels for the {data.n_samples:,} training samples of {data.name}; give one "
            "each, in the order of the samples, or a CSV with a column path or id"
        )
    _check_clean_labels(data, label_file)
    numbers = _number_labels(data, path, labels)
    n_different = int((numbers != data.y_train).sum())
    notes = [f"labels are those of {path}, {n_different:,} of which differ from those of {data.name}"]
    chance = 1 - 1 / data.n_classes
    if n_different > 0.95 * chance * data.n_samples:
        notes.append(
            f"warning: {n_different / data.n_samples:.0%} of the labels of {path.name} differ from those of "
            f"{data.name}, no fewer than by chance: the file may belong to other samples or to another order"
        )
    clean = data.y_train if is_noise and data.y_train_clean is None else data.y_train_clean
    return replace(data, y_train=numbers, y_train_clean=clean, notes=(*data.notes, *notes))


def _split_spec(spec: str) -> tuple[Path, str | None]:
    """Split ``PATH`` or ``PATH:COLUMN`` into the path and the column; a file of the whole name is not split."""
    path, separator, column = spec.rpartition(":")
    if not separator or Path(spec).exists() or not Path(path).suffix:
        return Path(spec), None
    return Path(path), column


def _read_file(path: Path) -> _LabelFile:
    """Read the columns of a file of labels; a single column without a name is ``labels``."""
    if not path.is_file():
        raise DataError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; {_REMEDY}")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _LabelFile(path, _read_json(path))
    if suffix in (".npy", ".npz"):
        return _LabelFile(path, files.read_arrays(path, _REMEDY, "labels"))
    if suffix in (".pt", ".pth"):
        return _LabelFile(path, files.read_torch_arrays(path, _REMEDY, "labels"))
    if suffix in (".csv", ".tsv", ".txt"):
        return _read_csv(path)
    raise DataError(f"{path} ends in {path.suffix!r}; {_REMEDY}")


def _read_json(path: Path) -> dict[str, Any]:
    """Return the columns of a JSON file: a list, lists by name, or labels by the index of the sample."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); {_REMEDY}") from None
    if isinstance(content, dict) and content and not any(isinstance(value, list) for value in content.values()):
        indices = [str(i) for i in range(len(content))]
        if set(content) != set(indices):
            raise DataError(f"{path}: its keys are not 0..{len(content) - 1}; give a label for each index, or a list")
        content = [content[index] for index in indices]
    if isinstance(content, list):
        return {"labels": content}
    if isinstance(content, dict):
        return {name: value for name, value in content.items() if isinstance(value, list)}
    raise DataError(f"{path} holds a {type(content).__name__}; give a list with a label for each training sample")


def _read_csv(path: Path) -> _LabelFile:
    """Read a CSV with a header, or a label in every line; commas, semicolons and tabs separate columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(text.splitlines(), delimiter=files.find_separator(text)) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV in UTF-8 ({error}); {_REMEDY}") from None
    if not rows:
        raise DataError(f"{path} is empty; {_REMEDY}")
    header = [cell.strip() for cell in rows[0]]
    if len(header) == 1 and header[0].lower() not in _LABEL_COLUMNS:
        return _LabelFile(path, {"labels": _parse_cells([row[0] for row in rows])})
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}; give one each")
    columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}
    key_column = next((name for name in _KEY_COLUMNS if name in columns), None)
    keys = {} if key_column is None else {key_column: columns.pop(key_column)}
    return _LabelFile(path, {**{name: _parse_cells(cells) for name, cells in columns.items()}, **keys}, key_column)


def _parse_cells(cells: Sequence[str]) -> Sequence[int | str]:
    """Return cells as integers if all are whole numbers, and else as they are."""
    try:
        return [int(cell) for cell in cells]
    except ValueError:
        return cells


def _choose_column(label_file: _LabelFile, column: str | None) -> str:
    """Return the name of the column with the labels; raise DataError if it is absent, or if there are several."""
    names = [name for name in label_file.columns if name != label_file.key_column]
    if column is not None:
        if column not in names:
            raise DataError(f"{label_file.path} has no column {column!r}, only {', '.join(names)}; name one of them")
        return column
    known = [name for name in _LABEL_COLUMNS if name in names]
    if len(names) == 1 or known:
        return known[0] if known else names[0]
    raise DataError(
        f"{label_file.path} has the columns {', '.join(names) or 'none'}; name the one with the labels, such as "
        f"{label_file.path}:{names[-1] if names else 'label'}"
    )


def _to_array(path: Path, name: str, values: Any) -> NDArray[Any]:
    """Return a column as an array; raise DataError if it is none."""
    try:
        return np.asarray(values)
    except ValueError:
        raise DataError(
            f"{path}: the entries of {name} have different lengths; give one label for each sample"
        ) from None


def _match_samples(data: Dataset, label_file: _LabelFile) -> NDArray[np.int64]:
    """Return the row of each training sample, by the column of paths, ids or indices."""
    key_column = label_file.key_column or ""
    keys = [str(key).strip() for key in label_file.columns[key_column]]
    if key_column == "index" or data.sample_ids is None:
        wanted = [str(index) for index in range(data.n_samples)]
    else:
        wanted = data.sample_ids.tolist()
    rows = {key: row for row, key in enumerate(keys)}
    if len(rows) < len(keys):
        twice = next(key for row, key in enumerate(keys) if rows[key] != row)
        raise DataError(f"{label_file.path}: {key_column} {twice!r} is there twice; give each sample one label")
    missing = [key for key in wanted if key not in rows]
    if missing or len(keys) > len(wanted):
        unknown = sorted(set(keys) - set(wanted))
        what = f"lacks {len(missing):,} training samples, such as {missing[0]!r}" if missing else ""
        extra = f"has {len(unknown):,} that are none, such as {unknown[0]!r}" if unknown else ""
        raise DataError(
            f"{label_file.path}: the column {key_column} {' and '.join(filter(None, (what, extra)))}; "
            f"give a label for each of the {len(wanted):,} training samples, named as in clean.csv"
        )
    return np.array([rows[key] for key in wanted], dtype=np.int64)


def _check_clean_labels(data: Dataset, label_file: _LabelFile) -> None:
    """Raise DataError if the file has the true labels, too, and they are not those of the data set."""
    for name in _CLEAN_COLUMNS:
        if name in label_file.columns:
            clean = np.asarray(label_file.columns[name])
            true_labels = data.y_train if data.y_train_clean is None else data.y_train_clean
            if clean.shape == true_labels.shape and (n_other := int((clean != true_labels).sum())):
                raise DataError(
                    f"{label_file.path}: its {name} differs from the labels of {data.name} at {n_other:,} of "
                    f"{data.n_samples:,} samples, so it belongs to other samples or another order; give "
                    "the file of this data set"
                )


def _number_labels(data: Dataset, path: Path, labels: class_labels.RawLabels) -> NDArray[np.int64]:
    """Return labels as numbers of the data set's classes, which they name as the data set does.

    Raises
    ------
    DataError
        If a label is none of the classes.
    """
    texts = np.array([str(label) for label in labels.tolist()], dtype=np.str_)
    names = data.class_names or tuple(map(str, range(data.n_classes)))
    numbers = {name: number for number, name in enumerate(names)}
    if data.class_names and labels.dtype.kind != "U" and not set(texts.tolist()) <= set(numbers):
        numbers = {str(number): number for number in range(data.n_classes)}  # the numbers of named classes
    unknown = sorted(set(texts.tolist()) - set(numbers))
    if unknown:
        lowest, highest = (min(labels), max(labels)) if labels.dtype.kind != "U" else (0, 0)
        shifted = lowest == 1 and highest == data.n_classes
        cause = "; the labels seem to count from 1: subtract 1" if shifted else ""
        raise DataError(
            f"{path}: {len(unknown)} of its labels are no classes of {data.name}, such as {', '.join(unknown[:5])}; "
            f"classes are {', '.join(names[:5])}{' and so on' if len(names) > 5 else ''}{cause}"
        )
    return np.array([numbers[text] for text in texts.tolist()], dtype=np.int64)
