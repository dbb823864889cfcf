"""What a training reads samples from: batches of images or of features, normalised and changed on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_core.errors import ParameterError
from mild_trainer.data.feature_arrays import iter_blocks
from mild_trainer.settings import DataOn
from mild_trainer.training.image_storage import measure_free_bytes, store_images

Batches: TypeAlias = Iterator[tuple[Tensor, Tensor, Tensor]]
"""Batches of (indices, samples, labels) on the device."""


class DeviceSamples(Protocol):
    """A data set that yields batches of normalised samples and their labels on the device.

    Attributes
    ----------
    n_samples
        Number of samples.
    labels
        Shape (n_samples,), int64, on the device.
    """

    n_samples: int
    labels: Tensor

    def iter_augmented(self, indices: Tensor, batch_size: int, generator: torch.Generator) -> Batches:
        """Yield batches for a training pass, with random changes, in the order of `indices`.

        Parameters
        ----------
        indices
            Shape (n,), the samples, on the device.
        batch_size
            Number of samples in a batch; a single last sample joins the previous batch, since batch statistics need
            two.
        generator
            Random generator of the same device, which draws the changes.
        """

    def iter_plain(self, indices: Tensor, batch_size: int, generator: torch.Generator | None = None) -> Batches:
        """Yield batches without augmentation, in the order of `indices`. The last may be smaller.

        A pass that records correctness bits has a `generator`, which draws the dither of features.
        """


def compute_part_sizes(n_samples: int, part_size: int) -> list[int]:
    """Return the sizes of parts of `part_size` samples; a single last sample joins the previous part."""
    sizes = [part_size] * (n_samples // part_size)
    n_left = n_samples % part_size
    if n_left == 1 and sizes:
        sizes[-1] += 1
    elif n_left:
        sizes.append(n_left)
    return sizes


def split_evenly(n_samples: int, part_size: int) -> list[int]:
    """Return the sizes of parts of `part_size` samples, of which the last may be smaller."""
    return [min(part_size, n_samples - first) for first in range(0, n_samples, part_size)]


_SLAB_VALUES = 1 << 25
"""Number of pixel values in a slab: several small batches that are augmented together, to launch fewer kernels."""


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
        batch_values = batch_size * self.height * self.width * self.n_channels
        slab_sizes = compute_part_sizes(len(indices), max(1, _SLAB_VALUES // batch_values) * batch_size)
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

    def iter_plain(self, indices: Tensor, batch_size: int, generator: torch.Generator | None = None) -> Batches:
        """Yield batches (indices, images, labels) without augmentation, in the order of `indices`."""
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


_MAX_NOISE_VALUES = 1 << 21
"""Number of noise values that a pass draws at most. Drawing costs a processor as much as a linear head itself, so that
a pass over more values starts again somewhere in those that it has drawn."""


class DeviceFeatures:
    """A data set of features, which are all on the device, standardised.

    Parameters
    ----------
    features
        Shape (n_samples, n_features), float16 or float32.
    labels
        Shape (n_samples,), int64.
    mean, std
        Shape (n_features,), mean and standard deviation of the training set's features.
    device
        Device of features, labels and batches.
    dither
        Standard deviation of the Gaussian noise on the standardised features, in the training pass and where bits are
        recorded; 0 for none.
    """

    def __init__(
        self,
        features: NDArray[Any],
        labels: NDArray[np.int64],
        mean: NDArray[np.float32],
        std: NDArray[np.float32],
        device: torch.device,
        dither: float = 0.0,
    ) -> None:
        self.n_samples, n_features = features.shape
        n_bytes, free = self.n_samples * n_features * 4, measure_free_bytes(device)
        if n_bytes > free:
            raise ParameterError(
                f"{self.n_samples:,} samples of {n_features:,} features take {n_bytes:,} bytes as float32, and "
                f"{free:,.0f} are free on {device.type}; train on fewer (--limit), or reduce the features"
            )
        self.labels = torch.from_numpy(labels).to(device)
        self._dither = dither
        self._features = torch.empty((self.n_samples, n_features), device=device)
        for start, block in iter_blocks(features):
            standardised = (block.astype(np.float32) - mean) / std
            self._features[start : start + len(block)] = torch.from_numpy(standardised)

    def iter_augmented(self, indices: Tensor, batch_size: int, generator: torch.Generator) -> Batches:
        """Yield batches (indices, features, labels) with noise, in the order of `indices`."""
        return self._iter_batches(indices, compute_part_sizes(len(indices), batch_size), generator)

    def iter_plain(self, indices: Tensor, batch_size: int, generator: torch.Generator | None = None) -> Batches:
        """Yield batches (indices, features, labels) in the order of `indices`; noise if there is a generator."""
        return self._iter_batches(indices, split_evenly(len(indices), batch_size), generator)

    def _iter_batches(self, indices: Tensor, sizes: Sequence[int], generator: torch.Generator | None) -> Batches:
        """Yield batches of `sizes`, with noise from `generator`; None for none."""
        noise = None
        if generator is not None and self._dither and sizes:
            n_values, n_features = len(indices) * self._features.shape[1], self._features.shape[1]
            noise = _Noise(min(n_values, max(_MAX_NOISE_VALUES, max(sizes) * n_features)), generator)
        for batch in torch.split(indices, list(sizes)):
            features = self._features[batch]
            if noise is not None:
                features.add_(noise.take(features.numel()).view_as(features), alpha=self._dither)
            yield batch, features, self.labels[batch]


class _Noise:
    """Gaussian noise of variance 1, drawn once and read from the beginning, then from random positions on.

    Parameters
    ----------
    n_values
        Number of values to draw.
    generator
        Random generator of the device; the positions follow from its seed, without waiting for the device.
    """

    def __init__(self, n_values: int, generator: torch.Generator) -> None:
        self._values = torch.randn(n_values, device=generator.device, generator=generator)
        self._positions = np.random.default_rng(generator.initial_seed())
        self._next = 0

    def take(self, n_values: int) -> Tensor:
        """Return the next `n_values`, at most as many as were drawn."""
        if self._next + n_values > len(self._values):
            self._next = int(self._positions.integers(len(self._values) - n_values + 1))
        first, self._next = self._next, self._next + n_values
        return self._values[first : self._next]
