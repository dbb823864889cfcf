"""MixUp (Zhang et al. 2018, arXiv 1710.09412): train on weighted means of images and of their targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """How one batch is mixed: every sample with a partner, by one share.

    Attributes
    ----------
    partners
        Shape (n_batch,), a permutation on the device.
    share
        The own part, in 0.5..1: a mixed sample stays closer to itself than to its partner.
    """

    partners: Tensor
    share: float

    @classmethod
    def draw(cls, sizes: Sequence[int], alpha: float, draws: torch.Generator, rng: np.random.Generator) -> "Mix":
        """Draw partners, within each of the groups of these `sizes`, and the share from Beta(alpha, alpha)."""
        share = float(rng.beta(alpha, alpha))
        partners = [torch.randperm(n, device=draws.device, generator=draws) for n in sizes]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        placed = torch.cat([start + part for start, part in zip(starts, partners, strict=True)])
        return cls(placed, max(share, 1 - share))

    def of(self, values: Tensor) -> Tensor:
        """Return the mixed `values`, shape (n_batch, …)."""
        return self.share * values + (1 - self.share) * values[self.partners]
