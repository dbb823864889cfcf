"""The counting kernel, compared with copying the same bytes.

An ImageNet-sized round, 1,281,167 samples x 200 epochs, 32 MB of bits: counts and transitions, without and with
observed bits, each as a ratio to a warm copy of the same bytes into preallocated memory, medians of interleaved runs.
Then the memory above the input, and the time of ten times the samples.
"""

import sys
import tracemalloc
from argparse import Namespace
from collections.abc import Callable

import numpy as np

from benchmarks.claims import Benchmark, Claim, Report
from benchmarks.timing import time_interleaved
from mild_core import bitmap
from mild_core.dynamics import count_dynamics
from mild_core.types import RoundBits

MIB = 1 << 20


def draw_rounds(n_samples: int, n_epochs: int) -> tuple[RoundBits, RoundBits]:
    """Draw the bits of two rounds, a complete one and one with a quarter of the observations missing."""
    rng = np.random.default_rng(0)
    shape = (n_epochs, bitmap.n_bytes(n_samples))
    padding = bitmap.full(n_samples)
    correct = rng.integers(0, 256, shape, dtype=np.uint8) & padding
    observed = (rng.integers(0, 256, shape, dtype=np.uint8) | rng.integers(0, 256, shape, dtype=np.uint8)) & padding
    return RoundBits(n_samples, correct), RoundBits(n_samples, correct & observed, observed)


def measure_peak_mib(work: Callable[[], object]) -> float:
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / MIB


def measure(options: Namespace) -> Report:
    complete, gappy = draw_rounds(options.samples, options.epochs)
    target = np.zeros_like(complete.correct)
    tenth = RoundBits(options.samples // 10, draw_rounds(options.samples // 10, options.epochs)[0].correct)
    copy, plain, observed, small = time_interleaved(
        [
            lambda: np.copyto(target, complete.correct),
            lambda: count_dynamics(complete),
            lambda: count_dynamics(gappy),
            lambda: count_dynamics(tenth),
        ],
        options.repeats,
    )
    memory = measure_peak_mib(lambda: count_dynamics(gappy))
    claims = [
        Claim("bits are counted in a small multiple of copying them", plain / copy, "at most", 20, "{:.1f} x"),
        Claim("the same where observations are missing", observed / copy, "at most", 40, "{:.1f} x"),
        Claim("counting takes little memory above the bits", memory, "at most", 256, "{:.0f} MiB"),
        Claim("ten times the samples take ten times as long", plain / small, "at most", 11, "{:.1f} x"),
    ]
    about = (
        f"Copy {copy * 1e3:.2f} ms, kernel {plain * 1e3:.1f} ms, with observed bits {observed * 1e3:.1f} ms "
        f"(medians of {options.repeats} interleaved runs)."
    )
    return Report("Counting kernel", claims, about)


BENCHMARK = Benchmark(
    "dynamics",
    "docs/scale.md#sizing",
    measure,
    options={"samples": 1_281_167, "epochs": 200, "repeats": 15},
    packages=("numpy",),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
