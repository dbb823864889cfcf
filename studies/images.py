"""Data sets made small enough for a processor."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import Dataset


def small(data: Dataset, pixels: int) -> Dataset:
    """The same with images averaged down to `pixels` a side; smaller ones stay as they are."""
    x_train, x_test = (_averaged(images, pixels) for images in (data.x_train, data.x_test))
    return replace(data, x_train=x_train, x_test=x_test)


def _averaged(images: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    n, height, _, n_channels = images.shape
    if height <= pixels:
        return images
    factor = height // pixels
    blocks = images.reshape(n, pixels, factor, pixels, factor, n_channels)
    means: NDArray[np.uint8] = np.rint(blocks.mean((2, 4), dtype=np.float32)).astype(np.uint8)
    return means
