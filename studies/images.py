"""Smaller images for trainings on a processor."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data import Dataset


def shrink_images(data: Dataset, pixels: int) -> Dataset:
    """Average images down to `pixels` a side; smaller ones are not changed."""
    x_train, x_test = (_average_blocks(images, pixels) for images in (data.x_train, data.x_test))
    return replace(data, x_train=x_train, x_test=x_test)


def _average_blocks(images: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    n, height, _, n_channels = images.shape
    if height <= pixels:
        return images
    factor = height // pixels
    blocks = images.reshape(n, pixels, factor, pixels, factor, n_channels)
    means: NDArray[np.uint8] = np.rint(blocks.mean((2, 4), dtype=np.float32)).astype(np.uint8)
    return means
