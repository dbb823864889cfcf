"""Heads on frozen features: one half of the images with the labels of a noise, and a recorded training on it."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.logits import Recording, RecordingTrainer
from benchmarks.recordings import Half
from benchmarks.truth import Mask
from mild_core import bitmap
from mild_trainer.data import Dataset, load
from mild_trainer.settings import TrainSettings
from studies.programme import Case, Inputs

HUMAN_COLUMNS = {
    "human:worse": "c10_worse_label",
    "human:aggre": "c10_aggre_label",
    "human:random1": "c10_random_label1",
    "human:noisy": "c100_noisy_label",
}
"""Columns of ``cifar-n-labels.npz``: the first three are of CIFAR-10, the last one is of CIFAR-100."""


def load_half(path: Path, human: Path | None, noise: str, half: Half, seed: int) -> Dataset:
    """Load one half of the images' features with the labels of a noise, and the other half as its test set.

    Parameters
    ----------
    path
        Features and true labels of the first images of CIFAR-10 or CIFAR-100.
    human
        ``cifar-n-labels.npz``, which only human noise needs.
    noise
        A key of `HUMAN_COLUMNS`, or a specification of `mild_trainer.noise`.
    half, seed
        The first half of the images for choosing, the second for judging; the seed draws the noise.
    """
    data = load("features", path)
    middle = data.n_samples // 2
    first, second = np.arange(middle), np.arange(middle, data.n_samples)
    own, other = (first, second) if half == "choosing" else (second, first)
    data = replace(data, x_test=data.x_train[other], y_test=data.y_train[other])
    if noise not in HUMAN_COLUMNS:
        data = data.take(own).with_noise(noise, seed)
        return replace(data, y_train_clean=data.y_train) if data.y_train_clean is None else data
    return label_by_people(data, human, noise).take(own)


def label_by_people(data: Dataset, human: Path | None, noise: str) -> Dataset:
    """Return the first images of a data set with the labels that people gave; the true ones are known.

    Parameters
    ----------
    data
        The first images of CIFAR-10 or CIFAR-100, or all of them, with true labels.
    human
        ``cifar-n-labels.npz``.
    noise
        A key of `HUMAN_COLUMNS`.

    Raises
    ------
    ValueError
        If there is no such file.
    """
    if human is None:
        raise ValueError(f"{noise} needs cifar-n-labels.npz and it is not there; put it into --data-dir")
    with np.load(human) as labels:
        human_labels = labels[HUMAN_COLUMNS[noise]].astype(np.int64)[: data.n_samples]
    return replace(data, y_train=human_labels, y_train_clean=data.y_train)


@dataclass(frozen=True, slots=True, eq=False)
class HeadTraining:
    """A head that was trained for one round on everyone, with planted labels as the settings say.

    Attributes
    ----------
    settings, data
        What it was trained by and on.
    recording
        Its bits and logits.
    clean, own
        Shape (n_samples,) each: whose label is right, and whose label was not planted, which are judged.
    """

    settings: TrainSettings
    data: Dataset
    recording: Recording
    clean: Mask
    own: Mask


def train_head(settings: TrainSettings, case: Case, inputs: Inputs) -> HeadTraining:
    """Train a head on one half of the images of a case's features, with the labels of its noise."""
    path, noise = inputs.features[str(case["features"])], str(case["noise"])
    data = load_half(path, inputs.human_labels, noise, inputs.half, settings.seed)
    recording = RecordingTrainer(settings, data).record(plant=True)
    assert data.clean is not None
    assert recording.bits.planted is not None
    own = ~bitmap.unpack(recording.bits.planted, data.n_samples)
    return HeadTraining(settings, data, recording, data.clean, own)
