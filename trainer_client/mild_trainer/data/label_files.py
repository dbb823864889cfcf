"""Files of labels: JSON, ``.npy``, ``.npz``, ``torch.save`` or CSV, with a label for each sample.

Noisy labels of published experiments are shared as such files (DivideMix's ``0.5_sym.json``, CIFAR-N's
``CIFAR-10_human.pt``), and so are labels that people have mended (``clean.csv``). `read_label_file` reads them for data
sets and for recorded predictions alike.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_core.cells import ABSENT, parse_column
from mild_trainer import noise
from mild_trainer.data import class_labels, files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_REMEDY = "give a .json, .npy, .npz, .pt, .csv or .txt file with a label for each sample"
_LABEL_COLUMNS = ("label", "given_label", "noisy_label", "target", "labels")
_KEYS = "key"
_SAMPLE_COLUMNS = ("sample", "path", "id", "guid", _KEYS, "index")
_INDEX = re.compile("0|[1-9][0-9]{0,17}")
"""A number as programs write it; 007 is none, since it may be another sample than 7."""
_PREFIXES = ("c10_", "c100_")
"""Of the columns of `_HUMAN_LABELS`, a file of the labels of CIFAR-10N and CIFAR-100N."""
_HUMAN_LABELS = "cifar-n-labels.npz"


@dataclass(frozen=True, slots=True, eq=False)
class LabelFile:
    """Content of a file of labels.

    Attributes
    ----------
    path
        The file.
    labels
        Shape (n_labels,), numbers or names of classes as the file has them.
    is_absent
        Shape (n_labels,), whether a label is unknown; its entry in `labels` has no meaning then.
    samples
        Name of each label's sample; None if the labels are in the order of the samples.
    sample_column
        Name of the column of `samples`: ``index`` if they are indices.
    clean
        The true labels, where the file has them, too.
    """

    path: Path
    labels: class_labels.RawLabels
    is_absent: NDArray[np.bool_]
    samples: Sequence[str] | None
    sample_column: str
    clean: NDArray[Any] | None

    def find_indices(self) -> NDArray[np.int64] | None:
        """Return the index of each label's sample, shape (n_labels,); None unless the names are numbers from 0 on."""
        if self.samples is None or not all(_INDEX.fullmatch(name) for name in self.samples):
            return None
        indices = np.array([int(name) for name in self.samples], dtype=np.int64)
        return indices if indices.max(initial=0) < 2 * indices.size or self.sample_column == "index" else None

    def order_by_index(self, classes: NDArray[np.int64], indices: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Return the class of each sample, -1 where unknown; shape (n_samples,).

        Parameters
        ----------
        classes, indices
            Shape (n_labels,), the class and the sample of each label; without `indices`, they are in order.
        """
        if (is_negative := (classes < 0) & ~self.is_absent).any():
            raise DataError(
                f"{self.path}: entry {int(np.argmax(is_negative)) + 1} is the label {classes[np.argmax(is_negative)]}, "
                "classes are numbered from 0; leave a label that is unknown empty"
            )
        classes = np.where(self.is_absent, -1, classes)
        if indices is None:
            return classes
        by_index = np.full(int(indices.max(initial=-1)) + 1, -1, dtype=np.int64)
        by_index[indices] = classes
        return by_index


def read_label_file(spec: str, columns: Mapping[str, str] | None = None) -> LabelFile:
    """Read a file of labels. Labels of which all are texts of numbers are numbers.

    Parameters
    ----------
    spec
        Path of the file, with ``:`` and the name of a column if it has several.
    columns
        Names that the columns of ``sample`` and ``label`` may have, too.
    """
    columns = columns or {}
    path, label_column = _split_spec(spec)
    sample_columns = (columns.get("sample", "sample"), *_SAMPLE_COLUMNS)
    content = _read_columns(path, sample_columns)
    if label_column is None and columns.get("label") in content:
        label_column = columns["label"]
    name = _choose_column(path, [name for name in content if name not in sample_columns], label_column)
    labels, is_absent = _read_labels(path, name, content[name])
    clean_column = f"{next(filter(name.startswith, _PREFIXES), '')}clean_label"
    clean = np.asarray(content[clean_column]) if clean_column in content else None
    for sample_column in sample_columns:
        samples = [str(sample).strip() for sample in content.get(sample_column, ())]
        if any(samples):
            if len(rows := dict(zip(samples, range(len(samples)), strict=True))) < len(samples):
                twice = next(sample for row, sample in enumerate(samples) if rows[sample] != row)
                raise DataError(f"{path}: {sample_column} {twice!r} is there twice; give each sample one label")
            by_index = sample_column == _KEYS and set(samples) == set(map(str, range(len(samples))))
            return LabelFile(path, labels, is_absent, samples, "index" if by_index else sample_column, clean)
    return LabelFile(path, labels, is_absent, None, "", clean)


def find_noisy_labels(spec: str, data_dir: Path | None) -> str | None:
    """Return the file, and its column, of the labels that a specification of noise names; None where they are drawn.

    Human labels (CIFAR-N, Wei et al. 2022, arXiv 2110.12088) are in `data_dir`, in the published ``CIFAR-10_human.pt``
    or ``CIFAR-100_human.pt``, or in an ``.npz`` whose columns begin with ``c10_`` and ``c100_``.
    """
    kind, _, name = spec.partition(":")
    if kind not in noise.HUMAN_LABELS:
        return noise.get_label_file(spec)
    folder, number, column = files.check_folder(data_dir, kind), kind[5:-1], noise.HUMAN_LABELS[kind][name]
    published = folder / f"CIFAR-{number}_human.pt"
    if published.exists():
        return f"{published}:{column}"
    if (folder / _HUMAN_LABELS).exists():
        return f"{folder / _HUMAN_LABELS}:c{number}_{column}"
    raise DataError(
        f"{folder} holds no labels that people gave; put {published.name} of http://noisylabels.com, or "
        f"{_HUMAN_LABELS}, into --data-dir"
    )


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
    """
    label_file = read_label_file(spec)
    path, labels = label_file.path, label_file.labels
    if label_file.is_absent.any():
        raise DataError(
            f"{path}: {int(label_file.is_absent.sum()):,} of {len(labels):,} entries have no label, the first is entry "
            f"{int(np.argmax(label_file.is_absent)) + 1}; give each training sample one, or leave the sample out of "
            "the data set"
        )
    if label_file.samples is not None:
        labels = labels[_match_samples(data, label_file.samples, label_file)]
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


def _read_columns(path: Path, text_columns: Sequence[str]) -> dict[str, Any]:
    """Read the columns of a file; one without a name is ``labels``, and those of `text_columns` stay texts in a CSV."""
    if not path.is_file():
        raise DataError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; {_REMEDY}")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _read_json(path)
    if suffix in (".npy", ".npz"):
        return dict(files.read_arrays(path, _REMEDY, "labels"))
    if suffix in (".pt", ".pth"):
        return files.read_torch_arrays(path, _REMEDY, "labels")
    if suffix in (".csv", ".tsv", ".txt"):
        return _read_csv(path, text_columns)
    raise DataError(f"{path} ends in {path.suffix!r}; {_REMEDY}")


def _read_json(path: Path) -> dict[str, Any]:
    """Return the columns of a JSON file: a list, lists by name, or labels by sample."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); {_REMEDY}") from None
    if isinstance(content, list):
        return {"labels": content}
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; give a list with a label for each sample")
    if any(isinstance(value, list) for value in content.values()):
        return {name: value for name, value in content.items() if isinstance(value, list)}
    return {_KEYS: list(content), "labels": list(content.values())}


def _read_csv(path: Path, text_columns: Sequence[str]) -> dict[str, Any]:
    """Read a CSV with a header, or a label in every line; commas, semicolons and tabs separate columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = files.find_separator(text)
        rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=separator) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV in UTF-8 ({error}); {_REMEDY}") from None
    if not rows:
        raise DataError(f"{path} is empty; {_REMEDY}")
    header = rows[0]
    if len(header) == 1 and header[0].lower() not in _LABEL_COLUMNS:
        return {"labels": parse_column([row[0] for row in rows], separator)}
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} cells, the header has {len(header)}; give one each")
    cells = {name: [row[position] for row in rows[1:]] for position, name in enumerate(header)}
    return {name: texts if name in text_columns else parse_column(texts, separator) for name, texts in cells.items()}


def _choose_column(path: Path, names: Sequence[str], column: str | None) -> str:
    """Return the name of the column with the labels; raise DataError if it is absent, or if there are several."""
    if column is not None:
        if column not in names:
            raise DataError(f"{path} has no column {column!r}, only {', '.join(names)}; name one of them")
        return column
    known = [name for name in _LABEL_COLUMNS if name in names]
    if len(names) == 1 or known:
        return known[0] if known else names[0]
    raise DataError(
        f"{path} has the columns {', '.join(names) or 'none'}; name the one with the labels, such as "
        f"{path}:{names[-1] if names else 'label'}"
    )


def _read_labels(path: Path, name: str, values: Any) -> tuple[class_labels.RawLabels, NDArray[np.bool_]]:
    """Return the labels of a column, and whether each is absent; raise DataError if it holds something else."""
    entries = values if isinstance(values, list) else np.asarray(values).tolist()
    if isinstance(entries, list) and entries and all(isinstance(entry, str) for entry in entries):
        entries = parse_column(list(map(str.strip, entries)))
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: {name} holds no labels; {_REMEDY}")
    is_absent = np.array([entry is None or entry != entry or entry in ABSENT for entry in entries])
    if is_absent.all():
        raise DataError(f"{path}: {name} has {len(entries):,} entries and no label; {_REMEDY}")
    stand_in = entries[int(np.argmin(is_absent))]
    filled = [stand_in if absent else entry for entry, absent in zip(entries, is_absent.tolist(), strict=True)]
    try:
        return class_labels.read_labels(str(path), name, np.asarray(filled)), is_absent
    except ValueError:
        raise DataError(
            f"{path}: the entries of {name} have different lengths; give one label for each sample"
        ) from None


def _match_samples(data: Dataset, samples: Sequence[str], label_file: LabelFile) -> NDArray[np.int64]:
    """Return the row of each training sample, by its path, id or index in the column `samples` of a file."""
    path, column = label_file.path, label_file.sample_column
    if column == "index" or data.sample_ids is None:
        wanted = [str(index) for index in range(data.n_samples)]
    else:
        wanted = data.sample_ids.tolist()
    rows = {name: row for row, name in enumerate(samples)}
    missing = [name for name in wanted if name not in rows]
    if missing or len(samples) > len(wanted):
        unknown = sorted(set(samples) - set(wanted))
        what = f"lacks {len(missing):,} training samples, such as {missing[0]!r}" if missing else ""
        extra = f"has {len(unknown):,} that are none, such as {unknown[0]!r}" if unknown else ""
        raise DataError(
            f"{path}: the column {column} {' and '.join(filter(None, (what, extra)))}; "
            f"give a label for each of the {len(wanted):,} training samples, named as in clean.csv"
        )
    return np.array([rows[name] for name in wanted], dtype=np.int64)


def _check_clean_labels(data: Dataset, label_file: LabelFile) -> None:
    """Raise DataError if the file has the true labels, too, and they are not those of the data set."""
    true_labels = data.y_train if data.y_train_clean is None else data.y_train_clean
    clean = label_file.clean
    if clean is not None and clean.shape == true_labels.shape and (n_other := int((clean != true_labels).sum())):
        raise DataError(
            f"{label_file.path}: its clean labels differ from the labels of {data.name} at {n_other:,} of "
            f"{data.n_samples:,} samples, so it belongs to other samples or another order; give the file of this data "
            "set"
        )


def _number_labels(data: Dataset, path: Path, labels: class_labels.RawLabels) -> NDArray[np.int64]:
    """Return labels as numbers of the data set's classes, which they name as the data set does."""
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
