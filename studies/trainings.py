"""The trainings that the sections over rounds make: data by name with the labels of a noise, settings and the loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.recordings import Half
from mild_client import LocalSelector
from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.bitmap import Bitmap
from mild_core.results import Selection
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions
from mild_trainer import presets
from mild_trainer.data import Dataset, load
from mild_trainer.settings import TrainSettings
from mild_trainer.training.engine import predict_classes
from mild_trainer.training.history import History
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.trainer import Trainer, place_samples
from studies.heads import HUMAN_COLUMNS, label_by_people, load_half
from studies.images import shrink_images
from studies.programme import SEEDS, Case, Inputs

SMALL = "cifar16"
DATA_TEXT = """\
`lite2` and `lite0`: linear heads on frozen EfficientNet-Lite features of 4,000 images of CIFAR-10, tested on the other
4,000. `digits`: ResNet-8 on 1,437 images of 8 x 8 pixels. `cifar16`: ResNet-8 on 2,500 images of CIFAR-10, averaged
down to 16 x 16 pixels, 20 epochs: a network too weak for its data. Settings are the trainer's defaults; noise and
weights are drawn anew for each seed."""
"""What the names of data stand for, for the page."""
DATA_POINTER = "Data and settings are those under *Ten and more rounds*."
"""For the text of the sections that do not say it."""
_N_SMALL, _N_TEST, _HALF_SIZE = 2500, 2000, 4000
_NO_GAIN = 0.005
"""Accuracy that the true clean set gains at least over all labels where there is anything to gain."""
_PUBLISHED = {"cifar10": "paper-cifar10-sym80", "cifar100": "paper-cifar100-sym80"}
"""Presets with the published networks, epochs and stages; the noise is given by the case."""


def list_data(inputs: Inputs, *names: str) -> list[str]:
    """Return those of the named data that the inputs hold; on a GPU, all of CIFAR-10 and CIFAR-100."""
    if inputs.profile == "gpu":
        return [] if inputs.data_dir is None else list(_PUBLISHED)
    available = {"digits", *inputs.features, *([] if inputs.data_dir is None else [SMALL])}
    return [name for name in names if name in available]


def can_label(data: str, noise: str, inputs: Inputs) -> bool:
    """Check that a noise is defined for the data and that its labels are there."""
    if noise in HUMAN_COLUMNS:
        is_known = data != "digits" and (HUMAN_COLUMNS[noise].startswith("c100")) == (data == "cifar100")
        return is_known and inputs.human_labels is not None
    return data != "digits" or not noise.startswith("asymmetric")


def make_cases(
    inputs: Inputs, data: Sequence[str], n_seeds: int, noises: Sequence[str], **choices: Sequence[Any]
) -> list[Case]:
    """List the cases of all seeds, data, noises that fit these, and combinations of further choices."""
    names = ("data", "noise", *choices)
    return [
        {**dict(zip(names, values, strict=True)), "half": inputs.half, "seed": seed}
        for seed in SEEDS[inputs.half][:n_seeds]
        for values in product(list_data(inputs, *data), noises, *choices.values())
        if can_label(values[0], values[1], inputs)
    ]


def get_seed(case: Case) -> int:
    """Return the seed of a case."""
    return int(case["seed"] or 0)


def load_case(case: Case, inputs: Inputs) -> Dataset:
    """Load the data of a case with its labels; the true ones are known.

    Features and small images are those of one half of the first 8,000 of CIFAR-10. Digits and whole sets have halves of
    the seeds alone.
    """
    name, noise, seed = str(case["data"]), str(case["noise"]), get_seed(case)
    if name in inputs.features:
        return load_half(inputs.features[name], inputs.human_labels, noise, inputs.half, seed)
    data = load("digits") if name == "digits" else _load_images(name, _check_folder(inputs.data_dir))
    if noise in HUMAN_COLUMNS:
        data = label_by_people(data, inputs.human_labels, noise)
    if name == SMALL:
        data = data.take(_list_small(inputs.half))
    data = data if noise in HUMAN_COLUMNS else data.with_noise(noise, seed)
    return data if data.y_train_clean is not None else replace(data, y_train_clean=data.y_train)


def _check_folder(data_dir: Path | None) -> Path:
    if data_dir is None:
        raise ValueError("images of CIFAR are needed and there is no folder; give --data-dir")
    return data_dir


@lru_cache(maxsize=1)
def _load_images(name: str, data_dir: Path) -> Dataset:
    if name != SMALL:
        return load(name, data_dir)
    data = load("cifar10", data_dir)
    return shrink_images(replace(data, x_test=data.x_test[:_N_TEST], y_test=data.y_test[:_N_TEST]), 16)


def _list_small(half: Half) -> NDArray[np.int64]:
    """Return the images of `cifar16`, which are among those of the same half of the features."""
    return np.arange(_N_SMALL) + (half == "judging") * _HALF_SIZE


def is_published(case: Case) -> bool:
    """Check whether a case has the published network and stages, as those of the profile ``gpu`` have."""
    return case["data"] in _PUBLISHED


def make_settings(case: Case, **changes: Any) -> TrainSettings:
    """Return the settings of a case: defaults of its data, or the published ones; rounds end where two sets are equal.

    With the published network and stages the loop is ours, with fresh weights and everyone observed, unless `changes`
    says otherwise.
    """
    name = str(case["data"])
    common: dict[str, Any] = {"seed": get_seed(case), "noise": "none", "agree": 1.0}
    if is_published(case):
        ours = {"observe": "all", "weights": "fresh", "plant": 0.02, "selection": SelectionOptions()}
        return presets.make_settings(_PUBLISHED[name], **{**common, **ours, **changes})
    common |= {"device": "cpu", "threads": 1}
    if name == SMALL:
        images = {"model": "resnet8", "epochs": 20, "batch_size": 64, "pad": 2, "label_smoothing": 0.1}
        return TrainSettings.for_dataset("cifar10", **{**images, **common, **changes})
    dataset = "digits" if name == "digits" else "features"
    return TrainSettings.for_dataset(dataset, **{**common, **changes})  # type: ignore[arg-type]  # one of the two names


@dataclass(frozen=True, slots=True, eq=False)
class RecordedTraining:
    """A training over rounds, with the bits and the selection of each round."""

    history: History
    rounds: tuple[RoundBits, ...]
    selections: tuple[Selection, ...]

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Mask of the samples whose given label is right, shape (n_samples,)."""
        assert self.history.data.clean is not None
        return self.history.data.clean

    @property
    def own(self) -> NDArray[np.bool_]:
        """Mask of the samples that no label was planted on, shape (n_samples,)."""
        planted = self.history.planted
        n_samples = self.history.data.n_samples
        return np.ones(n_samples, dtype=bool) if planted is None else ~bitmap.unpack(planted, n_samples)


def record_training(settings: TrainSettings, data: Dataset) -> RecordedTraining:
    """Train over rounds by the trainer's own loop."""
    recorded: tuple[RoundBits, ...] = ()
    selections: list[Selection] = []

    def select_and_record(
        rounds: Sequence[RoundBits], options: SelectionOptions, annotations: Annotations | None
    ) -> Selection:
        nonlocal recorded
        recorded = tuple(rounds)
        selections.append(select(rounds, options, annotations))
        return selections[-1]

    history = run_rounds(settings, LocalSelector(select=select_and_record), data)
    return RecordedTraining(history, recorded, tuple(selections))


def train_on(members: Bitmap, settings: TrainSettings, data: Dataset, *tests: Dataset) -> list[NDArray[np.int64]]:
    """Train fresh weights on some of the samples, and return the classes that are predicted for each test set."""
    trainer = Trainer(settings, data)
    trainer.train_comparison_network(members)
    predicted = []
    for test in tests:
        _, samples = place_samples(settings, test, trainer.train_state.context)
        predicted.append(predict_classes(trainer.train_state, samples, settings).cpu().numpy())
    return predicted


def describe_rounds(training: RecordedTraining) -> dict[str, list[Any]]:
    """Return what a row holds of each round; thresholds as shares of the epochs, None where everyone is kept."""
    columns: dict[str, list[Any]] = {}
    for record, selection in zip(training.history.rounds, training.selections, strict=True):
        cut, agreement = selection.threshold.cut, record.agreement
        assert agreement is not None
        values: Mapping[str, Any] = {
            "threshold": None if cut is None else round(cut / selection.epochs, 4),
            "kept": round(record.n_selected / training.history.data.n_samples, 4),
            "precision": round(agreement.precision, 4),
            "recall": round(agreement.recall, 4),
            "f1": round(agreement.f1, 4),
            "jaccard": round(record.overlap, 4),
            "accuracy": None if record.test_accuracy is None else round(record.test_accuracy, 4),
            "verdict": selection.verdict,
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return columns


def explain_accuracy(accuracies: tuple[float, float, float], precision: float, recall: float) -> str:
    """Return why training on the kept set is less accurate than on all labels; empty where it is not.

    The accuracies are those of training on all labels, on the kept set and on the true clean set.
    """
    all_labels, kept, true_set = accuracies
    if kept >= all_labels:
        return ""
    if true_set < all_labels + _NO_GAIN:
        return "the true clean set brings nothing either"
    if recall <= precision:
        return f"{1 - recall:.0%} of the right labels are dropped"
    return f"{1 - precision:.0%} of the kept labels are wrong"
