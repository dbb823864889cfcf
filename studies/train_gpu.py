"""Images per second of ours against a training loop written as the published one is, ResNet-34 on CIFAR-10 shapes.

usage: python -m studies.train_gpu [--device cuda] [--model resnet34] [--samples 50000] [--epochs 3] [--data-on auto]

Ours: images resident on the device (with ``--data-on host`` they are sent ahead from the host), cropped and mirrored
there, bf16, channels-last, fused optimiser, batch 512 and bits recorded by the tracker. The other: a DataLoader with 6
workers, batch 128, PyTorch's default precision and a dictionary of every sample's predictions, updated one sample at a
time. Both train the same network on random images; the first epoch of each warms up and does not count. Beside it
stands the share of the device's bf16 matrix peak, which is measured here as well. Writes ``results/train_gpu.md``, and
its figures as ``train_gpu.json``; exits with 1 if ours is not 8 times as fast. Without a CUDA device it says so and
exits with 2, unless ``--device cpu`` asks for a rehearsal, which has no bar.
"""

import argparse
import json
import multiprocessing
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mild_client import CorrectnessTracker
from mild_trainer.settings import TrainSettings
from mild_trainer.training import network
from mild_trainer.training.augment import Augmentation, DeviceImages
from mild_trainer.training.engine import ComputeContext, TrainState, train_epoch

BAR = 8.0
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Images:
    """Random images of CIFAR-10's shape, and labels."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def random(cls, n_samples: int) -> "Images":
        """Draw them."""
        rng = np.random.default_rng(0)
        return cls(rng.integers(0, 256, (n_samples, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, n_samples))


class Published(Dataset[tuple[Tensor, int, int]]):
    """Crops and mirrors one image at a time, on the processor."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        padded = np.pad(self._images.x[index], ((4, 4), (4, 4), (0, 0)))
        top, left = torch.randint(0, 9, (2,)).tolist()
        image = padded[top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image[:, ::-1]
        scaled = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float().div(255)
        return (scaled - 0.5) / 0.25, int(self._images.y[index]), index


def published(images: Images, model: nn.Module, device: torch.device, epochs: int, workers: int) -> float:
    """Seconds of an epoch."""
    model.to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-3)
    loader = DataLoader(Published(images), batch_size=128, shuffle=True, num_workers=workers)
    story: dict[int, list[int]] = {}
    seconds = []
    for _ in range(epochs + 1):
        started = time.perf_counter()
        for x, y, indices in loader:
            logits = model(x.to(device))
            loss = nn.functional.cross_entropy(logits, y.to(device))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            right = logits.argmax(1).cpu() == y
            for index, was_right in zip(indices, right, strict=True):
                story.setdefault(index.item(), []).append(int(was_right.item()))
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def ours(images: Images, settings: TrainSettings, epochs: int) -> float:
    """Seconds of an epoch."""
    context = ComputeContext.from_settings(settings)
    halves, quarters = (np.full(3, level, dtype=np.float32) for level in (127.5, 63.75))
    there = DeviceImages(
        images.x, images.y, halves, quarters, context.device, context.dtype, Augmentation(4, True), settings.data_on
    )
    train_state = TrainState(settings, context, 3, 10)
    tracker = CorrectnessTracker(len(images.y), context.device)
    members = torch.arange(len(images.y), device=context.device)
    seconds = []
    for epoch in range(epochs + 1):
        draws = torch.Generator(context.device).manual_seed(epoch)
        started = time.perf_counter()
        train_epoch(train_state, there, members, settings, epoch, draws, tracker)
        tracker.take()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def operations(model: nn.Module) -> int:
    """Operations of one image, forward and backward: two a multiplication, three times those of the forward pass."""
    counted = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal counted
        weight = module.weight
        assert isinstance(weight, Tensor)
        places = output[0, 0].numel() if output.dim() == 4 else 1
        counted += weight.numel() * places

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    model.train()
    return 2 * 3 * counted


def matrix_peak(device: torch.device, size: int) -> float:
    """Operations a second of bf16 matrix products of `size` x `size`, the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        product = a @ b
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", choices=("resnet8", "resnet18", "resnet34"), default="resnet34")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--matrix", type=int, default=8192)
    parser.add_argument("--data-on", choices=("auto", "device", "host"), default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: there is nothing to measure; --device cpu rehearses on the processor", file=sys.stderr)
        return 2
    device = torch.device(arguments.device)
    images = Images.random(arguments.samples)
    settings = TrainSettings.for_dataset(
        "cifar10",
        device=arguments.device,
        model=arguments.model,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs + 1,
        compile=arguments.compile,
        data_on=arguments.data_on,
    )
    other = published(
        images, network.build_network(arguments.model, 3, 10), device, arguments.epochs, arguments.workers
    )
    mine = ours(images, settings, arguments.epochs)
    peak = matrix_peak(device, arguments.matrix)
    used = operations(network.build_network(arguments.model, 3, 10)) * arguments.samples / mine
    name = torch.cuda.get_device_name() if device.type == "cuda" else "the processor, as a rehearsal"
    lines = [
        "# Training throughput",
        "",
        f"`python -m studies.train_gpu --device {arguments.device} --model {arguments.model}"
        f" --samples {arguments.samples} --epochs {arguments.epochs} --batch-size {arguments.batch_size}"
        f" --workers {arguments.workers}{' --compile' if arguments.compile else ''}"
        f" --data-on {arguments.data_on}`, {name}, "
        f"{multiprocessing.cpu_count()} CPU cores, Python {platform.python_version()}, torch {torch.__version__}.",
        "",
        "| loop | images a second |",
        "|---|---|",
        f"| as published | {arguments.samples / other:,.0f} |",
        f"| ours | {arguments.samples / mine:,.0f} |",
        "",
        f"Ratio: {other / mine:.1f}. Ours uses {used / 1e12:.3f} TFLOP/s, {used / peak:.1%} of the {peak / 1e12:.3f} "
        f"that bf16 products of {arguments.matrix} x {arguments.matrix} matrices reach here.",
        "",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "train_gpu.md").write_text("\n".join(lines))
    figures = {"published": arguments.samples / other, "ours": arguments.samples / mine, "peak_share": used / peak}
    (arguments.out / "train_gpu.json").write_text(json.dumps(figures) + "\n")
    print("\n".join(lines))
    return 0 if device.type == "cpu" or other / mine >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
