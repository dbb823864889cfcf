"""Batches of images, normalised and augmented on the training device."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_trainer.settings import DataOn
from mild_trainer.training.device_samples import Batches, compute_part_sizes, split_evenly
from mild_trainer.training.image_storage import store_images

# Number of pixel values in a slab: several small batches that are augmented together, to launch fewer kernels.
_SLAB_VALUES = 1 << 25


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Settings of the random changes to the training images, which are drawn for each image in each epoch.

    Attributes
    ----------
    pad
        Largest shift of a random crop, in pixels; 0 for no crop.
    flip
        Whether to mirror half of the images.
    cutout
        Side of the square that is cut out of every image, in pixels; 0 for none. Its centre is drawn uniformly, and the
        square is clipped at the border (DeVries and Taylor 2017, arXiv 1708.04552).
    """

    pad: int = 0
    flip: bool = False
    cutout: int = 0


NO_AUGMENTATION = Augmentation()
"""Leaves the images unchanged."""


class DeviceImages:
    """A data set that yields batches of normalised images and their labels on the device.

    The batches are the same, bit for bit, wherever the images are stored.

    Parameters
    ----------
    images
        Shape (n_samples, height, width, n_channels), uint8.
    labels
        Shape (n_samples,), int64.
    mean, std
        Shape (n_channels,), mean and standard deviation of the bytes, for the normalisation.
    device
        Device of the labels and the batches.
    dtype
        Type of the images in the batches.
    augmentation
        Random changes that `iter_augmented` makes.
    data_on
        Where the images are stored; ``auto`` stores them on the device if they fit.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        mean: NDArray[np.float32],
        std: NDArray[np.float32],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        augmentation: Augmentation = NO_AUGMENTATION,
        data_on: DataOn = "auto",
    ) -> None:
        self.n_samples, self.height, self.width, self.n_channels = images.shape
        self.device, self.dtype, self.augmentation = device, dtype, augmentation
        self.labels = torch.from_numpy(labels).to(device)
        self._storage = store_images(images, augmentation.pad, device, data_on)
        self._mean = torch.from_numpy(mean).to(device, dtype)
        self._inverse_std = torch.from_numpy(1 / std).to(device, dtype)
        self._rows = torch.arange(self.height, device=device)
        self._columns = torch.arange(self.width, device=device)

    def iter_augmented(self, indices: Tensor, batch_size: int, generator: torch.Generator) -> Batches:
        """Yield batches (indices, images, labels) of augmented images, in the order of `indices`."""
        slab_sizes = compute_part_sizes(len(indices), self._count_slab_batches(batch_size) * batch_size)
        for slab, padded, rows_of_part in self._storage.iter_parts(indices, slab_sizes):
            n = len(slab)
            rows = self._rows + self._draw_shifts(n, generator)
            columns = self._columns.expand(n, -1)
            if self.augmentation.flip:
                mirrored = torch.rand((n, 1), device=self.device, generator=generator) < 0.5
                columns = torch.where(mirrored, self._columns.flip(0), columns)
            columns = columns + self._draw_shifts(n, generator)
            # One gather picks the samples, crops and mirrors; its result is channels-last in memory.
            images = self._normalise(padded[rows_of_part[:, None, None], rows[:, :, None], columns[:, None, :]])
            if self.augmentation.cutout:
                images.masked_fill_(self._draw_holes(n, generator), 0)
            sizes = compute_part_sizes(n, batch_size)
            yield from zip(*(torch.split(part, sizes) for part in (slab, images, self.labels[slab])), strict=True)

    def iter_plain(self, indices: Tensor | None, batch_size: int, generator: torch.Generator | None = None) -> Batches:
        """Yield batches (indices, images, labels) without augmentation, in the order of `indices`; None for all."""
        if indices is None:
            indices = torch.arange(self.n_samples, device=self.device)
        pad = self.augmentation.pad
        for batch, padded, rows_of_part in self._storage.iter_parts(indices, split_evenly(len(indices), batch_size)):
            inner = padded[:, pad : pad + self.height, pad : pad + self.width]
            yield batch, self._normalise(inner[rows_of_part]), self.labels[batch]

    def _draw_shifts(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the offset of each image's crop, in pixels from the border's edge, shape (n, 1)."""
        pad = self.augmentation.pad
        if not pad:
            return torch.zeros((n, 1), dtype=torch.int64, device=self.device)
        return torch.randint(0, 2 * pad + 1, (n, 1), device=self.device, generator=generator)

    def _draw_holes(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the masks of the pixels to cut out, shape (n, 1, height, width)."""
        rows, columns = (self._draw_hole_masks(positions, n, generator) for positions in (self._rows, self._columns))
        return (rows[:, :, None] & columns[:, None, :])[:, None]

    def _draw_hole_masks(self, positions: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Draw the masks of the rows, or of the columns, that a hole covers, shape (n, n_positions)."""
        size = self.augmentation.cutout
        starts = torch.randint(0, len(positions), (n, 1), device=self.device, generator=generator) - size // 2
        return (positions >= starts) & (positions < starts + size)

    def _normalise(self, images: Tensor) -> Tensor:
        """Normalise bytes (n, height, width, n_channels) to floats (n, n_channels, height, width)."""
        return ((images.to(self.dtype) - self._mean) * self._inverse_std).permute(0, 3, 1, 2)

    def _count_slab_batches(self, batch_size: int) -> int:
        """Return the number of batches in a slab."""
        values: int = batch_size * self.height * self.width * self.n_channels
        return max(1, _SLAB_VALUES // values)
