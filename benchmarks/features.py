"""Seconds from a file of features to the clean set: 50,000 samples of 1,280 features, four rounds.

Features are Gaussian around a random direction for each of ten classes, 40% of the labels are wrong. A file of float32
and one of float16 go through ``mild train --rounds 4 --agree 1 --local``, start and report included.
"""

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.claims import Benchmark, Claim, Report, format_table
from benchmarks.timing import measure_seconds
from benchmarks.truth import f1
from mild_trainer.settings import DEFAULTS

BAR = 60.0


def write_features(path: Path, n_samples: int, n_features: int, dtype: str) -> None:
    """Write features and labels of which 40% are wrong, and the true ones."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, n_samples)
    centres = 0.12 * rng.standard_normal((10, n_features), dtype=np.float32)
    features = centres[truth] + rng.standard_normal((n_samples, n_features), dtype=np.float32)
    labels = np.where(rng.random(n_samples) < 0.4, (truth + rng.integers(1, 10, n_samples)) % 10, truth)
    np.savez(path, x_train=features.astype(dtype), y_train=labels, y_train_clean=truth)


def train(folder: Path, n_samples: int, n_features: int, dtype: str) -> tuple[float, list[str]]:
    """Train on a file of features; return the seconds, and the row of the table."""
    file, out = folder / f"{dtype}.npz", folder / dtype
    write_features(file, n_samples, n_features, dtype)
    words = ["train", "--data-dir", str(file), "--rounds", "4", "--agree", "1", "--local", "--out", str(out)]
    command = [sys.executable, "-m", "mild_trainer.cli", *words]
    seconds = measure_seconds(partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL))
    rounds = json.loads((out / "summary.json").read_text())["rounds"]
    in_epochs = sum(epoch["seconds"] for each in rounds for epoch in each["epochs"])
    with np.load(file) as arrays:
        right = arrays["y_train"] == arrays["y_train_clean"]
    kept = np.zeros(n_samples, dtype=bool)
    kept[np.load(out / "clean.npy")] = True
    qualities = (f"{f1(mask, right):.3f}" for mask in (kept, kept | True))
    return seconds, [dtype, f"{file.stat().st_size:,}", f"{seconds:.1f}", f"{in_epochs:.1f}", *qualities]


def measure(options: Namespace) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        trainings = [train(Path(folder), options.samples, options.features, dtype) for dtype in options.types]
    shape = f"{options.samples:,} x {options.features:,} features"
    about = f"Four rounds of {DEFAULTS['features']['epochs']} epochs, one run each; one processor thread, the default."
    longest = max(seconds for seconds, _ in trainings)
    claims = [Claim(f"from a file of {shape} to the clean set", longest, "at most", BAR, "{:.0f} s")]
    heads = ("type", "bytes", "seconds", "of it in epochs", "F1 of the last set", "everyone")
    text = format_table(heads, [row for _, row in trainings])
    return Report("From a file of features to the clean set", claims, about, text)


BENCHMARK = Benchmark(
    "features",
    "docs/trainer.md#features",
    measure,
    options={"samples": 50_000, "features": 1280, "types": ("float32", "float16")},
    short={"types": ("float32",)},
    packages=("torch",),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
