"""`Trainer`: trains a network on one data set, epoch by epoch, records the correctness bits, and tests."""

import time
from collections.abc import Callable
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
from mild_trainer.data.imbalance import parse_class_prior
from mild_trainer.errors import DataError
from mild_trainer.noise import Labels, draw_stratified_order
from mild_trainer.planting import PlantedLabels
from mild_trainer.settings import TrainSettings
from mild_trainer.training.device_samples import Augmentation, DeviceFeatures, DeviceImages, DeviceSamples
from mild_trainer.training.engine import ComputeContext, ComputeCost, TrainState, evaluate, predict_classes, train_epoch
from mild_trainer.training.finetune import FinishResult, Pool, train_finish
from mild_trainer.training.history import EpochRecord

EARLY_EPOCHS = 2
"""Number of epochs after which class confusions are measured: the classes are learnt, wrong labels hardly yet."""
_FORWARD_SHARE = 1 / 3
"""Cost of a forward pass as a share of that of a training step."""
_WARM_UP, _TIMED = 8, 32
"""Number of images of the first, untimed batch and of the least timed one."""
_LONGEST_TIMING = 1.0
"""Seconds that a full timed batch may be expected to take; a slower network is timed with fewer images."""


class Trainer:
    """Trains one network on subsets of one data set, and records which samples it classifies correctly.

    All random numbers are drawn from seeds that are functions of (seed, round, epoch), so an epoch gives the same
    result whether or not the training was interrupted before it.

    Parameters
    ----------
    settings
        Settings of the training.
    data
        The data set with the given labels.
    make_tracker
        Makes the tracker, of the arguments of `CorrectnessTracker`.

    Attributes
    ----------
    tracker
        Records the bits; its `class_bias` is to be stored where the training may be resumed.
    held_out
        Shape (n_bytes,), the validation samples, which are never trained on.
    trainable
        Shape (n_bytes,), all other samples.
    train_state
        The network and its optimiser.
    """

    def __init__(
        self,
        settings: TrainSettings,
        data: Dataset,
        make_tracker: Callable[..., CorrectnessTracker] = CorrectnessTracker,
    ) -> None:
        self._settings, self._data = settings, data
        self._context = ComputeContext.from_settings(settings)
        device = self._context.device
        self._samples, self._test_samples = place_samples(settings, data, self._context)
        self._given_labels = self._samples.labels
        self.held_out = hold_out_samples(data.y_train, settings.validation, settings.seed)
        self.trainable = bitmap.full(data.n_samples) & ~self.held_out
        self._held_out_indices, self._trainable_indices = map(self._to_indices, (self.held_out, self.trainable))
        self._planted_labels: Tensor | None = None
        self._planting_cost, self._planting_seconds = ComputeCost(), 0.0
        prior = parse_class_prior(settings.class_prior, data.n_classes)
        self.tracker = make_tracker(data.n_samples, device, class_prior=prior)
        self.train_state = TrainState(settings, self._context, data.x_train.shape[-1], data.n_classes)

    def estimate_duration(self) -> float | None:
        """Return how many seconds the training takes at most, roughly; None where the network is compiled first.

        The network is to be initialised afterwards, as some batches are trained on.
        """
        n_samples, batch_size = self._samples.n_samples, self._settings.batch_size
        if self._settings.compile or n_samples < _WARM_UP:
            return None
        self._time_samples(_WARM_UP)  # the first batch chooses algorithms
        n_timed, full = min(_TIMED, n_samples), min(4 * batch_size, n_samples)
        seconds = self._time_samples(n_timed)
        if seconds * full / n_timed < _LONGEST_TIMING:
            n_timed, seconds = full, self._time_samples(full)
        return seconds / n_timed * self._count_steps()

    def _count_steps(self) -> float:
        """Return the cost of a whole training, with all rounds on all samples, in training steps of one sample."""
        settings, n_samples = self._settings, self._samples.n_samples
        epochs = settings.count_epochs(0) * (1 + settings.verify + settings.oracle)
        epochs += EARLY_EPOCHS if settings.plant and settings.plant_how == "confused" else 0
        epochs += (settings.rounds - 1) * settings.epochs
        n_evaluated = len(self._data.y_test) + (n_samples if settings.observe == "all" else 0)
        cost: float = epochs * (n_samples + _FORWARD_SHARE * n_evaluated)
        if settings.finish != "none":
            cost += (settings.finish_epochs or settings.epochs) * n_samples
        return cost

    def _time_samples(self, n_samples: int) -> float:
        """Return the seconds that training on the first `n_samples` takes."""
        context, settings = self._context, replace(self._settings, epochs=1)
        members = torch.arange(n_samples, device=context.device)
        generator = torch.Generator(context.device).manual_seed(0)
        for _ in range(1 + context.is_cuda):  # there the first pass chooses algorithms for these batch sizes
            started = time.perf_counter()
            loss, _ = train_epoch(self.train_state, self._samples, members, settings, 0, generator)
            float(loss)  # waits for the device
        return time.perf_counter() - started

    def describe_device(self) -> str:
        """Return the device in words, such as ``cpu, 2 threads``."""
        device = self._context.device
        if device.type == "cuda":
            return torch.cuda.get_device_name(device)
        n_threads = torch.get_num_threads()
        return f"{device.type}, {n_threads} thread{'' if n_threads == 1 else 's'}"

    def initialise_round(self, round: int) -> None:
        """Draw the network's initial weights for a round, and reset the optimiser."""
        self.train_state.reinitialise(derive_seed(self._settings.seed, 0, round))

    def draw_planted_labels(self) -> PlantedLabels | None:
        """Draw the labels of round 0, of which some are broken on purpose; None if the settings ask for none.

        Planting by measured confusions trains the network for `EARLY_EPOCHS`, and leaves it so.
        """
        settings, data = self._settings, self._data
        if data.n_classes < 2 or not round(settings.plant * len(self._trainable_indices)):
            return None
        predicted = None
        if settings.plant_how == "confused":
            predicted = predict_early(self.train_state, self._samples, settings, self._trainable_indices)
        return planting.plant_labels(
            data.y_train, data.n_classes, settings.plant, settings.seed, predicted, self.held_out
        )

    def use_planted_labels(self, planted_labels: PlantedLabels, seconds: float = 0.0) -> None:
        """Train round 0 on `planted_labels`; later rounds train on the given labels.

        `seconds` are what drawing them took, which counts as part of the first epoch, like its cost.
        """
        self._planting_seconds = seconds
        if self._settings.plant_how == "confused":
            warm_up = ComputeCost.of_training(EARLY_EPOCHS * len(self._trainable_indices))
            self._planting_cost = warm_up + ComputeCost(forward=self._data.n_samples)
        self._planted_labels = torch.from_numpy(planted_labels.labels).to(self._context.device)

    def run_epoch(
        self, round: int, epoch: int, members: Bitmap, weights: NDArray[np.float32] | None = None
    ) -> tuple[EpochRecord, EpochBits]:
        """Train once on every member, test, and return the metrics and the correctness bits of the epoch.

        This waits for the device to finish.

        Parameters
        ----------
        round, epoch
            Number of the round, and of the epoch in the round.
        members
            Shape (n_bytes,), the training samples.
        weights
            Shape (n_samples,), weights of the samples' losses, up to a common factor; None for equal weights.
        """
        settings, train_state, tracker = self._get_round_settings(round), self.train_state, self.tracker
        started, planting_cost = time.perf_counter(), ComputeCost()
        if round == epoch == 0:
            started, planting_cost = started - self._planting_seconds, self._planting_cost
        self._samples.labels = self._given_labels if round or self._planted_labels is None else self._planted_labels
        training_tracker = None if settings.observe == "all" else tracker
        generator = self._make_generator(1, round, epoch)
        member_indices = self._to_indices(members)
        loss, accuracy = train_epoch(
            train_state,
            self._samples,
            member_indices,
            settings,
            epoch,
            generator,
            training_tracker,
            self._normalise_weights(weights, member_indices),
        )
        # Samples that the evaluation pass leaves out: those whose bits the training pass has made, or that make none.
        excluded = {"all": np.zeros_like(members), "mixed": members, "members": self.trainable}[settings.observe]
        evaluated = self._to_indices(self.trainable & ~excluded)
        recording_generator = self._make_generator(4, round, epoch)
        evaluate(train_state, self._samples, settings, evaluated, tracker, recording_generator)
        test_accuracy = evaluate(train_state, self._test_samples, settings)
        validation_accuracy = evaluate(train_state, self._samples, settings, self._held_out_indices)
        bits = tracker.take()
        if settings.observe == "members":  # implied by the run's `observe`
            bits = EpochBits(bits.n_samples, bits.correct)
        scores = torch.stack([loss, accuracy, test_accuracy, validation_accuracy]).tolist()
        record = EpochRecord(
            round=round,
            epoch=epoch,
            train_loss=scores[0],
            train_accuracy=scores[1],
            test_accuracy=scores[2] if len(self._data.y_test) else None,
            seconds=time.perf_counter() - started,
            forward=len(member_indices) + len(evaluated) + planting_cost.forward,
            backward=len(member_indices) + planting_cost.backward,
            validation_accuracy=scores[3] if len(self._held_out_indices) else None,
        )
        return record, bits

    def train_comparison_network(self, members: Bitmap) -> float | None:
        """Train new weights on the given labels of the members, and return the test accuracy; None without a test set.

        No bits are recorded.
        """
        self.initialise_round(0)
        self._samples.labels = self._given_labels
        member_indices = self._to_indices(members)
        settings = self._get_round_settings(0)
        for epoch in range(settings.epochs):
            generator = self._make_generator(1, 0, epoch)
            train_epoch(self.train_state, self._samples, member_indices, settings, epoch, generator)
        return float(evaluate(self.train_state, self._test_samples, settings)) if len(self._data.y_test) else None

    def run_finish(self, selected: Bitmap) -> FinishResult:
        """Train new weights after the last round, by the method `settings.finish`.

        Parameters
        ----------
        selected
            Shape (n_bytes,), the clean set. Some methods also train on the images of the others.
        """
        settings, device = self._settings, self._context.device
        self._samples.labels = self._given_labels
        pool = Pool(
            samples=self._samples,
            kept=self._to_indices(selected),
            dropped=self._to_indices(self.trainable & ~selected),
            n_classes=self._data.n_classes,
            generator=torch.Generator(device).manual_seed(derive_seed(settings.seed, 3, 0)),
            rng=np.random.default_rng(derive_seed(settings.seed, 3, 1)),
        )
        return train_finish(settings, self.train_state, pool, self._test_samples, derive_seed(settings.seed, 3, 2))

    def predict_labels(self) -> NDArray[np.int64]:
        """Return the class that the network predicts for every sample, shape (n_samples,)."""
        return predict_classes(self.train_state, self._samples, self._settings).cpu().numpy()

    def _normalise_weights(self, weights: NDArray[np.float32] | None, member_indices: Tensor) -> Tensor | None:
        """Scale the weights to a mean of one over the members, which keeps the size of the optimiser's steps."""
        if weights is None:
            return None
        device_weights = torch.from_numpy(weights).to(self._context.device)
        return device_weights / device_weights[member_indices].mean()

    def _get_round_settings(self, round: int) -> TrainSettings:
        """Return the settings with the number of epochs of this round, which the learning rate depends on."""
        return replace(self._settings, epochs=self._settings.count_epochs(round))

    def _make_generator(self, purpose: int, round: int, epoch: int) -> torch.Generator:
        """Create the random generator of one epoch, on the device; that of purpose 1 trains, that of 4 records."""
        seed = derive_seed(self._settings.seed, purpose, round, epoch)
        return torch.Generator(self._context.device).manual_seed(seed)

    def _to_indices(self, samples: Bitmap) -> Tensor:
        """Convert a bitmap of samples to their indices, on the device."""
        return torch.from_numpy(bitmap.to_indices(samples, self._data.n_samples)).to(self._context.device)


def hold_out_samples(labels: Labels, share: float, seed: int) -> Bitmap:
    """Draw the validation samples from every class, in proportion to the size of the class.

    They are held out of all training to compare rounds by how well they predict the labels, which are as noisy as all
    others. A network trained on a cleaner set agrees with more of them: labels that are wrong at random cannot be
    learnt from other samples, and a network that has memorised wrong labels has memorised others. Where wrong labels
    follow a pattern, agreement with them can be learnt, too.

    Parameters
    ----------
    labels
        Shape (n_samples,), the given labels.
    share
        Share of the samples to hold out, in 0..0.5.
    seed
        Seed of the draw.

    Returns
    -------
    held_out
        Bitmap of the validation samples, shape (n_bytes,).
    """
    n_samples = len(labels)
    n_held_out = round(share * n_samples)
    if share and (n_held_out == 0 or n_samples - n_held_out < 2):
        raise DataError(
            f"--validation {share:g} holds {n_held_out} of {n_samples} training samples out, at least 1 is needed and "
            "2 have to be left; give another share, or 0"
        )
    positions = (np.arange(n_held_out) + 0.5) * (n_samples / max(n_held_out, 1))
    return bitmap.from_indices(draw_stratified_order(labels, (seed, 4))[positions.astype(np.int64)], n_samples)


def place_samples(
    settings: TrainSettings, data: Dataset, context: ComputeContext
) -> tuple[DeviceSamples, DeviceSamples]:
    """Return the training and the test samples on the device, both normalised by the statistics of the former."""
    mean, std = data.compute_channel_statistics()
    device, dtype, data_on = context.device, context.dtype, settings.data_on
    if data.has_features:
        return (
            DeviceFeatures(data.x_train, data.y_train, mean, std, device, settings.dither),
            DeviceFeatures(data.x_test, data.y_test, mean, std, device),
        )
    augmentation = Augmentation(settings.pad, settings.flip, settings.cutout)
    return (
        DeviceImages(data.x_train, data.y_train, mean, std, device, dtype, augmentation, data_on),
        DeviceImages(data.x_test, data.y_test, mean, std, device, dtype, data_on=data_on),
    )


def predict_early(
    train_state: TrainState, samples: DeviceSamples, settings: TrainSettings, members: Tensor | None = None
) -> NDArray[np.int64]:
    """Train new weights for `EARLY_EPOCHS`, and return the predicted class of every sample.

    Parameters
    ----------
    train_state
        The network, which keeps the new weights.
    samples
        The data set.
    settings
        Settings of the training.
    members
        Shape (n_members,), indices of the training samples, on the device; None for all samples.

    Returns
    -------
    predicted
        Shape (n_samples,).
    """
    device = train_state.context.device
    train_state.reinitialise(derive_seed(settings.seed, 2, 0))
    early_settings = replace(settings, epochs=EARLY_EPOCHS)
    if members is None:
        members = torch.arange(samples.n_samples, device=device)
    for epoch in range(EARLY_EPOCHS):
        generator = torch.Generator(device).manual_seed(derive_seed(settings.seed, 2, 1, epoch))
        train_epoch(train_state, samples, members, early_settings, epoch, generator)
    predicted: NDArray[np.int64] = predict_classes(train_state, samples, settings).cpu().numpy()
    return predicted


def derive_seed(*keys: int) -> int:
    """Return the seed that belongs to `keys`; the seeds of different keys are independent."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))
