"""CIFAR-10N and CIFAR-100N: labels that people gave (Wei et al. 2022, arXiv 2110.12088).

Read are the published ``CIFAR-10_human.pt`` and ``CIFAR-100_human.pt``, or an ``.npz`` of the same columns, whose names
then begin with ``c10_`` and ``c100_``. Their order is checked against the true labels that they bring.
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
class _Source:
    """Where a data set's labels are."""

    torch_file: str
    prefix: str
    columns: Mapping[str, str]


_SOURCES: Mapping[str, _Source] = MappingProxyType(
    {
        "cifar10n": _Source(
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
        "cifar100n": _Source("CIFAR-100_human.pt", "c100_", {"noisy": "noisy_label"}),
    }
)


def relabelled(data: Dataset, spec: str, data_dir: Path | None) -> Dataset:
    """Return the data set with people's labels; those that it had become the truth.

    Parameters
    ----------
    data
        CIFAR-10 or CIFAR-100, whole and in its own order.
    spec
        Such as ``cifar10n:worse``.
    data_dir
        The folder that holds the label file beside the images.

    Raises
    ------
    DataError
        If there is no label file, it lacks a column, or it belongs to other images.
    """
    kind, _, name = spec.partition(":")
    source = _SOURCES[kind]
    path, columns = _read(files.folder(data_dir, kind), source)
    given, clean = (_column(path, columns, column) for column in (source.columns[name], "clean_label"))
    if clean.shape != data.y_train.shape or (clean != data.y_train).any():
        n_other = int((clean != data.y_train).sum()) if clean.shape == data.y_train.shape else data.n_samples
        raise DataError(
            f"{path}: its clean labels differ from those of {data.name} at {n_other} of {data.n_samples} samples, so "
            f"the labels belong to other images or another order; take --dataset {kind[:-1]} and its own label file"
        )
    return replace(data, y_train=given, y_train_clean=data.y_train)


def is_human(spec: str) -> bool:
    """Whether a noise specification asks for people's labels."""
    return spec.partition(":")[0] in noise.HUMAN


def _read(folder: Path, source: _Source) -> tuple[Path, Mapping[str, Any]]:
    remedy = f"put {source.torch_file} of http://noisylabels.com, or {_NPZ}, into --data-dir"
    path = folder / source.torch_file
    if path.exists():
        return path, files.torch_arrays(path, remedy)
    path = folder / _NPZ
    if not path.exists():
        raise DataError(f"{folder} holds no labels that people gave; {remedy}")
    found = files.read_arrays(path, remedy)
    prefix = source.prefix
    return path, {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def _column(path: Path, columns: Mapping[str, Any], name: str) -> NDArray[np.int64]:
    if name not in columns:
        raise DataError(f"{path} lacks {name}, got {', '.join(columns) or 'nothing'}; take the published file")
    return np.asarray(columns[name]).astype(np.int64)
