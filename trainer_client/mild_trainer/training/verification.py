"""Verification that labels carry signal: two networks, each trained on half of the samples, predict the other half."""

import time

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.agreement import HeldOutAgreement, measure_agreement
from mild_trainer.data import Dataset
from mild_trainer.errors import DataError
from mild_trainer.noise import draw_stratified_order
from mild_trainer.settings import TrainSettings
from mild_trainer.training.progress import Reporter
from mild_trainer.training.trainer import Trainer

_FOLDS = 2
_MIN_SAMPLES = 2 * _FOLDS
"""Smallest data set: training needs two samples in each fold."""


def measure_held_out_agreement(
    settings: TrainSettings, data: Dataset, trainer: Trainer, reporter: Reporter
) -> HeldOutAgreement:
    """Measure how well networks trained on one half of the samples predict the given labels of the other half.

    Parameters
    ----------
    settings, data
        Settings of the training, and its data set with the given labels.
    trainer
        Trains the two networks, each as in round 0. Afterwards it has the weights of the second one, until
        `Trainer.initialise_round` draws new ones.
    reporter
        Receives the progress.
    """
    if data.n_samples < _MIN_SAMPLES:
        raise DataError(
            f"{data.name} has {data.n_samples} training samples and held-out agreement takes at least {_MIN_SAMPLES}; "
            "leave out --verify"
        )
    folds = assign_folds(data.y_train, settings.seed)
    predicted = np.empty_like(data.y_train)
    for number in range(_FOLDS):
        title, in_other_fold = f"held-out fold {number}", folds != number
        members = bitmap.pack(in_other_fold) & trainer.trainable
        started = time.perf_counter()
        reporter.on_round_start(title, bitmap.popcount(members), settings.count_epochs(0))
        test_accuracy = trainer.train_comparison_network(members)
        predicted[~in_other_fold] = trainer.predict_labels()[~in_other_fold]
        reporter.on_comparison_end(title, test_accuracy, time.perf_counter() - started)
    return measure_agreement(data.y_train, predicted, data.n_classes, folds)


def assign_folds(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Assign the samples of every class to the folds in turn; return each sample's fold, shape (n_samples,)."""
    folds = np.empty(len(labels), dtype=np.int64)
    folds[draw_stratified_order(labels, (seed, 2))] = np.arange(len(labels)) % _FOLDS
    return folds
