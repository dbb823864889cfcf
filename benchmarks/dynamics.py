"""The counting kernel against copying the same bytes.

usage: python -m benchmarks.dynamics [--samples 1281167] [--epochs 200] [--repeats 15]

An ImageNet-sized round, 1,281,167 samples x 200 epochs, 32 MB of bits: counts and transitions, without and with
observed bits, each as a ratio to a warm copy of the same bytes into preallocated memory, medians of interleaved runs.
Then the memory above the input, and the time of ten times the samples. Writes ``results/dynamics.md``, exits with 1 if
a bar is missed.
"""

import argparse
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.timing import interleaved, machine
from mild_core import bitmap
from mild_core.dynamics import count_dynamics
from mild_core.types import RoundBits

RESULTS = Path(__file__).parent / "results"
MIB = 1 << 20


def recorded(n_samples: int, n_epochs: int) -> tuple[RoundBits, RoundBits]:
    """Random bits of a round, complete and with a third of the observations missing."""
    rng = np.random.default_rng(0)
    shape = (n_epochs, bitmap.n_bytes(n_samples))
    padding = bitmap.full(n_samples)
    correct = rng.integers(0, 256, shape, dtype=np.uint8) & padding
    observed = (rng.integers(0, 256, shape, dtype=np.uint8) | rng.integers(0, 256, shape, dtype=np.uint8)) & padding
    return RoundBits(n_samples, correct), RoundBits(n_samples, correct & observed, observed)


def peak_mib(work: Callable[[], object]) -> float:
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / MIB


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)

    complete, gappy = recorded(arguments.samples, arguments.epochs)
    target = np.zeros_like(complete.correct)
    tenth = RoundBits(arguments.samples // 10, recorded(arguments.samples // 10, arguments.epochs)[0].correct)
    copy, plain, observed, small = interleaved(
        [
            lambda: np.copyto(target, complete.correct),
            lambda: count_dynamics(complete),
            lambda: count_dynamics(gappy),
            lambda: count_dynamics(tenth),
        ],
        arguments.repeats,
    )
    memory = peak_mib(lambda: count_dynamics(gappy))
    rows = [
        ("counts and transitions, over the copy", f"{plain / copy:.1f} x", 20, plain / copy),
        ("the same with observed bits, over the copy", f"{observed / copy:.1f} x", 40, observed / copy),
        ("memory above the input", f"{memory:.0f} MiB", 256, memory),
        ("ten times the samples, over the tenth", f"{plain / small:.1f} x", 11, plain / small),
    ]
    lines = [
        "# Counting kernel",
        "",
        f"`python -m benchmarks.dynamics --samples {arguments.samples} --epochs {arguments.epochs} "
        f"--repeats {arguments.repeats}`, {machine('numpy')}. Copy {copy * 1e3:.2f} ms, kernel {plain * 1e3:.1f} ms, "
        f"with observed bits {observed * 1e3:.1f} ms (medians of {arguments.repeats} interleaved runs).",
        "",
        "| what | measured | bar |",
        "| --- | --- | --- |",
        *(f"| {what} | {shown} | at most {limit} |" for what, shown, limit, _ in rows),
        "",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "dynamics.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return 0 if all(value <= limit for *_, limit, value in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
