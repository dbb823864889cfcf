"""CIFAR-10 and CIFAR-100 in their published Python pickles (Krizhevsky 2009)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_PIXELS = 3 * 32 * 32
_REMEDY = "unpack https://www.cs.toronto.edu/~kriz/{} and give its parent, or the unpacked folder, to --data-dir"


def load_cifar10(data_dir: Path | None) -> Dataset:
    """50,000 training and 10,000 test images of 10 classes, 32x32 in colour.

    Raises
    ------
    DataError
        If a file is absent, damaged or of another length.
    """
    root = _root(data_dir, "cifar-10-batches-py")
    remedy = _REMEDY.format("cifar-10-python.tar.gz")
    x_train, y_train = _batches(root, [f"data_batch_{i}" for i in range(1, 6)], 10_000, b"labels", remedy)
    x_test, y_test = _batches(root, ["test_batch"], 10_000, b"labels", remedy)
    return Dataset("cifar10", x_train, y_train, x_test, y_test, 10)


def load_cifar100(data_dir: Path | None) -> Dataset:
    """50,000 training and 10,000 test images of 100 classes, 32x32 in colour.

    Raises
    ------
    DataError
        If a file is absent, damaged or of another length.
    """
    root = _root(data_dir, "cifar-100-python")
    remedy = _REMEDY.format("cifar-100-python.tar.gz")
    x_train, y_train = _batches(root, ["train"], 50_000, b"fine_labels", remedy)
    x_test, y_test = _batches(root, ["test"], 10_000, b"fine_labels", remedy)
    return Dataset("cifar100", x_train, y_train, x_test, y_test, 100)


def _root(data_dir: Path | None, name: str) -> Path:
    parent = files.folder(data_dir, name)
    return parent / name if (parent / name).is_dir() else parent


def _batches(
    root: Path, names: Sequence[str], n_samples: int, label_key: bytes, remedy: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batches = [_batch(root / name, n_samples, label_key, remedy) for name in names]
    images = np.concatenate([images for images, _ in batches])
    return (
        np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)),
        np.concatenate([labels for _, labels in batches]),
    )


def _batch(path: Path, n_samples: int, label_key: bytes, remedy: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = files.unpickle(path, remedy)
    images, labels = content.get(b"data"), content.get(label_key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or not isinstance(labels, list):
        raise DataError(f"{path} lacks the array 'data' or the list '{label_key.decode()}'; {remedy}")
    if images.shape != (n_samples, _PIXELS) or len(labels) != n_samples:
        raise DataError(
            f"{path} takes {n_samples} images of {_PIXELS} bytes, got {images.shape} and {len(labels)} labels; {remedy}"
        )
    return images, np.asarray(labels, dtype=np.int64)
