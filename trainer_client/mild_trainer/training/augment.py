"""Batches of images on the training device, augmented there, wherever the images lie."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_trainer.settings import DataOn
from mild_trainer.training.image_storage import placed

# Pixel values cut at once: small batches are cut several at a time, so that they do not pay for launches.
_SLAB_VALUES = 1 << 25


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What a training changes in its images, anew whenever it sees them.

    Attributes
    ----------
    pad
        Largest shift of a random crop, in pixels; 0 crops nothing.
    flip
        Whether half of the images are mirrored.
    cutout
        Height and width, in pixels, of the square that is cut out of every image around one of its pixels, drawn
        uniformly; what lies beyond the border is not cut. 0 cuts nothing (DeVries and Taylor 2017, arXiv 1708.04552).
    """

    pad: int = 0
    flip: bool = False
    cutout: int = 0


PLAIN = Augmentation()
"""Images stay as they are."""


class DeviceImages:
    """A data set whose batches come out on the device, with the labels to train on.

    The batches are the same, bit for bit, wherever the images lie.

    Parameters
    ----------
    images
        Shape (n_samples, height, width, n_channels), uint8.
    labels
        Shape (n_samples,), int64.
    mean, std
        Shape (n_channels,), what the bytes are normalised with.
    device
        Where the labels and the batches are.
    dtype
        Type of the batches.
    augmentation
        What `augmented` does.
    data_on
        Where the images are kept; ``auto``: on the device if they fit.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        mean: NDArray[np.float32],
        std: NDArray[np.float32],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        augmentation: Augmentation = PLAIN,
        data_on: DataOn = "auto",
    ) -> None:
        self.n_samples, self.height, self.width, self.n_channels = images.shape
        self.device, self.dtype, self.augmentation = device, dtype, augmentation
        self.labels = torch.from_numpy(labels).to(device)
        self._pixels = placed(images, augmentation.pad, device, data_on)
        self._mean = torch.from_numpy(mean).to(device, dtype)
        self._inverse_std = torch.from_numpy(1 / std).to(device, dtype)
        self._rows = torch.arange(self.height, device=device)
        self._columns = torch.arange(self.width, device=device)

    def augmented(
        self, indices: Tensor, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (indices, images, labels), each image augmented by its own draws, in the order of `indices`.

        Parameters
        ----------
        indices
            Shape (n,), on the device.
        batch_size
            Samples per batch; a single left-over sample joins the batch before it, since batch statistics need two.
        generator
            Of the same device.
        """
        slab_sizes = _sizes(len(indices), self._slab_batches(batch_size) * batch_size)
        for slab, padded, places in self._pixels.parts(indices, slab_sizes):
            n = len(slab)
            rows = self._rows + self._shifts(n, generator)
            columns = self._columns.expand(n, -1)
            if self.augmentation.flip:
                mirrored = torch.rand((n, 1), device=self.device, generator=generator) < 0.5
                columns = torch.where(mirrored, self._columns.flip(0), columns)
            columns = columns + self._shifts(n, generator)
            # One gather picks the samples, crops and mirrors; its result is channels-last in memory.
            images = self._normalised(padded[places[:, None, None], rows[:, :, None], columns[:, None, :]])
            if self.augmentation.cutout:
                images.masked_fill_(self._holes(n, generator), 0)
            sizes = _sizes(n, batch_size)
            yield from zip(*(torch.split(part, sizes) for part in (slab, images, self.labels[slab])), strict=True)

    def plain(self, indices: Tensor | None, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (indices, images, labels) as they are, in the order of `indices` or, without them, of everyone."""
        if indices is None:
            indices = torch.arange(self.n_samples, device=self.device)
        pad, n = self.augmentation.pad, len(indices)
        sizes = [min(batch_size, n - first) for first in range(0, n, batch_size)]
        for batch, padded, places in self._pixels.parts(indices, sizes):
            inner = padded[:, pad : pad + self.height, pad : pad + self.width]
            yield batch, self._normalised(inner[places]), self.labels[batch]

    def _shifts(self, n: int, generator: torch.Generator) -> Tensor:
        pad = self.augmentation.pad
        if not pad:
            return torch.zeros((n, 1), dtype=torch.int64, device=self.device)
        return torch.randint(0, 2 * pad + 1, (n, 1), device=self.device, generator=generator)

    def _holes(self, n: int, generator: torch.Generator) -> Tensor:
        """Which pixels are cut out, shape (n, 1, height, width)."""
        rows, columns = (self._hole(places, n, generator) for places in (self._rows, self._columns))
        return (rows[:, :, None] & columns[:, None, :])[:, None]

    def _hole(self, places: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Which of the rows, or columns, a hole takes, shape (n, n_places)."""
        size = self.augmentation.cutout
        firsts = torch.randint(0, len(places), (n, 1), device=self.device, generator=generator) - size // 2
        return (places >= firsts) & (places < firsts + size)

    def _normalised(self, images: Tensor) -> Tensor:
        """Turn bytes (n, height, width, n_channels) into numbers (n, n_channels, height, width)."""
        return ((images.to(self.dtype) - self._mean) * self._inverse_std).permute(0, 3, 1, 2)

    def _slab_batches(self, batch_size: int) -> int:
        values: int = batch_size * self.height * self.width * self.n_channels
        return max(1, _SLAB_VALUES // values)


def _sizes(n: int, size: int) -> list[int]:
    """Cut `n` samples into parts of `size`; a single one left over joins the part before it."""
    sizes = [size] * (n // size)
    if n % size == 1 and sizes:
        sizes[-1] += 1
    elif n % size:
        sizes.append(n % size)
    return sizes
