"""A data set on the device, and what one epoch on it does: train, record the bits, test."""

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mild_client import CorrectnessTracker
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import EpochBits
from mild_trainer import planting
from mild_trainer.data import Dataset
from mild_trainer.planting import Planting
from mild_trainer.settings import TrainSettings
from mild_trainer.training.augment import Augmentation, DeviceImages
from mild_trainer.training.compute_cost import Passes
from mild_trainer.training.engine import Machine, Trainee, evaluate, predict, train_epoch
from mild_trainer.training.finetune import Finished, finish
from mild_trainer.training.finetune.pool import Pool
from mild_trainer.training.history import EpochRecord
from mild_trainer.training.validation import hold_out

WARM_UP = 2
"""Epochs after which a network's confusions are read off: it knows the classes, and hardly any wrong label."""


class Trainer:
    """Trains one network on subsets of one data set.

    Whatever is random is drawn from seeds that are functions of (seed, round, epoch), so an epoch comes out the same
    whether or not the training was interrupted before it.

    Parameters
    ----------
    settings
        What to train.
    data
        The data set with the labels to train on.

    Attributes
    ----------
    held_out
        Shape (n_bytes,), samples that are never trained on, to compare rounds by.
    trainable
        Shape (n_bytes,), all others.
    """

    def __init__(self, settings: TrainSettings, data: Dataset) -> None:
        self._settings, self._data = settings, data
        self._machine = Machine.choose(settings)
        device, dtype, data_on = self._machine.device, self._machine.dtype, settings.data_on
        mean, std = data.normalisation()
        augmentation = Augmentation(settings.pad, settings.flip, settings.cutout)
        self._images = DeviceImages(data.x_train, data.y_train, mean, std, device, dtype, augmentation, data_on)
        self._test_images = DeviceImages(data.x_test, data.y_test, mean, std, device, dtype, data_on=data_on)
        self._given = self._images.labels
        self.held_out = hold_out(data.y_train, settings.validation, settings.seed)
        self.trainable = bitmap.full(data.n_samples) & ~self.held_out
        self._validation, self._watched = self._indices(self.held_out), self._indices(self.trainable)
        self._planted: Tensor | None = None
        self.planting_passes = Passes()
        self._tracker = CorrectnessTracker(data.n_samples, device)
        self.trainee = Trainee(settings, self._machine, data.x_train.shape[-1], data.n_classes)

    def begin(self, round: int) -> None:
        """Draw a round's fresh weights."""
        self.trainee.renew(seed_of(self._settings.seed, 0, round))

    def plant(self) -> Planting | None:
        """Draw the labels that are broken on purpose in round 0; None where that is nobody's."""
        settings, data = self._settings, self._data
        if data.n_classes < 2 or not round(settings.plant * len(self._watched)):
            return None
        confused = settings.plant_how == "confused"
        predicted = early_predictions(self.trainee, self._images, settings, self._watched) if confused else None
        return planting.plant(data.y_train, data.n_classes, settings.plant, settings.seed, predicted, self.held_out)

    def use(self, planted: Planting) -> None:
        """Train round 0, and compare in it, with the planted labels; later rounds have the given ones."""
        if self._settings.plant_how == "confused":
            warm_up = Passes.learnt(WARM_UP * len(self._watched))
            self.planting_passes = warm_up + Passes(forward=self._data.n_samples)
        self._planted = torch.from_numpy(planted.labels).to(self._machine.device)

    def epoch(
        self, round: int, epoch: int, members: Bitmap, weights: NDArray[np.float32] | None = None
    ) -> tuple[EpochRecord, EpochBits]:
        """Train on the members once, and return the epoch's scalars and bits; this is where the device is waited for.

        Parameters
        ----------
        round, epoch
            Where in the run this is.
        members
            Shape (n_bytes,).
        weights
            Shape (n_samples,), of every sample's loss, up to a common factor; None: all weigh the same.
        """
        settings, trainee, tracker = self._of_round(round), self.trainee, self._tracker
        started = time.perf_counter()
        self._images.labels = self._given if round or self._planted is None else self._planted
        in_training = None if settings.observe == "all" else tracker
        draws = self._draws(round, epoch)
        inside = self._indices(members)
        loss, accuracy = train_epoch(
            trainee, self._images, inside, settings, epoch, draws, in_training, self._scaled(weights, inside)
        )
        n_watched = 0
        if settings.observe == "all":
            n_watched = len(self._watched)
            evaluate(trainee, self._images, settings, self._watched, tracker)
        elif settings.observe == "mixed":
            others = self._indices(self.trainable & ~members)
            n_watched = len(others)
            evaluate(trainee, self._images, settings, others, tracker)
        test_accuracy = evaluate(trainee, self._test_images, settings)
        validation_accuracy = evaluate(trainee, self._images, settings, self._validation)
        bits = tracker.take()
        if settings.observe == "members":  # the run's `observe` says already who was seen
            bits = EpochBits(bits.n_samples, bits.correct)
        scores = torch.stack([loss, accuracy, test_accuracy, validation_accuracy]).tolist()
        record = EpochRecord(
            round=round,
            epoch=epoch,
            train_loss=scores[0],
            train_accuracy=scores[1],
            test_accuracy=scores[2],
            seconds=time.perf_counter() - started,
            forward=len(inside) + n_watched,
            backward=len(inside),
            validation_accuracy=scores[3] if len(self._validation) else None,
        )
        return record, bits

    def train_alone(self, members: Bitmap) -> float:
        """Train fresh weights on the members' given labels, record nothing, and return the test accuracy."""
        self.begin(0)
        self._images.labels = self._given
        inside = self._indices(members)
        settings = self._of_round(0)
        for epoch in range(settings.epochs):
            train_epoch(self.trainee, self._images, inside, settings, epoch, self._draws(0, epoch))
        return float(evaluate(self.trainee, self._test_images, self._settings))

    def finish(self, selected: Bitmap) -> Finished:
        """Train fresh weights after the last round, on the clean set and perhaps on the others' images."""
        settings, device = self._settings, self._machine.device
        self._images.labels = self._given
        pool = Pool(
            images=self._images,
            kept=self._indices(selected),
            dropped=self._indices(self.trainable & ~selected),
            n_classes=self._data.n_classes,
            draws=torch.Generator(device).manual_seed(seed_of(settings.seed, 3, 0)),
            rng=np.random.default_rng(seed_of(settings.seed, 3, 1)),
        )
        return finish(settings, self.trainee, pool, self._test_images, seed_of(settings.seed, 3, 2))

    def predictions(self) -> NDArray[np.int64]:
        """Everyone's class as the network predicts it now, shape (n_samples,)."""
        return predict(self.trainee, self._images, self._settings).cpu().numpy()

    def _scaled(self, weights: NDArray[np.float32] | None, inside: Tensor) -> Tensor | None:
        """The weights with a mean of one over the members, so that they leave the size of the steps alone."""
        if weights is None:
            return None
        given = torch.from_numpy(weights).to(self._machine.device)
        return given / given[inside].mean()

    def _of_round(self, round: int) -> TrainSettings:
        """The settings with the round's own epochs, over which the learning rate runs."""
        return replace(self._settings, epochs=self._settings.epochs_of(round))

    def _draws(self, round: int, epoch: int) -> torch.Generator:
        return torch.Generator(self._machine.device).manual_seed(seed_of(self._settings.seed, 1, round, epoch))

    def _indices(self, members: Bitmap) -> Tensor:
        return torch.from_numpy(bitmap.to_indices(members, self._data.n_samples)).to(self._machine.device)


def early_predictions(
    trainee: Trainee, images: DeviceImages, settings: TrainSettings, members: Tensor | None = None
) -> NDArray[np.int64]:
    """Classes that a network barely trained on the members (None: everyone) predicts, shape (n_samples,).

    The trainee is left with its weights.
    """
    device = trainee.machine.device
    trainee.renew(seed_of(settings.seed, 2, 0))
    warm = replace(settings, epochs=WARM_UP)
    if members is None:
        members = torch.arange(images.n_samples, device=device)
    for epoch in range(WARM_UP):
        draws = torch.Generator(device).manual_seed(seed_of(settings.seed, 2, 1, epoch))
        train_epoch(trainee, images, members, warm, epoch, draws)
    predicted: NDArray[np.int64] = predict(trainee, images, settings).cpu().numpy()
    return predicted


def seed_of(*keys: int) -> int:
    """Return a seed for one purpose, independent of the seeds for all others."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))
