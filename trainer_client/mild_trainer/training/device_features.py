"""Batches of features, standardised and dithered on the training device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_core.errors import ParameterError
from mild_trainer.data.feature_arrays import iter_blocks
from mild_trainer.training.device_samples import Batches, compute_part_sizes, split_evenly
from mild_trainer.training.image_storage import measure_free_bytes

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

    def iter_plain(self, indices: Tensor | None, batch_size: int, generator: torch.Generator | None = None) -> Batches:
        """Yield batches (indices, features, labels) in the order of `indices`; noise if there is a generator."""
        if indices is None:
            indices = torch.arange(self.n_samples, device=self.labels.device)
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
