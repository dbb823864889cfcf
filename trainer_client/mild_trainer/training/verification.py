"""Verification that labels carry signal: two networks, each trained on half of the samples, predict the other half."""

import time

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.agreement import HeldOutAgreement, measure_agreement
from mild_trainer.data import Dataset
from mild_trainer.errors import DataError
from mild_trainer.noise import stratified_order
from mild_trainer.settings import TrainSettings
from mild_trainer.training.progress import Reporter
from mild_trainer.training.trainer import Trainer

_FOLDS = 2
_MIN_SAMPLES = 2 * _FOLDS
"""Smallest data set: training needs two samples in each fold."""


def verify_labels(settings: TrainSettings, data: Dataset, trainer: Trainer, reporter: Reporter) -> HeldOutAgreement:
    """Train on each half of the samples as in a round, predict the other half, and measure the agreement.

    Parameters
    ----------
    settings, data
        The settings, and the data set with the given labels.
    trainer
        It keeps the network of the last fold; `Trainer.initialise_round` draws new weights.
    reporter
        Receives the progress.

    Raises
    ------
    DataError
        If there are too few samples for two folds.
    """
    if data.n_samples < _MIN_SAMPLES:
        raise DataError(
            f"{data.name} has {data.n_samples} training samples and held-out agreement takes at least {_MIN_SAMPLES}; "
            "leave out --verify"
        )
    fold = assign_folds(data.y_train, settings.seed)
    predicted = np.empty_like(data.y_train)
    for number in range(_FOLDS):
        title, in_other_fold = f"held-out fold {number}", fold != number
        members = bitmap.pack(in_other_fold) & trainer.trainable
        started = time.perf_counter()
        reporter.on_round_start(title, bitmap.popcount(members), settings.epochs_of(0))
        test_accuracy = trainer.train_comparison(members)
        predicted[~in_other_fold] = trainer.predict_labels()[~in_other_fold]
        reporter.on_comparison_end(title, test_accuracy, time.perf_counter() - started)
    return measure_agreement(data.y_train, predicted, data.n_classes, fold)


def assign_folds(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Assign the samples of every class to the folds in turn, shape (n_samples,)."""
    fold = np.empty(len(labels), dtype=np.int64)
    fold[stratified_order(labels, (seed, 2))] = np.arange(len(labels)) % _FOLDS
    return fold
