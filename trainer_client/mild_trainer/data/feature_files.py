"""Writing of files of features, which ``mild train --dataset features`` reads, in blocks of rows."""

import zipfile
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mild_client.atomic_write import open_atomically
from mild_trainer.data import feature_arrays
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError


def check_feature_path(path: Path) -> None:
    """Raise DataError if no file of features can be written at `path`."""
    if path.suffix.lower() != ".npz":
        raise DataError(f"--out {path} ends in {path.suffix!r}; give a file that ends in .npz")
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise DataError(f"--out {path} {problem}; give a file in a folder that exists")


def write_features(path: Path, data: Dataset, blocks: Iterable[tuple[str, NDArray[Any]]]) -> int:
    """Write an ``.npz`` file of features, which replaces that at `path` once it is complete.

    Parameters
    ----------
    path
        The file.
    data
        The data set, whose labels, names and ids are written; of its samples only the number counts.
    blocks
        Name of the array, ``x_train`` or ``x_test``, and features, shape (n_rows, n_features), for one block of rows
        after the other; those of an array follow each other.

    Returns
    -------
    n_features
        Number of features.
    """
    n_features = 0
    with open_atomically(path) as target, zipfile.ZipFile(target, "w") as archive:
        for name, group in groupby(blocks, key=itemgetter(0)):
            n_samples, n_written = len(getattr(data, name)), 0
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                for _, block in group:
                    rows = np.ascontiguousarray(block, dtype="<f4")
                    feature_arrays.check_finite(name, rows, n_written)
                    if n_features not in (0, rows.shape[1]):
                        raise DataError(
                            f"{name}[{n_written}] has {rows.shape[1]} features, and rows before it have {n_features}; "
                            "give all as many (--image-size, where a network takes any)"
                        )
                    n_features = rows.shape[1]
                    if not n_written:
                        header = {"descr": "<f4", "fortran_order": False, "shape": (n_samples, n_features)}
                        npy.write_array_header_1_0(file, header)
                    file.write(rows.data)
                    n_written += len(rows)
        for name, array in _list_labels(data).items():
            with archive.open(f"{name}.npy", "w") as file:
                npy.write_array(file, array, allow_pickle=False)
    return n_features


def _list_labels(data: Dataset) -> dict[str, NDArray[Any]]:
    """Return what is known of the samples and the classes, by the names of the arrays in the file."""
    arrays = {
        "y_train": data.y_train,
        "y_test": data.y_test if len(data.y_test) else None,
        "y_train_clean": data.y_train_clean,
        "ids": data.sample_ids,
        "class_names": np.array(data.class_names) if data.class_names else None,
    }
    return {name: array for name, array in arrays.items() if array is not None}
