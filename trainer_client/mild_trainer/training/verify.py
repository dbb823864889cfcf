"""Held-out agreement: two networks, each trained on half of the samples, judge the other half's labels."""

import time

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.agreement import HeldOutAgreement, measure_agreement
from mild_trainer.data import Dataset
from mild_trainer.errors import DataError
from mild_trainer.noise import by_class
from mild_trainer.settings import TrainSettings
from mild_trainer.training.progress import Reporter
from mild_trainer.training.trainer import Trainer

_FOLDS = 2
_SMALLEST = 2 * _FOLDS
"""Samples, so that each fold has the two that training takes at least."""


def verify(settings: TrainSettings, data: Dataset, trainer: Trainer, reporter: Reporter) -> HeldOutAgreement:
    """Train on each half of the samples as a round would, and judge the other half.

    Parameters
    ----------
    settings, data
        What to train, with the labels as given.
    trainer
        Its network is left as trained on the last fold; `Trainer.begin` draws fresh weights.
    reporter
        Is told of the folds.

    Raises
    ------
    DataError
        If there are too few samples for two folds.
    """
    if data.n_samples < _SMALLEST:
        raise DataError(
            f"{data.name} has {data.n_samples} training samples and held-out agreement takes at least {_SMALLEST}; "
            "leave out --verify"
        )
    fold = folds(data.y_train, settings.seed)
    predicted = np.empty_like(data.y_train)
    for number in range(_FOLDS):
        title, others = f"held-out fold {number}", fold != number
        members = bitmap.pack(others) & trainer.trainable
        started = time.perf_counter()
        reporter.round_started(title, bitmap.popcount(members), settings.epochs_of(0))
        test_accuracy = trainer.train_alone(members)
        predicted[~others] = trainer.predictions()[~others]
        reporter.comparison_done(title, test_accuracy, time.perf_counter() - started)
    return measure_agreement(data.y_train, predicted, data.n_classes, fold)


def folds(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Deal the samples of every class out to the folds, shape (n_samples,)."""
    fold = np.empty(len(labels), dtype=np.int64)
    fold[by_class(labels, (seed, 2))] = np.arange(len(labels)) % _FOLDS
    return fold
