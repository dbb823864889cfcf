"""The expected duration of a training, from the time that a few batches take."""

import time
from dataclasses import replace

import torch

from mild_trainer.settings import TrainSettings
from mild_trainer.training.device_samples import DeviceSamples
from mild_trainer.training.engine import TrainState, train_epoch

EARLY_EPOCHS = 2
"""Number of epochs after which class confusions are measured: the classes are learnt, wrong labels hardly yet."""
_FORWARD_SHARE = 1 / 3
"""Cost of a forward pass as a share of that of a training step."""
_WARM_UP, _TIMED = 8, 32
"""Number of images of the first, untimed batch and of the least timed one."""
_LONGEST_TIMING = 1.0
"""Seconds that a full timed batch may be expected to take; a slower network is timed with fewer images."""


def estimate_duration(
    settings: TrainSettings, train_state: TrainState, samples: DeviceSamples, n_test: int
) -> float | None:
    """Return how many seconds a training takes at most, roughly; None where a network is compiled first.

    A batch is trained on, so the network is to be initialised afterwards.

    Parameters
    ----------
    settings
        Settings of the training.
    train_state
        The network.
    samples, n_test
        The training samples, and the number of test samples.
    """
    if settings.compile or samples.n_samples < _WARM_UP:
        return None
    _time_samples(settings, train_state, samples, _WARM_UP)  # the first batch chooses algorithms
    n_timed = min(_TIMED, samples.n_samples)
    seconds = _time_samples(settings, train_state, samples, n_timed)
    full = min(4 * settings.batch_size, samples.n_samples)
    if seconds * full / n_timed < _LONGEST_TIMING:
        n_timed = full
        seconds = _time_samples(settings, train_state, samples, n_timed)
    return float(seconds / n_timed) * _count_samples(settings, samples.n_samples, n_test)


def _count_samples(settings: TrainSettings, n_samples: int, n_test: int) -> float:
    """Return the cost of a whole training, with all rounds on all samples, in training steps of one sample."""
    epochs = settings.count_epochs(0) * (1 + settings.verify + settings.oracle)
    epochs += EARLY_EPOCHS if settings.plant and settings.plant_how == "confused" else 0
    epochs += (settings.rounds - 1) * settings.epochs
    observed = n_samples if settings.observe == "all" else 0
    cost: float = epochs * (n_samples + _FORWARD_SHARE * (observed + n_test))
    if settings.finish != "none":
        cost += (settings.finish_epochs or settings.epochs) * n_samples
    return cost


def _time_samples(settings: TrainSettings, train_state: TrainState, samples: DeviceSamples, n_samples: int) -> float:
    """Return the seconds that training on the first `n_samples` takes."""
    device = train_state.context.device
    members = torch.arange(n_samples, device=device)
    generator = torch.Generator(device).manual_seed(0)
    for _ in range(1 + train_state.context.is_cuda):  # there the first pass chooses algorithms for these batch sizes
        started = time.perf_counter()
        loss, _ = train_epoch(train_state, samples, members, replace(settings, epochs=1), 0, generator)
        float(loss)  # waits for the device
    return time.perf_counter() - started


def format_duration(seconds: float) -> str:
    """Return a duration in words, such as ``40 s``, ``3 min`` or ``2 h``."""
    if seconds < 55:
        return f"{max(5, round(seconds / 5) * 5)} s"
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{round(seconds / 3600):,} h"
