"""MNIST and its relatives in idx files (LeCun et al. 1998), zipped or not."""

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_UNSIGNED_BYTES = 0x08
_REMEDY = "put train-images-idx3-ubyte, train-labels-idx1-ubyte and the two t10k files, or their .gz, into --data-dir"


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
    content = files.read(path, _REMEDY)
    head = 4 + 4 * n_dims
    if content[:4] != bytes((0, 0, _UNSIGNED_BYTES, n_dims)) or len(content) < head:
        raise DataError(f"{path} does not begin like an idx file of {n_dims} dimensions of bytes; {_REMEDY}")
    shape = struct.unpack(f">{n_dims}I", content[4:head])
    if len(content) != head + math.prod(shape):
        raise DataError(
            f"{path} announces {math.prod(shape)} values of shape {shape}, got {len(content) - head}; {_REMEDY}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)
