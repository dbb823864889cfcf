"""The data of a finish: samples of the clean set, the others, and batches of both."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from mild_trainer.training.device_samples import DeviceSamples

Views: TypeAlias = tuple[tuple[Tensor, ...], Tensor]
"""Several augmentations of one batch of images, each (n_batch, n_channels, height, width), and the labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The kept and dropped samples of a finish, and the random generators of their batches.

    Attributes
    ----------
    samples
        The data set, with the given labels.
    kept, dropped
        Shape (n,), indices of the samples in the clean set and of the others, on the device.
    n_classes
        Number of classes; labels are 0..n_classes-1.
    generator
        Random generator of the device, which draws the order and the augmentation.
    rng
        Random generator of the host, which draws the shares of mixed images without waiting for the device.
    """

    samples: DeviceSamples
    kept: Tensor
    dropped: Tensor
    n_classes: int
    generator: torch.Generator
    rng: np.random.Generator

    def iter_batches(self, indices: Tensor, batch_size: int, n_views: int = 1) -> Iterator[Views]:
        """Yield batches without end; the samples are put in a new random order after each pass.

        Parameters
        ----------
        indices
            Shape (n,), the samples, on the device.
        batch_size
            Number of samples in a batch.
        n_views
            Number of augmentations of each image.
        """
        while True:
            order = indices[torch.randperm(len(indices), device=indices.device, generator=self.generator)]
            views = [self.samples.iter_augmented(order, batch_size, self.generator) for _ in range(n_views)]
            for batch in zip(*views, strict=True):
                yield tuple(x for _, x, _ in batch), batch[0][2]
