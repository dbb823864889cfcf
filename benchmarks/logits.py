"""Trainings by the trainer with all logits recorded, by which the peers judge samples.

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
TRAINING_COST, EVALUATION_COST = 3, 1


class LogitTracker(CorrectnessTracker):
    """A tracker that also keeps the logits of its bits."""

    _logits: Tensor | None = None

    def update(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record one batch, as `CorrectnessTracker` does, and its logits."""
        super().update(indices, logits, labels)
        if self._logits is None:
            self._logits = torch.full((self.n_samples, logits.shape[1]), torch.nan, device=logits.device)
        self._logits[indices] = logits.float()

    def take_logits(self) -> Logits:
        """Return the last logits of each sample, shape (n_samples, n_classes); NaN where there were none."""
        assert self._logits is not None
        logits: Logits = self._logits.cpu().numpy()
        self._logits = None
        return logits


@dataclass(frozen=True, slots=True)
class Recording:
    """One round's bits, and the logits and labels that they were made of.

    Attributes
    ----------
    bits
        The bits.
    logits
        Shape (n_epochs, n_samples, n_classes).
    labels
        Shape (n_samples,), the given labels, with planted ones.
    """

    bits: RoundBits
    logits: Logits
    labels: NDArray[np.int64]

    def with_class_prior(self, prior: NDArray[np.float64]) -> "Recording":
        """Return the same passes recorded with a class prior, the bias added to the logits."""
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
    """The trainer with a `LogitTracker` instead of its tracker."""

    tracker: LogitTracker

    def __init__(self, settings: TrainSettings, data: Dataset) -> None:
        super().__init__(settings, data, LogitTracker)

    def record(self, round: int = 0, *, plant: bool = False) -> Recording:
        """Train a round on all samples, as the first round of a run, with planted labels if `plant` is true."""
        everyone = bitmap.full(self._data.n_samples)
        planted = self.draw_planted_labels() if plant else None
        if planted is not None:
            self.use_planted_labels(planted)
        self.initialise_round(round)
        correct, logits = [], []
        for epoch in range(self._settings.epochs):
            correct.append(self.run_epoch(round, epoch, everyone)[1].correct)
            logits.append(self.tracker.take_logits())
        bits = RoundBits(self._data.n_samples, np.stack(correct), planted=None if planted is None else planted.planted)
        labels = self._data.y_train if planted is None else planted.labels
        return Recording(bits, np.stack(logits), labels)

    def predict_by_members(self, members: Bitmap) -> Logits:
        """Train on the members alone, and return the logits of all samples, shape (n_samples, n_classes)."""
        self.train_comparison_network(members)
        evaluate(self.train_state, self._samples, self._settings, tracker=self.tracker)
        return self.tracker.take_logits()


def count_cost(settings: TrainSettings) -> int:
    """Count the cost per sample of a round with an evaluation pass of all samples in each epoch."""
    return settings.epochs * (TRAINING_COST + EVALUATION_COST)


def predict_held_out(settings: TrainSettings, data: Dataset, n_folds: int) -> Logits:
    """Predict the logits of each sample by a network that it was held out from, at the cost of one recorded round.

    Epochs are rounded up, in favour of the folds.
    """
    epochs = ceil((count_cost(settings) - EVALUATION_COST) / (TRAINING_COST * (n_folds - 1)))
    trainer = RecordingTrainer(replace(settings, epochs=epochs), data)
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=settings.seed)
    logits = np.empty((data.n_samples, data.n_classes), dtype=np.float32)
    for training, held_out in folds.split(data.y_train, data.y_train):
        logits[held_out] = trainer.predict_by_members(bitmap.from_indices(training, data.n_samples))[held_out]
    return logits
