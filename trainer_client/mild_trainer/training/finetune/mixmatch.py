"""MixMatch (Berthelot et al. 2019, arXiv 1905.02249), with the dropped samples as images without labels.

It includes MixUp (Zhang et al. 2018, arXiv 1710.09412): training on weighted means of images and of their targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mild_trainer.settings import TrainSettings
from mild_trainer.training.compute_cost import ComputeCost
from mild_trainer.training.engine import TrainState
from mild_trainer.training.finetune.pool import Pool


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """How to mix the samples of one batch: a partner for every sample, and one share for all.

    Attributes
    ----------
    partners
        Shape (n_batch,), a permutation on the device.
    share
        Weight of the sample itself, in 0.5..1; the weight of its partner is 1 - share.
    """

    partners: Tensor
    share: float

    @classmethod
    def draw(
        cls, group_sizes: Sequence[int], alpha: float, generator: torch.Generator, rng: np.random.Generator
    ) -> "Mix":
        """Draw partners and the share at random.

        Parameters
        ----------
        group_sizes
            Numbers of samples in consecutive groups of the batch; partners are drawn within a group.
        alpha
            Parameter of the distribution Beta(alpha, alpha) of the share.
        generator
            Random generator of the device, which draws the partners.
        rng
            Random generator of the host, which draws the share.
        """
        share = float(rng.beta(alpha, alpha))
        partners = [torch.randperm(n, device=generator.device, generator=generator) for n in group_sizes]
        starts = [sum(group_sizes[:i]) for i in range(len(group_sizes))]
        all_partners = torch.cat([start + part for start, part in zip(starts, partners, strict=True)])
        return cls(all_partners, max(share, 1 - share))

    def apply(self, values: Tensor) -> Tensor:
        """Return the weighted mean of every sample's values and its partner's; `values` has shape (n_batch, …)."""
        return self.share * values + (1 - self.share) * values[self.partners]


N_GUESSES = 2
"""Number of augmentations whose predictions are averaged into a guessed label."""
TEMPERATURE = 0.5
"""Guessed class probabilities are raised to the power 1 / temperature and normalised, which sharpens them."""
ALPHA = 0.75
"""Parameter of the Beta distribution of mixing shares."""
UNLABELLED_WEIGHT = 25.0
"""Weight of the loss of guessed labels at the end of the training, linearly increased from 0. The paper's 75 is for a
thousand epochs: on digits, seeds 100 and above, trainings of some hundred steps collapsed into one class with it."""


class MixMatch:
    """Method of a finish: cross entropy on mixed labels, and squared error on guessed labels of the dropped samples."""

    def __init__(self, settings: TrainSettings, train_state: TrainState, pool: Pool) -> None:
        self._settings, self._train_state, self._pool = settings, train_state, pool
        self._kept = pool.iter_batches(pool.kept, settings.batch_size)
        self._dropped = pool.iter_batches(pool.dropped, settings.batch_size, N_GUESSES)

    def compute_loss(self, progress: float) -> tuple[Tensor, ComputeCost]:
        """Return the loss and the cost of the next batch; guessed labels weigh more at a higher `progress`, in 0..1."""
        pool, train_state, context = self._pool, self._train_state, self._train_state.context
        ranks = context.ranks
        (x,), labels = next(self._kept)
        unlabelled, _ = next(self._dropped)
        n_labelled, n_guessed = len(x), N_GUESSES * len(unlabelled[0])

        all_views = torch.cat(unlabelled)
        with torch.no_grad(), context.autocast():
            predicted = ranks.gathered_forward(train_state.model, all_views).float().softmax(1)
            guessed_targets = _sharpen(torch.stack(predicted.chunk(N_GUESSES)).mean(0))
        targets = torch.cat([functional.one_hot(labels, pool.n_classes).float(), *[guessed_targets] * N_GUESSES])

        mix = Mix.draw((n_labelled + n_guessed,), ALPHA, pool.generator, pool.rng)
        with context.autocast():
            logits = ranks.gathered_forward(train_state.parallel_model, mix.apply(torch.cat([x, all_views]))).float()
        mixed_targets = mix.apply(targets)
        label_loss = functional.cross_entropy(
            logits[:n_labelled], mixed_targets[:n_labelled], label_smoothing=self._settings.label_smoothing
        )
        guess_loss = functional.mse_loss(logits[n_labelled:].softmax(1), mixed_targets[n_labelled:])
        cost = ComputeCost(forward=n_guessed) + ComputeCost.of_training(n_labelled + n_guessed)
        return label_loss + UNLABELLED_WEIGHT * progress * guess_loss, cost


def _sharpen(probabilities: Tensor) -> Tensor:
    """Move the class probabilities, shape (n_batch, n_classes), towards their largest value."""
    powers = probabilities ** (1 / TEMPERATURE)
    sharpened: Tensor = powers / powers.sum(1, keepdim=True)
    return sharpened
