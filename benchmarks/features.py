"""Seconds from a file of features to the clean set: 50,000 samples of 1,280 features, four rounds.

usage: python -m benchmarks.features [--samples 50000] [--features 1280]

Features are Gaussian around a random direction for each of ten classes, 40% of the labels are wrong. A file of float32
and one of float16 go through ``mild train --rounds 4 --agree 1 --local``, start and report included. Writes
``results/features.md``, and exits with 1 if one takes more than 60 s.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.timing import machine
from benchmarks.truth import f1
from mild_trainer.settings import DEFAULTS

BAR = 60.0
RESULTS = Path(__file__).parent / "results"
HEAD = "| type | bytes | seconds | of it in epochs | F1 of the last set | everyone |\n|---|---|---|---|---|---|"


def write_features(path: Path, n_samples: int, n_features: int, dtype: str) -> None:
    """Write features and labels of which 40% are wrong, and the true ones."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, n_samples)
    centres = 0.12 * rng.standard_normal((10, n_features), dtype=np.float32)
    features = centres[truth] + rng.standard_normal((n_samples, n_features), dtype=np.float32)
    labels = np.where(rng.random(n_samples) < 0.4, (truth + rng.integers(1, 10, n_samples)) % 10, truth)
    np.savez(path, x_train=features.astype(dtype), y_train=labels, y_train_clean=truth)


def measure(folder: Path, n_samples: int, n_features: int, dtype: str) -> tuple[float, str]:
    """Return the seconds of a training, and its row of the table."""
    file, out = folder / f"{dtype}.npz", folder / dtype
    write_features(file, n_samples, n_features, dtype)
    words = [
        sys.executable,
        "-m",
        "mild_trainer.cli",
        "train",
        "--data-dir",
        str(file),
        "--rounds",
        "4",
        "--agree",
        "1",
    ]
    started = time.perf_counter()
    subprocess.run([*words, "--local", "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    rounds = json.loads((out / "summary.json").read_text())["rounds"]
    in_epochs = sum(epoch["seconds"] for each in rounds for epoch in each["epochs"])
    with np.load(file) as arrays:
        right = arrays["y_train"] == arrays["y_train_clean"]
    kept = np.zeros(n_samples, dtype=bool)
    kept[np.load(out / "clean.npy")] = True
    qualities = (f"{f1(chosen, right):.3f}" for chosen in (kept, kept | True))
    cells = (dtype, f"{file.stat().st_size:,}", f"{seconds:.1f}", f"{in_epochs:.1f}", *qualities)
    return seconds, f"| {' | '.join(cells)} |"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        results = [
            measure(Path(folder), arguments.samples, arguments.features, dtype) for dtype in ("float32", "float16")
        ]
    table = "\n".join([HEAD, *(row for _, row in results)])
    print(table)
    shape = f"{arguments.samples:,} x {arguments.features:,} features"
    arguments.out.joinpath("features.md").write_text(
        f"# From a file of features to the clean set\n\n`python -m benchmarks.features`: {shape}, four rounds of "
        f"{DEFAULTS['features']['epochs']} epochs, one run each, at most {BAR:g} s.\n"
        f"{machine('torch')}; one processor thread, the default.\n\n{table}\n"
    )
    return int(any(seconds > BAR for seconds, _ in results))


if __name__ == "__main__":
    sys.exit(main())
