"""Images and labels in one ``.npz`` file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import files
from mild_trainer.data.dataset import Dataset
from mild_trainer.errors import DataError

_REMEDY = (
    "save x_train, y_train, x_test, y_test (and y_train_clean where known), "
    "images as uint8 (n, height, width[, channels]) and labels as integers from 0"
)


def load_npz(path: Path | None) -> Dataset:
    """Arrays ``x_train, y_train, x_test, y_test``, and ``y_train_clean`` where the truth is known.

    Raises
    ------
    DataError
        If the file is absent or damaged, or an array is missing or of another type.
    """
    if path is None:
        raise DataError("the npz data set is read from a file and none was given; name it with --data-dir")
    arrays = files.arrays(path, _REMEDY)
    missing = sorted({"x_train", "y_train", "x_test", "y_test"} - set(arrays))
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}, got {', '.join(sorted(arrays)) or 'nothing'}; {_REMEDY}")
    y_train, y_test = _labels(path, "y_train", arrays["y_train"]), _labels(path, "y_test", arrays["y_test"])
    clean = arrays.get("y_train_clean")
    return Dataset(
        name=path.stem,
        x_train=_images(arrays["x_train"]),
        y_train=y_train,
        x_test=_images(arrays["x_test"]),
        y_test=y_test,
        n_classes=int(max(y_train.max(initial=0), y_test.max(initial=0))) + 1,
        y_train_clean=None if clean is None else _labels(path, "y_train_clean", clean),
    )


def _images(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images[..., None] if images.ndim == 3 else images


def _labels(path: Path, name: str, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {name} is {labels.dtype} of shape {labels.shape}; {_REMEDY}")
    return labels.astype(np.int64)
