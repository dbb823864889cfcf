"""Record correctness bits of real trainings, on which fits, cuts and verdicts are chosen and judged.

usage: python -m benchmarks.record [--data-dir DIR] [--only TEXT] [--list]
       python -m benchmarks.record --full --device cuda --data-dir DIR

Trains the project's networks on digits and on CIFAR-10 with labels broken in many ways, with and without planted noise,
and writes one ``sequences/<name>.npz`` per training (see `benchmarks.recordings`): bits and cleanness only, no image
and no label. Existing recordings are not repeated. Seed 0 is for choosing, seed 1 for judging; so are the seeds from
100 and from 200 on, trainings of several rounds for `studies.pooling`, which are in ``sequences/rounds``. ``--full``
records ResNet-18 on all of CIFAR-10 instead, which takes a GPU.
"""

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.recordings import FOLDER, Recording, Round
from mild_client import CorrectnessTracker
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.selection import select
from mild_core.types import RoundBits
from mild_trainer import data as datasets
from mild_trainer import planting, presets
from mild_trainer.data import Dataset
from mild_trainer.settings import DeviceName, TrainSettings
from mild_trainer.training.device_samples import Augmentation, DeviceImages
from mild_trainer.training.engine import ComputeContext, TrainState, evaluate, train_epoch
from mild_trainer.training.trainer import derive_seed, predict_early

Planted = Literal["none", "uniform", "confused"]
PLANTED_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Case:
    """One training to record.

    Attributes
    ----------
    data
        ``digits``; ``cifar16``, 3,000 CIFAR-10 images averaged down to 16 x 16; ``cifar32``, 2,000 at full size;
        ``cifar10``, all of them, for ResNet-18 with the preset ``fast-cifar10``.
    noise
        As the trainer takes it, or ``human:aggre`` and ``human:worse`` for CIFAR-10N's labels.
    epochs, rounds, seed
        Settings of the training.
    planted
        How noise was planted in round 0.
    tail
        How many times rarer the last class is than the first; 1 is balanced.
    smoothing
        Label smoothing.
    augmented
        Whether CIFAR-10 is cropped and mirrored as usual, which so small a network cannot memorise, or only shifted by
        a pixel, which it can.
    """

    data: Literal["digits", "cifar16", "cifar32", "cifar10"]
    noise: str
    epochs: int
    seed: int
    planted: Planted = "none"
    rounds: int = 1
    tail: int = 1
    smoothing: float = 0.3
    augmented: bool = True

    @property
    def name(self) -> str:
        """File name without its suffix."""
        parts = [self.data, self.noise.replace(":", "-"), f"e{self.epochs}"]
        parts += [f"r{self.rounds}"] * (self.rounds > 1) + [f"tail{self.tail}"] * (self.tail > 1)
        parts += ["hard"] * (not self.smoothing) + ["plain"] * (not self.augmented)
        parts += [f"plant-{self.planted}"] * (self.planted != "none")
        return "_".join([*parts, f"s{self.seed}"])

    @property
    def folder(self) -> Path:
        """Folder below that of all recordings."""
        return Path("rounds" if self.seed >= 100 else "")


NOISES = (
    "none",
    "symmetric:0.05",
    "symmetric:0.2",
    "symmetric:0.4",
    "symmetric:0.8",
    "symmetric:0.95",
    "symmetric:1.0",
    "pairflip:0.4",
    "asymmetric:0.4",
    "instance:0.4",
)


_MORE = (100, 200)
"""First seeds of the trainings of several rounds: for choosing, for judging."""


def list_cases() -> list[Case]:
    """List the trainings to record."""
    cases: list[Case] = []
    few = ("none", "symmetric:0.05", "symmetric:0.4", "symmetric:0.8", "pairflip:0.4")
    most = [noise for noise in (*NOISES, "human:aggre", "human:worse") if noise != "symmetric:0.2"]
    for planted in ("none", "confused", "uniform"):
        cases += [Case("digits", noise, 20, s, planted) for noise in NOISES for s in (0, 1)]
    plain: dict[str, Any] = {"smoothing": 0.0, "augmented": False}
    cases += [Case("cifar16", noise, 30, s, "confused", **plain) for noise in most for s in (0, 1)]
    cases += [Case("digits", noise, e, s) for e in (3, 8, 60) for noise in few for s in (0, 1)]
    cases += [Case("digits", noise, 20, s, smoothing=0.0) for noise in few for s in (0, 1)]
    cases += [Case("digits", noise, 20, s, tail=10) for noise in few for s in (0, 1)]
    cases += [Case("digits", noise, 20, s, "confused", rounds=3) for noise in few for s in (0, 1)]
    cases += [Case("cifar16", noise, 30, s, tail=10, **plain) for noise in few[2:4] for s in (0, 1)]
    cases += [Case("cifar32", noise, 30, s, "confused", **plain) for noise in few for s in (0, 1)]
    cases += [Case("digits", noise, 150, s) for noise in few[2:] for s in (0, 1)]
    structured = ("symmetric:0.2", "symmetric:0.4", "symmetric:0.8", "pairflip:0.4", "asymmetric:0.4", "instance:0.4")
    cases += [
        Case("digits", noise, 20, s + i, "confused", rounds=4) for s in _MORE for noise in structured for i in range(3)
    ]
    weak: dict[str, Any] = {"planted": "confused", "rounds": 3, "smoothing": 0.0}
    for s in _MORE:
        cases += [Case("cifar16", noise, 15, s, **weak) for noise in ("human:worse", "symmetric:0.4")]
        cases += [Case("cifar16", "human:worse", 20, s + 1, **weak, augmented=False)]
        cases += [Case("cifar16", "pairflip:0.4", 20, s, **weak, augmented=False)]
        cases += [Case("cifar16", "pairflip:0.4", 15, s + 1, **weak)]
    return cases


def list_full_cases(epochs: int) -> list[Case]:
    """List the trainings on all of CIFAR-10, for judging."""
    return [Case("cifar10", noise, epochs, 1, "confused", smoothing=0.1) for noise in ("human:worse", "symmetric:0.4")]


def load_case(case: Case, data_dir: Path | None, limit: int = 0) -> Dataset:
    """Load the data of a case with its broken labels; a `limit` above 0 is for all of CIFAR-10."""
    if case.data == "digits":
        data = datasets.load("digits", None)
    else:
        data = datasets.load("cifar10", data_dir)
        if case.noise.startswith("human:"):
            # Under CC BY-NC 4.0, not to be redistributed: the labels are read, and only their cleanness is recorded.
            if data_dir is None:
                raise SystemExit("human labels are read from --data-dir; give it")
            with np.load(data_dir / "cifar-n-labels.npz") as labels:
                human_labels = labels[f"c10_{case.noise.removeprefix('human:')}_label"].astype(np.int64)
            data = replace(data, y_train=human_labels, y_train_clean=data.y_train)
        if case.data == "cifar16":
            data = replace(data, x_train=_halve(data.x_train), x_test=_halve(data.x_test))
        # Before the noise, which is drawn by the same seed: else the subset would be of the labels that it has broken.
        data = data.take_balanced({"cifar16": 3000, "cifar32": 2000}.get(case.data, limit or data.n_samples), case.seed)
    if case.tail > 1:
        data = _make_long_tailed(data, case.tail, case.seed)
    return data if case.noise.startswith("human:") else data.with_noise(case.noise, case.seed)


def _halve(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    small: NDArray[np.uint8] = np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    return small


def _make_long_tailed(data: Dataset, tail: int, seed: int) -> Dataset:
    """Reduce classes to geometrically falling sizes, the last `tail` times smaller than the first (Cui et al. 2019)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(data.n_samples)
    parts = []
    for label in range(data.n_classes):
        own = order[data.y_train[order] == label]
        parts.append(own[: round(len(own) * tail ** (-label / (data.n_classes - 1)))])
    indices = np.sort(np.concatenate(parts))
    return replace(data, x_train=data.x_train[indices], y_train=data.y_train[indices])


def make_settings(case: Case, device: DeviceName = "cpu") -> TrainSettings:
    if case.data == "cifar10":
        own: dict[str, Any] = {"epochs": case.epochs, "seed": case.seed, "label_smoothing": case.smoothing}
        return presets.make_settings("fast-cifar10", **own, device=device)
    kind: Any = "digits" if case.data == "digits" else "cifar10"
    pad = {"digits": 1, "cifar16": 2, "cifar32": 4}[case.data] if case.augmented else 1
    return TrainSettings.for_dataset(
        kind,
        model="resnet8",
        epochs=case.epochs,
        seed=case.seed,
        batch_size=64,
        label_smoothing=case.smoothing,
        pad=pad,
        flip=case.augmented and case.data != "digits",
        threads=1,
        device=device,
    )


class Recorder:
    """Trains a case, and records the bits of both passes."""

    def __init__(self, case: Case, data: Dataset, settings: TrainSettings | None = None) -> None:
        self.case, self.data, self.settings = case, data, settings or make_settings(case)
        self.context = ComputeContext.from_settings(self.settings)
        mean, std = data.compute_channel_statistics()
        augmentation = Augmentation(self.settings.pad, self.settings.flip)
        self.images = DeviceImages(
            data.x_train, data.y_train, mean, std, self.context.device, self.context.dtype, augmentation
        )
        self.given_labels = self.images.labels
        self.train_state = TrainState(self.settings, self.context, data.x_train.shape[-1], data.n_classes)

    def run(self) -> Recording:
        """Train all rounds."""
        data, n = self.data, self.data.n_samples
        assert data.y_train_clean is not None or self.case.noise == "none"
        clean = np.ones(n, dtype=bool) if data.clean is None else data.clean
        planted = None
        if self.case.planted != "none":
            draw = planting.plant_labels(
                data.y_train, data.n_classes, PLANTED_SHARE, self.case.seed, self.predict_labels()
            )
            self.images.labels = torch.from_numpy(draw.labels).to(self.context.device)
            planted = draw.planted
        members, rounds = bitmap.full(n), []
        for number in range(self.case.rounds):
            rounds.append(self.train_round(number, members))
            self.images.labels = self.given_labels
            members = self.select_members(rounds, planted)
        return Recording(self.case.name, n, bitmap.pack(clean), planted, tuple(rounds))

    def predict_labels(self) -> NDArray[np.int64] | None:
        """Predict classes by a barely trained network; None where planting is uniform."""
        if self.case.planted == "uniform":
            return None
        return predict_early(self.train_state, self.images, self.settings)

    def train_round(self, number: int, members: Bitmap) -> Round:
        """Train one round; the training pass is of the members, the evaluation pass of all samples."""
        self.train_state.reinitialise(derive_seed(self.case.seed, 0, number))
        device = self.context.device
        inside = torch.from_numpy(bitmap.to_indices(members, self.data.n_samples)).to(device)
        trackers = [CorrectnessTracker(self.data.n_samples, device) for _ in range(2)]
        bits: list[list[Bitmap]] = [[], []]
        for epoch in range(self.case.epochs):
            draws = torch.Generator(device).manual_seed(derive_seed(self.case.seed, 1, number, epoch))
            train_epoch(self.train_state, self.images, inside, self.settings, epoch, draws, trackers[0])
            evaluate(self.train_state, self.images, self.settings, tracker=trackers[1])
            for tracker, rows in zip(trackers, bits, strict=True):
                rows.append(tracker.take().correct)
        return Round(members, correct_train=np.stack(bits[0]), correct_eval=np.stack(bits[1]))

    def select_members(self, rounds: list[Round], planted: Bitmap | None) -> Bitmap:
        """Select the members of the next round by the defaults, without planted samples, as the service does."""
        n = self.data.n_samples
        selected = select([RoundBits(n, round_.correct_eval, members=round_.members) for round_ in rounds]).bitmap
        return selected if planted is None or len(rounds) > 1 else selected & ~planted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="holds cifar-10-batches-py and cifar-n-labels.npz")
    parser.add_argument("--only", default="", help="record only the cases with this text in their name")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--full", action="store_true", help="train on all of CIFAR-10")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--epochs", type=int, default=30, help="of --full")
    parser.add_argument("--model", default="resnet18", help="of --full")
    parser.add_argument("--limit", type=int, default=0, help="of --full: take so many images; 0: all")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    for case in list_full_cases(arguments.epochs) if arguments.full else list_cases():
        path = arguments.out / case.folder / f"{case.name}.npz"
        if arguments.only not in case.name or path.exists():
            continue
        if arguments.list:
            print(case.name)
            continue
        started = time.perf_counter()
        data = load_case(case, arguments.data_dir, arguments.limit)
        settings = make_settings(case, arguments.device)
        if arguments.full:
            settings = replace(settings, model=arguments.model)
        recording = Recorder(case, data, settings).run()
        recording.save(path)
        print(f"{case.name}: {recording.n_samples} samples, {time.perf_counter() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
