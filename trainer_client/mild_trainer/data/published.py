"""Published data sets: CIFAR-10 and CIFAR-100 (Krizhevsky 2009), MNIST (LeCun et al. 1998), and digits.

The digits are images of 8x8 pixels with 17 grey levels, shipped with scikit-learn (UCI, Alpaydin and Kaynak 1998).
"""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import class_labels, files
from mild_trainer.data.class_labels import ClassFilter
from mild_trainer.data.dataset import Dataset
from mild_trainer.data.download import SOURCES
from mild_trainer.errors import DataError

_CIFAR_BYTES = 3 * 32 * 32


def load_cifar(name: str, data_dir: Path | None) -> Dataset:
    """Load CIFAR-10 or CIFAR-100: 50,000 training and 10,000 test images of 10 or 100 classes, 32x32 in colour."""
    (archive,) = SOURCES[name]
    parent = files.check_folder(data_dir, archive.unpacks_to)
    root = parent / archive.unpacks_to if (parent / archive.unpacks_to).is_dir() else parent
    remedy = f"unpack {archive.url} and give its parent, or the unpacked folder, to --data-dir"
    if name == "cifar10":
        batches, test_batch, label_key = [f"data_batch_{i}" for i in range(1, 6)], "test_batch", b"labels"
    else:
        batches, test_batch, label_key = ["train"], "test", b"fine_labels"
    x_train, y_train = _read_batches(root, batches, 50_000 // len(batches), label_key, remedy)
    x_test, y_test = _read_batches(root, [test_batch], 10_000, label_key, remedy)
    return Dataset(name, x_train, y_train, x_test, y_test, int(name.removeprefix("cifar")))


def _read_batches(
    root: Path, names: Sequence[str], n_samples: int, label_key: bytes, remedy: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read CIFAR files of `n_samples` images each; return images, shape (n, 32, 32, 3), and labels, shape (n,)."""
    batches = [_read_batch(root / name, n_samples, label_key, remedy) for name in names]
    images = np.concatenate([images for images, _ in batches])
    return (
        np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)),
        np.concatenate([labels for _, labels in batches]),
    )


def _read_batch(
    path: Path, n_samples: int, label_key: bytes, remedy: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one CIFAR file; return images, shape (n_samples, 3072), and labels, shape (n_samples,)."""
    content = files.read_pickle(path, remedy)
    images, labels = content.get(b"data"), content.get(label_key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or not isinstance(labels, list):
        raise DataError(f"{path} lacks the array 'data' or the list '{label_key.decode()}'; {remedy}")
    if images.shape != (n_samples, _CIFAR_BYTES) or len(labels) != n_samples:
        raise DataError(
            f"{path} takes {n_samples} images of {_CIFAR_BYTES} bytes, got {images.shape} and {len(labels)} labels; "
            f"{remedy}"
        )
    return images, np.asarray(labels, dtype=np.int64)


_IDX_UINT8 = 0x08
_MNIST_REMEDY = (
    "put train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k files, or their .gz, into --data-dir"
)


def load_mnist(data_dir: Path | None, class_filter: ClassFilter) -> Dataset:
    """Load MNIST, or another data set in idx files of the same names, gzipped or not."""
    root = files.check_folder(data_dir, "mnist")
    (x_train, y_train), (x_test, y_test) = (
        (
            _read_idx(root, f"{part}-images-idx3-ubyte", 3)[..., None],
            _read_idx(root, f"{part}-labels-idx1-ubyte", 1).astype(np.int64),
        )
        for part in ("train", "t10k")
    )
    numbered = class_labels.number_classes(
        str(root), {"train labels": y_train, "t10k labels": y_test}, renumber=class_filter.renumbers("mnist")
    )
    return Dataset(
        "mnist",
        x_train,
        numbered.labels["train labels"],
        x_test,
        numbered.labels["t10k labels"],
        numbered.n_classes,
        class_names=numbered.class_names,
        notes=(numbered.note,) if numbered.note else (),
    )


def _read_idx(root: Path, name: str, n_dims: int) -> NDArray[np.uint8]:
    """Read the array of an idx file: two zero bytes, the type, `n_dims`, each dimension as 4 bytes, and the values."""
    gzip_path = root / f"{name}.gz"
    path = gzip_path if gzip_path.exists() else root / name
    content = files.read_file(path, _MNIST_REMEDY)
    header_size = 4 + 4 * n_dims
    if content[:4] != bytes((0, 0, _IDX_UINT8, n_dims)) or len(content) < header_size:
        raise DataError(f"{path} does not begin like an idx file of {n_dims} dimensions of bytes; {_MNIST_REMEDY}")
    shape = struct.unpack(f">{n_dims}I", content[4:header_size])
    if len(content) != header_size + math.prod(shape):
        raise DataError(
            f"{path} announces {math.prod(shape)} values of shape {shape}, got {len(content) - header_size}; "
            f"{_MNIST_REMEDY}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape)


_N_TEST_DIGITS = 360


def load_digits() -> Dataset:
    """Load scikit-learn's digits: 1,437 training and 360 test images, in a fixed split stratified by class."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    images, labels = datasets.load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images.reshape(-1, 8, 8, 1).astype(np.uint8),
        labels.astype(np.int64),
        test_size=_N_TEST_DIGITS,
        random_state=0,
        stratify=labels,
    )
    return Dataset("digits", x_train, y_train, x_test, y_test, n_classes=10)
