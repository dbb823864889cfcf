"""The trainer's own trainings with every logit kept: what the peers judge samples by.

Cost is counted in forward passes of one sample; a backward pass counts as two.
"""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from mild_client import CorrectnessTracker
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import RoundBits
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from mild_trainer.training.engine import evaluate
from mild_trainer.training.trainer import Trainer

Logits = NDArray[np.float32]
TRAINING_COST, LOOKING_COST = 3, 1


class LogitTracker(CorrectnessTracker):
    """A tracker that also keeps the logits that its bits were made of."""

    def __init__(self, n_samples: int, n_classes: int) -> None:
        super().__init__(n_samples)
        self.epochs: list[Logits] = []
        self._logits = torch.full((n_samples, n_classes), torch.nan)

    def update(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record one batch, as `CorrectnessTracker` does, and its logits."""
        super().update(indices, logits, labels)
        self._logits[indices] = logits.float()

    def take_logits(self) -> Logits:
        """Shape (n_samples, n_classes), as last seen; NaN where a sample was not."""
        seen: Logits = self._logits.numpy().copy()
        self._logits.fill_(torch.nan)
        return seen


@dataclass(frozen=True, slots=True)
class Recording:
    """One round's bits, and the logits that they were made of, shape (n_epochs, n_samples, n_classes)."""

    bits: RoundBits
    logits: Logits


class RecordingTrainer(Trainer):
    """The trainer with a `LogitTracker` in the place of its tracker."""

    def __init__(self, settings: TrainSettings, data: Dataset) -> None:
        super().__init__(settings, data)
        self._tracker: LogitTracker = LogitTracker(data.n_samples, data.n_classes)

    def record(self, round: int = 0, *, plant: bool = False) -> Recording:
        """Train a round on everyone, as a run's first round does, with its planted labels if they are wanted."""
        everyone = bitmap.full(self._data.n_samples)
        planted = self.draw_planted_labels() if plant else None
        if planted is not None:
            self.use_planted_labels(planted)
        self.initialise_round(round)
        correct, logits = [], []
        for epoch in range(self._settings.epochs):
            correct.append(self.run_epoch(round, epoch, everyone)[1].correct)
            logits.append(self._tracker.take_logits())
        bits = RoundBits(self._data.n_samples, np.stack(correct), planted=None if planted is None else planted.planted)
        return Recording(bits, np.stack(logits))

    def predicted(self, members: Bitmap) -> Logits:
        """Train on the members alone, and return everyone's logits, shape (n_samples, n_classes)."""
        self.train_comparison_network(members)
        evaluate(self.train_state, self._samples, self._settings, tracker=self._tracker)
        return self._tracker.take_logits()


def cost(settings: TrainSettings) -> int:
    """Of a round that looks at everyone once more in each epoch, per sample."""
    return settings.epochs * (TRAINING_COST + LOOKING_COST)


def held_out(settings: TrainSettings, data: Dataset, n_folds: int) -> Logits:
    """Every sample's logits by the network of the fold that it was held out from, at the cost of one recorded round.

    Epochs are rounded up, in favour of the folds.
    """
    epochs = ceil((cost(settings) - LOOKING_COST) / (TRAINING_COST * (n_folds - 1)))
    trainer = RecordingTrainer(replace(settings, epochs=epochs), data)
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=settings.seed)
    logits = np.empty((data.n_samples, data.n_classes), dtype=np.float32)
    for inside, outside in folds.split(data.y_train, data.y_train):
        logits[outside] = trainer.predicted(bitmap.from_indices(inside, data.n_samples))[outside]
    return logits
