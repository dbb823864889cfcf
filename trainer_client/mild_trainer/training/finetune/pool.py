"""What a finisher learns from: samples with trusted labels, samples without, and batches of either."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from mild_trainer.training.augment import DeviceImages

Views: TypeAlias = tuple[tuple[Tensor, ...], Tensor]
"""Augmented images of one batch, several times over, and its labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The samples, and what draws from them.

    Attributes
    ----------
    images
        The data set on the device, with the labels as given.
    kept, dropped
        Shape (n,), indices on the device: whose label is trusted, and whose is not.
    n_classes
        Labels are 0..n_classes-1.
    draws
        Of the device: orders and augmentation.
    rng
        Of the host: shares of mixed images. Drawn there, no step waits for the device.
    """

    images: DeviceImages
    kept: Tensor
    dropped: Tensor
    n_classes: int
    draws: torch.Generator
    rng: np.random.Generator

    def batches(self, indices: Tensor, batch_size: int, n_views: int = 1) -> Iterator[Views]:
        """Yield batches of `indices` without end, each image augmented `n_views` times, in a new order every time."""
        while True:
            order = indices[torch.randperm(len(indices), device=indices.device, generator=self.draws)]
            views = [self.images.augmented(order, batch_size, self.draws) for _ in range(n_views)]
            for batch in zip(*views, strict=True):
                yield tuple(x for _, x, _ in batch), batch[0][2]
