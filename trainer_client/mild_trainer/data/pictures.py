"""Image files as arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_trainer.errors import DataError


def size_of(path: Path) -> tuple[int, int]:
    """Return an image's width and height.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    image = _open(path, None)
    return image.shape[1], image.shape[0]


def read(paths: Sequence[tuple[Path, int]], size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images in colour, shape (n, height, width, 3), brought to `size` (width, height), and their classes.

    Raises
    ------
    DataError
        If one cannot be read.
    """
    images = np.empty((len(paths), size[1], size[0], 3), dtype=np.uint8)
    for i, (path, _) in enumerate(paths):
        images[i] = _open(path, size)
    return images, np.array([label for _, label in paths], dtype=np.int64)


def _open(path: Path, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            coloured = image.convert("RGB")
            return np.asarray(coloured if size is None else coloured.resize(size, Image.Resampling.BILINEAR))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); replace or remove it") from error
