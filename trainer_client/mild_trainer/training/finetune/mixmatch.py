"""MixMatch (Berthelot et al. 2019, arXiv 1905.02249): the dropped samples are images without labels.

MixUp (Zhang et al. 2018, arXiv 1710.09412): train on weighted means of images and of their targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mild_trainer.settings import TrainSettings
from mild_trainer.training.compute_cost import Passes
from mild_trainer.training.engine import Trainee
from mild_trainer.training.finetune.pool import Pool


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


N_GUESSES = 2
"""Augmentations whose predictions are averaged into a guessed label."""
TEMPERATURE = 0.5
"""Guesses are sharpened: their power 1 / temperature, brought back to a sum of one."""
ALPHA = 0.75
"""Of the Beta distribution that mixing shares are drawn from."""
UNLABELLED_WEIGHT = 25.0
"""Of the guessed labels' loss, at the end of a ramp from 0 over the whole training. The paper's 75 is for a thousand
epochs: on digits, seeds 100 and above, trainings of some hundred steps collapsed into one class with it."""


class MixMatch:
    """Cross entropy on mixed labels, and squared error on mixed guesses for the dropped samples."""

    def __init__(self, settings: TrainSettings, trainee: Trainee, pool: Pool) -> None:
        self._settings, self._trainee, self._pool = settings, trainee, pool
        self._kept = pool.batches(pool.kept, settings.batch_size)
        self._dropped = pool.batches(pool.dropped, settings.batch_size, N_GUESSES)

    def step(self, done: float) -> tuple[Tensor, Passes]:
        """Return the loss of the next batch, and what it costs to step along it; `done` runs from 0 to 1."""
        pool, trainee, machine = self._pool, self._trainee, self._trainee.machine
        ranks = machine.ranks
        (x,), labels = next(self._kept)
        unlabelled, _ = next(self._dropped)
        n_labelled, n_guessed = len(x), N_GUESSES * len(unlabelled[0])

        everyone = torch.cat(unlabelled)
        with torch.no_grad(), machine.autocast():
            predicted = ranks.through(trainee.model, everyone).float().softmax(1)
            guess = _sharpened(torch.stack(predicted.chunk(N_GUESSES)).mean(0))
        targets = torch.cat([functional.one_hot(labels, pool.n_classes).float(), *[guess] * N_GUESSES])

        mix = Mix.draw((n_labelled + n_guessed,), ALPHA, pool.draws, pool.rng)
        with machine.autocast():
            logits = ranks.through(trainee.learner, mix.of(torch.cat([x, everyone]))).float()
        mixed = mix.of(targets)
        labelled = functional.cross_entropy(
            logits[:n_labelled], mixed[:n_labelled], label_smoothing=self._settings.label_smoothing
        )
        guessed = functional.mse_loss(logits[n_labelled:].softmax(1), mixed[n_labelled:])
        cost = Passes(forward=n_guessed) + Passes.learnt(n_labelled + n_guessed)
        return labelled + UNLABELLED_WEIGHT * done * guessed, cost


def _sharpened(chances: Tensor) -> Tensor:
    """Make the likely classes likelier, shape (n_batch, n_classes)."""
    powered = chances ** (1 / TEMPERATURE)
    sharp: Tensor = powered / powered.sum(1, keepdim=True)
    return sharp
