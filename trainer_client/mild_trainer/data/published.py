"""CIFAR-10 and CIFAR-100 in their published Python pickles (Krizhevsky 2009).

MNIST and its relatives in idx files (LeCun et al. 1998), zipped or not.

Handwritten digits, 8x8 pixels of 17 grey levels, shipped with scikit-learn (UCI, Alpaydin and Kaynak 1998).
"""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_PIXELS = 3 * 32 * 32
_CIFAR_REMEDY = "unpack https://www.cs.toronto.edu/~kriz/{} and give its parent, or the unpacked folder, to --data-dir"


def load_cifar10(data_dir: Path | None) -> Dataset:
    """50,000 training and 10,000 test images of 10 classes, 32x32 in colour.

    Raises
    ------
    DataError
        If a file is absent, damaged or of another length.
    """
    root = _root(data_dir, "cifar-10-batches-py")
    remedy = _CIFAR_REMEDY.format("cifar-10-python.tar.gz")
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
    remedy = _CIFAR_REMEDY.format("cifar-100-python.tar.gz")
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


_UNSIGNED_BYTES = 0x08
_MNIST_REMEDY = (
    "put train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k files, or their .gz, into --data-dir"
)


def load_mnist(data_dir: Path | None) -> Dataset:
    """Grey images and their classes.

    Raises
    ------
    DataError
        If a file is absent or damaged.
    """
    root = files.folder(data_dir, "mnist")
    x_train, y_train = _images(root, "train"), _labels(root, "train")
    x_test, y_test = _images(root, "t10k"), _labels(root, "t10k")
    n_classes = int(max(y_train.max(initial=0), y_test.max(initial=0))) + 1
    return Dataset("mnist", x_train, y_train, x_test, y_test, n_classes)


def _images(root: Path, part: str) -> NDArray[np.uint8]:
    return _read(root, f"{part}-images-idx3-ubyte", 3)[..., None]


def _labels(root: Path, part: str) -> NDArray[np.int64]:
    return _read(root, f"{part}-labels-idx1-ubyte", 1).astype(np.int64)


def _read(root: Path, name: str, n_dims: int) -> NDArray[np.uint8]:
    """Read an idx file: two zero bytes, the type, the number of dimensions, each as 4 bytes, then the values."""
    zipped = root / f"{name}.gz"
    path = zipped if zipped.exists() else root / name
    content = files.read(path, _MNIST_REMEDY)
    head = 4 + 4 * n_dims
    if content[:4] != bytes((0, 0, _UNSIGNED_BYTES, n_dims)) or len(content) < head:
        raise DataError(f"{path} does not begin like an idx file of {n_dims} dimensions of bytes; {_MNIST_REMEDY}")
    shape = struct.unpack(f">{n_dims}I", content[4:head])
    if len(content) != head + math.prod(shape):
        raise DataError(
            f"{path} announces {math.prod(shape)} values of shape {shape}, got {len(content) - head}; {_MNIST_REMEDY}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


_N_TEST = 360


def load_digits() -> Dataset:
    """1,437 training and 360 test images, split by class; the split never changes."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    images, labels = datasets.load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images.reshape(-1, 8, 8, 1).astype(np.uint8),
        labels.astype(np.int64),
        test_size=_N_TEST,
        random_state=0,
        stratify=labels,
    )
    return Dataset("digits", x_train, y_train, x_test, y_test, n_classes=10)
