"""Human labels of CIFAR-10N and CIFAR-100N (Wei et al. 2022, arXiv 2110.12088).

The files are the published ``CIFAR-10_human.pt`` and ``CIFAR-100_human.pt``, or an ``.npz`` of the same columns, with
names that begin with ``c10_`` and ``c100_``. The true labels in the same file verify the order of the samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_trainer import noise
from mild_trainer.data import files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_NPZ = "cifar-n-labels.npz"


@dataclass(frozen=True, slots=True)
class _LabelFile:
    """File and columns of a data set's human labels."""

    torch_file: str
    prefix: str
    columns: Mapping[str, str]


_LABEL_FILES: Mapping[str, _LabelFile] = MappingProxyType(
    {
        "cifar10n": _LabelFile(
            "CIFAR-10_human.pt",
            "c10_",
            {
                "aggre": "aggre_label",
                "random1": "random_label1",
                "random2": "random_label2",
                "random3": "random_label3",
                "worse": "worse_label",
            },
        ),
        "cifar100n": _LabelFile("CIFAR-100_human.pt", "c100_", {"noisy": "noisy_label"}),
    }
)


def apply_human_labels(data: Dataset, spec: str, data_dir: Path | None) -> Dataset:
    """Return the data set with human labels, and with its original labels as the true labels.

    Parameters
    ----------
    data
        CIFAR-10 or CIFAR-100, complete and in the published order.
    spec
        Data set and name of the human labels, such as ``cifar10n:worse``.
    data_dir
        Folder of the images and the label file.
    """
    kind, _, name = spec.partition(":")
    label_file = _LABEL_FILES[kind]
    path, columns = _read_columns(files.check_folder(data_dir, kind), label_file)
    human_labels, clean = (_get_column(path, columns, column) for column in (label_file.columns[name], "clean_label"))
    if clean.shape != data.y_train.shape or (clean != data.y_train).any():
        n_other = int((clean != data.y_train).sum()) if clean.shape == data.y_train.shape else data.n_samples
        raise DataError(
            f"{path}: its clean labels differ from those of {data.name} at {n_other} of {data.n_samples} samples, so "
            f"the labels belong to other images or another order; take --dataset {kind[:-1]} and its own label file"
        )
    return replace(data, y_train=human_labels, y_train_clean=data.y_train)


def is_human_noise(spec: str) -> bool:
    """Return whether a noise specification, such as ``cifar10n:worse``, stands for human labels."""
    return spec.partition(":")[0] in noise.HUMAN_LABELS


def _read_columns(folder: Path, label_file: _LabelFile) -> tuple[Path, Mapping[str, Any]]:
    """Return the path of the label file in `folder`, and its columns by name."""
    remedy = f"put {label_file.torch_file} of http://noisylabels.com, or {_NPZ}, into --data-dir"
    path = folder / label_file.torch_file
    if path.exists():
        return path, files.read_torch_arrays(path, remedy)
    path = folder / _NPZ
    if not path.exists():
        raise DataError(f"{folder} holds no labels that people gave; {remedy}")
    arrays = files.read_arrays(path, remedy)
    prefix = label_file.prefix
    return path, {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _get_column(path: Path, columns: Mapping[str, Any], name: str) -> NDArray[np.int64]:
    """Return a column as int64; raise DataError if it is missing."""
    if name not in columns:
        raise DataError(f"{path} lacks {name}, got {', '.join(columns) or 'nothing'}; take the published file")
    return np.asarray(columns[name]).astype(np.int64)
