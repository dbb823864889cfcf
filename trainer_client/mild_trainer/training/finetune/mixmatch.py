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
    """MixUp of one batch: a partner for every sample, and one share for all.

    Attributes
    ----------
    partners
        Shape (n_batch,), a permutation on the device.
    share
        Weight of the sample itself, in 0.5..1; that of its partner is 1 - share.
    """

    partners: Tensor
    share: float

    @classmethod
    def draw(cls, sizes: Sequence[int], alpha: float, generator: torch.Generator, rng: np.random.Generator) -> "Mix":
        """Draw partners, within groups of the given `sizes`, and the share from Beta(alpha, alpha)."""
        share = float(rng.beta(alpha, alpha))
        partners = [torch.randperm(n, device=generator.device, generator=generator) for n in sizes]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        all_partners = torch.cat([start + part for start, part in zip(starts, partners, strict=True)])
        return cls(all_partners, max(share, 1 - share))

    def apply(self, values: Tensor) -> Tensor:
        """Mix `values`, shape (n_batch, …)."""
        return self.share * values + (1 - self.share) * values[self.partners]


N_GUESSES = 2
"""Number of augmentations whose predictions are averaged into a guessed label."""
TEMPERATURE = 0.5
"""Guesses are sharpened: raised to the power 1 / temperature, and normalised to a sum of one."""
ALPHA = 0.75
"""Parameter of the Beta distribution of mixing shares."""
UNLABELLED_WEIGHT = 25.0
"""Weight of the loss of guessed labels at the end of the training, linearly increased from 0. The paper's 75 is for a
thousand epochs: on digits, seeds 100 and above, trainings of some hundred steps collapsed into one class with it."""


class MixMatch:
    """Cross entropy on mixed labels, and squared error on mixed guessed labels of the dropped samples."""

    def __init__(self, settings: TrainSettings, train_state: TrainState, pool: Pool) -> None:
        self._settings, self._train_state, self._pool = settings, train_state, pool
        self._kept = pool.iter_batches(pool.kept, settings.batch_size)
        self._dropped = pool.iter_batches(pool.dropped, settings.batch_size, N_GUESSES)

    def step(self, done: float) -> tuple[Tensor, ComputeCost]:
        """Return the loss and the cost of the next batch, at the share `done` of the training, in 0..1."""
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
        return label_loss + UNLABELLED_WEIGHT * done * guess_loss, cost


def _sharpen(probabilities: Tensor) -> Tensor:
    """Sharpen the class probabilities, shape (n_batch, n_classes)."""
    powers = probabilities ** (1 / TEMPERATURE)
    sharpened: Tensor = powers / powers.sum(1, keepdim=True)
    return sharpened
