"""`ImageSource`, a data set whose images are read in batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mild_trainer.data.dataset import Dataset
from mild_trainer.data.folder import PictureList
from mild_trainer.data.pictures import OpenedPictures, PictureFiles


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A data set whose images are read in batches, so that large pictures need not all be in memory.

    Attributes
    ----------
    data
        The data set; in place of its images it has their positions, shape (n_samples,), int64.
    x_train, x_test
        The images as read, or the files to read.
    pictures
        What is known of the files; None for images as read.
    """

    data: Dataset
    x_train: NDArray[np.uint8] | PictureFiles
    x_test: NDArray[np.uint8] | PictureFiles
    pictures: OpenedPictures | None = None

    @classmethod
    def from_dataset(cls, data: Dataset) -> Self:
        """Return the source of images that are in memory."""
        positions = replace(data, x_train=np.arange(len(data.x_train)), x_test=np.arange(len(data.x_test)))
        return cls(positions, data.x_train, data.x_test)

    @classmethod
    def open(cls, pictures: PictureList) -> Self:
        """Return the source of pictures in files, of which the headers are read."""
        opened = pictures.open()
        x_train, x_test = opened.parts
        data = pictures.make_dataset(np.arange(len(x_train)), np.arange(len(x_test)))
        return cls(data, x_train, x_test, opened)

    def take(self, limit: int, seed: int) -> Self:
        """Return the source of at most `limit` random training images, drawn evenly from the classes; 0 takes all."""
        return replace(self, data=self.data.take_balanced(limit, seed)) if limit else self

    def describe_conversions(self) -> list[str]:
        """Return what was converted in the pictures read so far, in sentences for people."""
        return [] if self.pictures is None else self.pictures.describe_conversions()

    def iter_batches(self, batch_size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield the images, shape (n_batch, height, width, n_channels): ``x_train`` in their order, then ``x_test``."""
        parts: tuple[tuple[str, NDArray[Any], NDArray[np.uint8] | PictureFiles], ...] = (
            ("x_train", self.data.x_train, self.x_train),
            ("x_test", self.data.x_test, self.x_test),
        )
        for name, positions, images in parts:
            for first in range(0, len(positions), batch_size):
                batch = positions[first : first + batch_size]
                yield name, images.read(batch.tolist()) if isinstance(images, PictureFiles) else images[batch]
