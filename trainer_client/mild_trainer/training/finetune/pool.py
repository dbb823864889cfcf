"""The data of a finish: samples with trusted labels, samples without, and batches of both."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from mild_trainer.training.augment import DeviceImages

Views: TypeAlias = tuple[tuple[Tensor, ...], Tensor]
"""Several augmentations of the images of one batch, and their labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The samples, and the random generators of their batches.

    Attributes
    ----------
    images
        The data set on the device, with the given labels.
    kept, dropped
        Shape (n,), indices of the samples with and without trusted labels, on the device.
    n_classes
        Labels are 0..n_classes-1.
    generator
        Generator of the device, for orders and augmentation.
    rng
        Generator of the host, for the shares of mixed images: drawn there, they need no synchronisation.
    """

    images: DeviceImages
    kept: Tensor
    dropped: Tensor
    n_classes: int
    generator: torch.Generator
    rng: np.random.Generator

    def iter_batches(self, indices: Tensor, batch_size: int, n_views: int = 1) -> Iterator[Views]:
        """Yield batches of `indices` endlessly, reordered each time, with `n_views` augmentations of each image."""
        while True:
            order = indices[torch.randperm(len(indices), device=indices.device, generator=self.generator)]
            views = [self.images.iter_augmented(order, batch_size, self.generator) for _ in range(n_views)]
            for batch in zip(*views, strict=True):
                yield tuple(x for _, x, _ in batch), batch[0][2]
