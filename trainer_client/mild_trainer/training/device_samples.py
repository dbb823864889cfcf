"""What a training reads samples from: batches of images or of features, on the training device."""

from collections.abc import Iterator
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

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

    def iter_plain(self, indices: Tensor | None, batch_size: int, generator: torch.Generator | None = None) -> Batches:
        """Yield batches without augmentation, in the order of `indices`; None for all samples. The last may be smaller.

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
