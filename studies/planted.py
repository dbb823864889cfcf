"""How often the bound of the noise rate from planted samples holds, by noise, way of planting and number of samples.

Trains heads on flat features (`benchmarks.record_families`) with 240 labels broken on purpose, and computes
`mild_core.verdict.bound_noise_rate` from all of them and from `REPEATS` random subsets of 30, 60 and 120. The bound
holds where it is at least the noise rate of the other samples. Of two bounds that hold the smaller one is better: the
table has the share that holds, and the mean of bound minus noise rate. ``--features`` and ``--human`` are files of
features of CIFAR-10 and of the labels of CIFAR-10N.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.claims import Benchmark, Report, format_table
from benchmarks.record_families import Case, Data, Floats, Head, Labels, draw_labels, load_features
from mild_core import bitmap
from mild_core.scores import score_samples
from mild_core.types import RoundBits
from mild_core.verdict import bound_noise_rate
from mild_trainer import planting

Way = Literal["uniform", "confused", "half and half"]
SIZES = (30, 60, 120, 240)
REPEATS = 20
NOISES = ("symmetric:0.2", "symmetric:0.4", "asymmetric:0.4", "pairflip:0.4", "human:worse")


@dataclass(frozen=True, slots=True)
class Bound:
    """The bound from one set of planted samples.

    Attributes
    ----------
    noise, way, n_planted
        Noise, way of planting, and number of planted samples.
    excess
        Bound minus noise rate.
    """

    noise: str
    way: Way
    n_planted: int
    excess: float


def list_cases(seed: int) -> Iterator[Case]:
    """List the trainings of one seed: linear heads and networks of 32 units on digits, heads on CIFAR-10's features."""
    heads: tuple[tuple[Data, int, float, float], ...] = (
        ("digits", 0, 0.02, 1e-4),
        ("digits", 32, 0.02, 1e-4),
        ("cifar", 0, 2e-3, 0.1),
    )
    for (data, hidden, rate, decay), spec in product(heads, NOISES):
        if data == "cifar" or not spec.startswith("human"):
            dither = float(data == "cifar")
            yield Case("tabular", data, spec, 20, seed, rate, decay, hidden, planted=max(SIZES), dither=dither)


def plant_labels(case: Case, way: Way, x: Floats, given_labels: Labels) -> tuple[Labels, NDArray[np.bool_]]:
    """Break the labels of a case; return the labels to train on, and which samples are planted."""
    n_samples, n_classes = len(given_labels), int(given_labels.max()) + 1
    early = Head(case, x, n_classes)
    early.train_epoch(torch.from_numpy(given_labels))
    predicted = early.predict().numpy()
    sources = {"uniform": (None,), "confused": (predicted,), "half and half": (predicted, None)}[way]
    labels, planted = given_labels.copy(), np.zeros(n_samples, dtype=bool)
    for shift, source in enumerate(sources):
        share = case.planted / len(sources) / n_samples
        draw = planting.plant_labels(given_labels, n_classes, share, case.seed + 1000 * shift, source)
        is_new = bitmap.unpack(draw.planted, n_samples) & ~planted
        labels[is_new], planted = draw.labels[is_new], planted | is_new
    return labels, planted


def measure_bounds(case: Case, way: Way, features: Path, human: Path) -> Iterator[Bound]:
    """Train a case, and bound its noise rate by planted samples."""
    x, true_labels = load_features(case, features)
    given_labels = draw_labels(case, true_labels, int(true_labels.max()) + 1, human)
    labels, planted = plant_labels(case, way, x, given_labels)
    head, targets = Head(case, x, int(true_labels.max()) + 1), torch.from_numpy(labels)
    correct = []
    for _ in range(case.epochs):
        head.train_epoch(targets)
        correct.append(bitmap.pack((head.predict() == targets).numpy()))
    scores = score_samples([RoundBits(len(x), np.stack(correct), planted=bitmap.pack(planted))], "mild-simple")
    counts = np.bincount(scores.bins, minlength=scores.grid.n_bins).astype(np.float64)
    noise = float((given_labels != true_labels)[~planted].mean())
    rng = np.random.default_rng(case.seed)
    for size in SIZES:
        for _ in range(REPEATS if size < scores.planted_bins.size else 1):
            sample_bins = rng.permutation(scores.planted_bins)[:size]
            value = bound_noise_rate(counts, np.bincount(sample_bins, minlength=scores.grid.n_bins).astype(np.float64))
            if value is not None:
                yield Bound(case.noise, way, size, value - noise)


def format_bounds(bounds: Sequence[Bound]) -> list[str]:
    """Format the table: a row per noise and way of planting, a column per number of planted samples."""
    rows = []
    for noise, way in product((*NOISES, "all"), get_args(Way)):
        cells = []
        for size in SIZES:
            excess = np.array(
                [b.excess for b in bounds if b.way == way and b.n_planted == size and noise in (b.noise, "all")]
            )
            cells.append(f"{np.mean(excess >= 0):.0%} ({excess.mean():+.3f})")
        rows.append((noise, way, *cells))
    return format_table(("noise", "planting", *(f"{size} planted" for size in SIZES)), rows)


def measure(options: Namespace) -> Report:
    torch.set_num_threads(1)
    bounds: list[Bound] = []
    for seed in range(options.seeds):
        for case, way in product(list_cases(seed), get_args(Way)):
            bounds += measure_bounds(replace(case, seed=seed), way, Path(options.features), Path(options.human))
    about = (
        "Share of the bounds (`planted_bound_if_alike`) that are at least the noise rate, and in brackets the mean "
        "of bound minus noise rate. The bound assumes that wrong labels are learnt like planted ones."
    )
    return Report("The bound from planted samples", [], about, format_bounds(bounds))


STUDY = Benchmark(
    "planted",
    "docs/method.md#planted-samples",
    measure,
    options={"features": "lite2.npz", "human": "cifar-n-labels.npz", "seeds": 5},
    packages=("numpy", "torch"),
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
