"""The cost of the tracker: relative to a training step, in an epoch by mode of observation, and relative to AUM's.

A step is forward, backward and the optimiser's on random images of CIFAR-10's shape: ResNet-8 at batch 128 on a
processor, ResNet-34 at batch 512 in bf16 on CUDA. `update` is timed in turn with the step, whose logits it takes. The
`update` of AUM's calculator (``pip install aum``) is timed in turn with ours on the same batch of 512; the page says
where it is not installed. On CUDA a wait of the host for the device within `update` is an error. An epoch of the
trainer on 2,560 such images is timed with all samples, the non-members, and no samples observed in a separate pass.
"""

import contextlib
import importlib.util
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.claims import Benchmark, Claim, Report, format_table
from benchmarks.timing import time_interleaved
from mild_client import CorrectnessTracker
from mild_core import bitmap
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from mild_trainer.training import network
from mild_trainer.training.trainer import Trainer

N_SAMPLES = 50_000
N_EPOCH = 2_560
BARS = {"cpu": 0.02, "cuda": 0.01}
AUM_BAR = 50
PEER_BATCH = 512
IN_A_ROW = 10
"""Number of updates that are timed together: one is far shorter than the cost of a change between the two."""


class Step:
    """One step of training, and the tracker's update for it."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        self.cuda = device == "cuda"
        self.n_batch = 512 if self.cuda else 128
        model = network.build_network("resnet34" if self.cuda else "resnet8", 3, 10)
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the trainer
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.images = torch.randn(self.n_batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
        self.labels = torch.randint(10, (self.n_batch,), device=device)
        self.indices = torch.randperm(N_SAMPLES, device=device)[: self.n_batch]
        self.logits = torch.zeros(self.n_batch, 10, device=device)
        self.tracker = CorrectnessTracker(N_SAMPLES, device)

    def train(self) -> None:
        """Run forward, backward, and the optimiser's step."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.cuda):
            logits = self.model(self.images)
            loss = functional.cross_entropy(logits, self.labels)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.logits = logits.detach().float()
        self.wait()

    def update(self) -> None:
        """Record the step's batch."""
        self.tracker.update(self.indices, self.logits, self.labels)
        self.wait()

    def wait(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()


def compare_with_aum(device: str, repeats: int) -> tuple[float, float] | None:
    """Measure the seconds of our `update` and of AUM's on the same batch; None where aum is not installed."""
    if importlib.util.find_spec("aum") is None:
        return None
    from aum import AUMCalculator

    logits = torch.randn(PEER_BATCH, 10, device=device)
    labels = torch.randint(10, (PEER_BATCH,), device=device)
    indices = torch.randperm(N_SAMPLES)[:PEER_BATCH]
    samples, on_device = indices.tolist(), indices.to(device)
    tracker = CorrectnessTracker(N_SAMPLES, device)

    def repeat(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(IN_A_ROW):
                work()
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    with tempfile.TemporaryDirectory() as folder:
        calculator = AUMCalculator(folder, compressed=True)
        works = [
            lambda: tracker.update(on_device, logits, labels),
            lambda: calculator.update(logits, labels, samples),
        ]
        ours, theirs = time_interleaved([repeat(work) for work in works], repeats, warm=10)
    return ours / IN_A_ROW, theirs / IN_A_ROW


@contextlib.contextmanager
def forbid_waiting(cuda: bool) -> Iterator[None]:
    """Context manager that fails on CUDA where the host waits for the device."""
    if cuda:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if cuda:
            torch.cuda.set_sync_debug_mode("default")


def list_epochs(device: str, n_samples: int) -> dict[str, Callable[[], object]]:
    """List an epoch of the trainer for each mode of observation, two fifths of the samples dropped."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n_samples, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, n_samples)
    data = Dataset("random", images, labels, images[:10], labels[:10], 10)
    members = bitmap.pack(np.arange(n_samples) >= 2 * n_samples // 5)
    works: dict[str, Callable[[], object]] = {}
    for observe in ("members", "mixed", "all"):
        plain: dict[str, Any] = {"model": "resnet8", "epochs": 1, "batch_size": 128, "device": device, "threads": 1}
        settings = TrainSettings.for_dataset("cifar10", observe=observe, plant=0.0, **plain)
        trainer = Trainer(settings, data)
        trainer.initialise_round(0)
        works[observe] = lambda trainer=trainer: trainer.run_epoch(0, 0, members)  # type: ignore[misc]  # bound now
    return works


def measure(options: Namespace) -> Report:
    torch.set_num_threads(1)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    step = Step(device)
    times = time_interleaved([step.train, step.update], options.repeats)
    peer = compare_with_aum(device, options.repeats)
    step.train()
    with forbid_waiting(step.cuda):
        step.tracker.update(step.indices, step.logits, step.labels)
    modes = list_epochs(device, options.samples)
    epoch_times = time_interleaved(list(modes.values()), max(options.repeats // 10, 1), warm=1)
    of_epoch = dict(zip(modes, epoch_times, strict=True))
    claims = [
        Claim("the tracker's `update`, of a training step", times[1] / times[0], "at most", BARS[device], "{:.2%}")
    ]
    if peer is not None:
        text = f"AUM's `update` over the tracker's, batch {PEER_BATCH}"
        claims.append(Claim(text, peer[1] / peer[0], "at least", AUM_BAR, "{:.0f} x"))
    about = (
        f"On {device}, one thread; {'ResNet-34' if step.cuda else 'ResNet-8'}, batch {step.n_batch}, medians of "
        f"{options.repeats} in turn. A step takes {times[0] * 1e3:.2f} ms, `update` {times[1] * 1e6:.0f} us"
    )
    about += (
        "; aum is not installed."
        if peer is None
        else f". On a batch of {PEER_BATCH}: {peer[0] * 1e6:.0f} us, AUM's {peer[1] * 1e3:.2f} ms."
    )
    about += f" Waits of the host within `update`: {'none' if step.cuda else 'not measured, there is no CUDA device'}."
    rows = [(f"`{name}`", f"{seconds / of_epoch['members']:.2f}x") for name, seconds in of_epoch.items()]
    heads = (f"`--observe`, an epoch of ResNet-8 on {options.samples} images", "against `members`")
    return Report("What the tracker costs", claims, about, format_table(heads, rows), page=f"tracker-{device}")


BENCHMARK = Benchmark(
    "tracker",
    "docs/client.md#from-a-models-outputs-to-bits",
    measure,
    options={"device": "", "repeats": 40, "samples": N_EPOCH},
    short={"repeats": 10, "samples": 640},
    packages=("torch",),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
