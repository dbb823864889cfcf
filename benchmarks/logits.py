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
from mild_trainer.data.imbalance import parse_class_prior
from mild_trainer.settings import TrainSettings
from mild_trainer.training.engine import evaluate
from mild_trainer.training.trainer import Trainer

Logits = NDArray[np.float32]
TRAINING_COST, LOOKING_COST = 3, 1


class LogitTracker(CorrectnessTracker):
    """A tracker that also keeps the logits that its bits were made of."""

    def __init__(
        self,
        n_samples: int,
        n_classes: int,
        device: torch.device | str = "cpu",
        class_prior: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(n_samples, device, class_prior=class_prior)
        self.epochs: list[Logits] = []
        self._logits = torch.full((n_samples, n_classes), torch.nan, device=device)

    def update(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record one batch, as `CorrectnessTracker` does, and its logits."""
        super().update(indices, logits, labels)
        self._logits[indices] = logits.float()

    def take_logits(self) -> Logits:
        """Shape (n_samples, n_classes), as last seen; NaN where a sample was not."""
        seen: Logits = self._logits.cpu().numpy().copy()
        self._logits.fill_(torch.nan)
        return seen


@dataclass(frozen=True, slots=True)
class Recording:
    """One round's bits, and what they were made of.

    Attributes
    ----------
    bits
        The bits.
    logits
        Shape (n_epochs, n_samples, n_classes).
    labels
        Shape (n_samples,), the given labels, planted ones included.
    """

    bits: RoundBits
    logits: Logits
    labels: NDArray[np.int64]

    def with_class_prior(self, prior: NDArray[np.float64]) -> "Recording":
        """Return the same passes as they are recorded with a class prior, the bias added to the logits."""
        n_samples = self.bits.n_samples
        tracker, indices = CorrectnessTracker(n_samples, class_prior=prior), torch.arange(n_samples)
        correct, logits = [], []
        for epoch in self.logits:
            assert tracker.class_bias is not None
            logits.append(epoch + tracker.class_bias)
            tracker.update(indices, torch.from_numpy(epoch), torch.from_numpy(self.labels))
            correct.append(tracker.take().correct)
        return Recording(replace(self.bits, correct=np.stack(correct)), np.stack(logits), self.labels)


class RecordingTrainer(Trainer):
    """The trainer with a `LogitTracker` in the place of its tracker."""

    def __init__(self, settings: TrainSettings, data: Dataset) -> None:
        super().__init__(settings, data)
        prior = parse_class_prior(settings.class_prior, data.n_classes)
        self._tracker: LogitTracker = LogitTracker(data.n_samples, data.n_classes, self._context.device, prior)

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
        labels = self._data.y_train if planted is None else planted.labels
        return Recording(bits, np.stack(logits), labels)

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
