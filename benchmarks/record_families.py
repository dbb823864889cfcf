"""Record correctness bits of families of trainings that no default was chosen on.

usage: python -m benchmarks.record_families [--features FILE --human FILE] [--only TEXT] [--list]

Trains linear heads and small networks on flat features and writes one ``sequences/families/<family>_<name>.npz`` per
training, in the format of `benchmarks.recordings`: bits and cleanness only. Seed 0 is for choosing, the others for
judging. Trainings that were recorded before are not repeated.

``tabular``: wine, breast cancer and digits as flat vectors. ``learning`` and ``finished``: a sweep of learning rates
and epochs down to where nothing is learnt, divided by `is_unfinished`. ``unlearnt``: weak heads
that never learn some of the clean samples. ``memorised``: long trainings on structured noise. ``features``: heads on
frozen features of CIFAR-10, with Gaussian feature noise (`dither`) and without; FILE is one of `mild features`
(``examples/image_features.py``), and CIFAR-10N's labels are read from the file given as ``--human``.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import datasets

from benchmarks.recordings import FOLDER, Recording, Round
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_trainer import noise, planting
from mild_trainer.data import load

FAMILIES = FOLDER / "families"
UNFINISHED_GAIN = 0.05
"""Further accuracy on the true labels from which a training counts as still learning."""
_REFERENCE_EPOCHS = 40
_BATCH_SIZE = 32

Floats = NDArray[np.float32]
Data = Literal["wine", "cancer", "digits", "digits-pca6", "cifar"]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Case:
    """One training to record.

    Attributes
    ----------
    family
        Group of trainings; ``sweep`` is recorded as ``learning`` or ``finished``.
    data
        ``wine``, ``cancer``, ``digits``, ``digits-pca6`` (six principal components) or ``cifar`` (frozen features).
    noise
        As the trainer takes it, or ``human:worse``.
    epochs, seed, rate, decay
        Settings of the training: `rate` and `decay` are learning rate and weight decay of SGD with momentum 0.9.
    hidden
        Units of the hidden layer; 0 is a linear head.
    planted
        Number of samples whose label is broken on purpose.
    dither
        Standard deviation of the Gaussian noise on the features, in the training and in the recording pass.
    """

    family: Literal["tabular", "sweep", "unlearnt", "memorised", "features"]
    data: Data
    noise: str
    epochs: int
    seed: int
    rate: float = 0.02
    decay: float = 1e-4
    hidden: int = 0
    planted: int = 0
    dither: float = 0.0

    @property
    def name(self) -> str:
        """File name without its family and suffix."""
        head = f"mlp{self.hidden}" if self.hidden else "linear"
        parts = [f"{self.data}-{head}", self.noise.replace(":", "-"), f"e{self.epochs}", f"lr{self.rate:g}"]
        parts += [f"plant{self.planted}"] * (self.planted > 0) + [f"dither{self.dither:g}"] * (self.dither > 0)
        return "_".join([*parts, f"s{self.seed}"])


def list_cases() -> list[Case]:
    """List every training of the record."""
    seeds = (0, 1)
    return [
        case
        for seed in seeds
        for case in (
            *_list_tabular(seed),
            *_list_sweep(seed),
            *_list_unlearnt(seed),
            *_list_memorised(seed),
            *_list_features(seed),
        )
    ]


def _list_tabular(seed: int) -> list[Case]:
    noises, sizes = ("none", "symmetric:0.1", "symmetric:0.2", "symmetric:0.4", "pairflip:0.4"), (0, 32)
    wine = [Case("tabular", "wine", spec, 30, seed, hidden=hidden) for spec, hidden in product(noises, sizes)]
    larger: tuple[tuple[Data, int], ...] = (("cancer", 30), ("digits", 20))
    return wine + [
        Case("tabular", data, spec, epochs, seed, hidden=hidden, planted=planted)
        for (data, epochs), spec, hidden, planted in product(larger, noises, sizes, (0, 60, 120))
    ]


def _list_sweep(seed: int) -> list[Case]:
    heads: tuple[tuple[Data, int], ...] = (("wine", 0), ("cancer", 0), ("digits", 0), ("digits", 32))
    rates = (1e-2, 1e-3, 3e-4, 1e-4, 1e-5)
    return [
        Case("sweep", data, spec, epochs, seed, rate=rate, hidden=hidden)
        for (data, hidden), spec, epochs, rate in product(heads, ("none", "symmetric:0.4"), (10, 30), rates)
    ]


def _list_unlearnt(seed: int) -> list[Case]:
    cases = []
    for spec, planted in product(("none", "symmetric:0.1", "symmetric:0.4"), (0, 120)):
        cases.append(Case("unlearnt", "digits-pca6", spec, 20, seed, planted=planted))
        cases.append(Case("unlearnt", "cifar", spec, 20, seed, rate=5e-3, decay=0.1, planted=planted))
    return cases


def _list_memorised(seed: int) -> list[Case]:
    noises = ("pairflip:0.4", "pairflip:0.2", "asymmetric:0.4", "symmetric:0.4")
    return [
        Case("memorised", "digits", spec, epochs, seed, rate=0.05, hidden=256, planted=planted)
        for spec, epochs, planted in product(noises, (30, 100), (0, 120))
    ]


def _list_features(seed: int) -> list[Case]:
    noises = ("none", "symmetric:0.4", "symmetric:0.8", "pairflip:0.4", "asymmetric:0.4", "human:worse")
    cases = []
    for spec, dither in product(noises, (0.0, 1.0)):
        cases += [
            Case("features", "cifar", spec, 20, seed, rate=2e-3, decay=0.1, dither=dither, planted=planted)
            for planted in (0, 120)
        ]
        cases.append(Case("features", "cifar", spec, 20, seed, rate=5e-3, hidden=64, dither=dither))
    return cases


def load_features(case: Case, features_file: Path | None) -> tuple[Floats, Labels]:
    """Load standardised features, shape (n_samples, n_features), and true labels.

    Of CIFAR-10 the choosing half takes the first half of the images and the judging half the other.
    """
    if case.data == "cifar":
        if features_file is None:
            raise SystemExit("heads on CIFAR-10 need --features; make the file with mild features")
        data = load("features", features_file)
        x, y = data.x_train.astype(np.float64), data.y_train
        half = _get_cifar_slice(case.seed, len(x))
        x, y = x[half], y[half]
    else:
        loader = {"wine": datasets.load_wine, "cancer": datasets.load_breast_cancer}.get(
            case.data, datasets.load_digits
        )
        x, y = loader(return_X_y=True)
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    if case.data == "digits-pca6":
        x = np.linalg.svd(x, full_matrices=False)[0][:, :6]
        x = x / x.std(axis=0)
    return x.astype(np.float32), y.astype(np.int64)


def _get_cifar_slice(seed: int, n_images: int) -> slice:
    half = n_images // 2
    return slice(0, half) if seed == 0 else slice(half, 2 * half)


class Head:
    """A linear head, or a network of one hidden layer, trained by SGD with momentum on flat features."""

    def __init__(self, case: Case, x: Floats, n_classes: int) -> None:
        torch.manual_seed(case.seed)
        self.case, self.x = case, torch.from_numpy(x)
        self.random = torch.Generator().manual_seed(case.seed + 17)
        layers: list[torch.nn.Module] = [torch.nn.Linear(x.shape[1], case.hidden or n_classes)]
        if case.hidden:
            layers += [torch.nn.ReLU(), torch.nn.Linear(case.hidden, n_classes)]
        self.network = torch.nn.Sequential(*layers)
        self.optimiser = torch.optim.SGD(self.network.parameters(), lr=case.rate, momentum=0.9, weight_decay=case.decay)
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1 if case.data == "cifar" else 0.0)

    def train_epoch(self, labels: torch.Tensor) -> torch.Tensor:
        """Train one epoch; return the classes predicted before each update, shape (n_samples,)."""
        predicted = torch.empty_like(labels)
        for batch in torch.split(torch.randperm(len(labels), generator=self.random), _BATCH_SIZE):
            logits = self.network(self._get_features(batch))
            predicted[batch] = logits.detach().argmax(dim=1)
            self.optimiser.zero_grad()
            self.loss(logits, labels[batch]).backward()
            self.optimiser.step()
        return predicted

    def predict(self) -> torch.Tensor:
        """Predict the classes of all samples, shape (n_samples,)."""
        with torch.inference_mode():
            logits: torch.Tensor = self.network(self._get_features(torch.arange(len(self.x))))
            return logits.argmax(dim=1)

    def _get_features(self, batch: torch.Tensor) -> torch.Tensor:
        x = self.x[batch]
        if self.case.dither:
            x = x + self.case.dither * torch.randn(x.shape, generator=self.random)
        return x


def draw_labels(case: Case, true_labels: Labels, n_classes: int, human_file: Path | None) -> Labels:
    """Draw the given labels of a case."""
    if not case.noise.startswith("human:"):
        return noise.apply_noise(case.noise, true_labels, n_classes, case.seed)[0]
    if human_file is None:
        raise SystemExit("human labels are read from --human; give the file of CIFAR-10N's labels")
    labels: Labels
    with np.load(human_file) as arrays:  # under CC BY-NC 4.0, not to be redistributed: only their cleanness is kept
        labels = arrays[f"c10_{case.noise.removeprefix('human:')}_label"].astype(np.int64)
    own: Labels = labels[_get_cifar_slice(case.seed, 2 * len(true_labels))]
    return own


def record(case: Case, features_file: Path | None, human_file: Path | None) -> tuple[Recording, str]:
    """Train one case; return its recording, without the family in its name, and its family."""
    x, true_labels = load_features(case, features_file)
    n_samples, n_classes = len(x), int(true_labels.max()) + 1
    given_labels = draw_labels(case, true_labels, n_classes, human_file)
    trained_labels, planted = given_labels, None
    if case.planted:
        early = Head(case, x, n_classes)
        early.train_epoch(torch.from_numpy(given_labels))
        # Half of the samples along the confusions of an early network, half uniformly.
        confused, uniform = (
            planting.plant_labels(given_labels, n_classes, case.planted / 2 / n_samples, case.seed + shift, predicted)
            for shift, predicted in ((0, early.predict().numpy()), (1000, None))
        )
        by_confusion = bitmap.unpack(confused.planted, n_samples)
        trained_labels = np.where(by_confusion, confused.labels, uniform.labels)
        planted = confused.planted | uniform.planted
    head, labels = Head(case, x, n_classes), torch.from_numpy(trained_labels)
    train_bits, eval_bits, accuracy = [], [], []
    for _ in range(case.epochs):
        train_bits.append(_pack(head.train_epoch(labels) == labels))
        predicted = head.predict()
        eval_bits.append(_pack(predicted == labels))
        accuracy.append(float((predicted.numpy() == true_labels).mean()))
    family: str = case.family
    if family == "sweep":
        family = "learning" if is_unfinished(head, case, x, labels, true_labels, max(accuracy)) else "finished"
    round_ = Round(bitmap.full(n_samples), np.stack(train_bits), np.stack(eval_bits))
    clean = bitmap.pack(given_labels == true_labels)
    return Recording(case.name, n_samples, clean, planted, (round_,)), family


def is_unfinished(
    head: Head, case: Case, x: Floats, labels: torch.Tensor, true_labels: Labels, best_accuracy: float
) -> bool:
    """Check whether more epochs, or the usual learning rate, raise the best accuracy by `UNFINISHED_GAIN`."""
    usual_case = Case("sweep", case.data, case.noise, 0, case.seed, hidden=case.hidden)
    reference = Head(usual_case, x, int(true_labels.max()) + 1)
    for network, n_epochs in ((reference, _REFERENCE_EPOCHS), (head, 3 * case.epochs)):
        for _ in range(n_epochs):
            network.train_epoch(labels)
            if float((network.predict().numpy() == true_labels).mean()) >= best_accuracy + UNFINISHED_GAIN:
                return True
    return False


def _pack(bits: torch.Tensor) -> Bitmap:
    return bitmap.pack(bits.numpy())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, help="features and labels of CIFAR-10, an .npz")
    parser.add_argument("--human", type=Path, help="labels of CIFAR-10N, an .npz")
    parser.add_argument("--only", default="", help="cases whose family and name contain this text")
    parser.add_argument("--list", action="store_true", help="list the cases and train none")
    parser.add_argument("--folder", type=Path, default=FAMILIES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for case in list_cases():
        full_name = f"{case.family}_{case.name}"
        if arguments.only not in full_name:
            continue
        if arguments.list:
            print(full_name)
            continue
        families = ("learning", "finished") if case.family == "sweep" else (case.family,)
        if any((arguments.folder / f"{family}_{case.name}.npz").exists() for family in families):
            continue
        started = time.perf_counter()
        recording, family = record(case, arguments.features, arguments.human)
        recording.save(arguments.folder / f"{family}_{case.name}.npz")
        print(f"{family}_{case.name}: {time.perf_counter() - started:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
