"""Images per second of ours and of a training loop written as the published one is, ResNet-34 on CIFAR-10 shapes.

Ours: images resident on the device (with ``--data-on host`` they are sent ahead from the host), cropped and mirrored
there, bf16, channels-last, fused optimiser, batch 512 and bits recorded by the tracker. The other: a DataLoader with 6
workers, batch 128, PyTorch's default precision and a dictionary of every sample's predictions, updated one sample at a
time. Both train the same network on random images; the first epoch of each is a warm-up and does not count. The share
of the device's bf16 matrix peak is measured too. Writes the figures as ``train_gpu.json``, too. Without a CUDA device
it says so and exits with 2, unless ``--device cpu`` asks for a rehearsal, which has no bar.
"""

import json
import sys
import time
from argparse import Namespace
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.claims import Benchmark, Report, format_table
from benchmarks.on_gpu import claim_throughput
from mild_client import CorrectnessTracker
from mild_trainer.settings import TrainSettings
from mild_trainer.training import network
from mild_trainer.training.device_samples import Augmentation, DeviceImages
from mild_trainer.training.engine import ComputeContext, TrainState, train_epoch


@dataclass(frozen=True, slots=True)
class Images:
    """Images of CIFAR-10's shape, and labels."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def draw(cls, n_samples: int) -> "Images":
        """Draw random images and labels."""
        rng = np.random.default_rng(0)
        return cls(rng.integers(0, 256, (n_samples, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, n_samples))


class PublishedDataset(Dataset[tuple[Tensor, int, int]]):
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


def time_published(images: Images, model: nn.Module, device: torch.device, epochs: int, workers: int) -> float:
    """Measure the seconds of an epoch of the published loop, the least of `epochs`."""
    model.to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-3)
    loader = DataLoader(PublishedDataset(images), batch_size=128, shuffle=True, num_workers=workers)
    history: dict[int, list[int]] = {}
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
                history.setdefault(index.item(), []).append(int(was_right.item()))
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def time_ours(images: Images, settings: TrainSettings, epochs: int) -> float:
    """Measure the seconds of an epoch of our loop, the least of `epochs`."""
    context = ComputeContext.from_settings(settings)
    halves, quarters = (np.full(3, level, dtype=np.float32) for level in (127.5, 63.75))
    device_images = DeviceImages(
        images.x, images.y, halves, quarters, context.device, context.dtype, Augmentation(4, True), settings.data_on
    )
    train_state = TrainState(settings, context, 3, 10)
    tracker = CorrectnessTracker(len(images.y), context.device)
    members = torch.arange(len(images.y), device=context.device)
    seconds = []
    for epoch in range(epochs + 1):
        draws = torch.Generator(context.device).manual_seed(epoch)
        started = time.perf_counter()
        train_epoch(train_state, device_images, members, settings, epoch, draws, tracker)
        tracker.take()  # waits for the device
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def count_operations(model: nn.Module) -> int:
    """Count the operations for one image, forward and backward: two a multiplication, three times the forward pass."""
    n_multiplications = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal n_multiplications
        weight = module.weight
        assert isinstance(weight, Tensor)
        n_positions = output[0, 0].numel() if output.dim() == 4 else 1
        n_multiplications += weight.numel() * n_positions

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    model.train()
    return 2 * 3 * n_multiplications


def measure_matrix_peak(device: torch.device, size: int) -> float:
    """Measure the operations a second of bf16 matrix products of `size` x `size`, the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        product = a @ b
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def measure(arguments: Namespace) -> Report | int:
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: there is nothing to measure; --device cpu rehearses on the processor", file=sys.stderr)
        return 2
    device = torch.device(arguments.device)
    images = Images.draw(arguments.samples)
    settings = TrainSettings.for_dataset(
        "cifar10",
        device=arguments.device,
        model=arguments.model,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs + 1,
        compile=arguments.compile,
        data_on=arguments.data_on,
    )
    model = network.build_network(arguments.model, 3, 10)
    published = arguments.samples / time_published(images, model, device, arguments.epochs, arguments.workers)
    ours = arguments.samples / time_ours(images, settings, arguments.epochs)
    peak = measure_matrix_peak(device, arguments.matrix)
    used = count_operations(network.build_network(arguments.model, 3, 10)) * ours
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = {"published": published, "ours": ours, "peak_share": used / peak}
    (arguments.out / "train_gpu.json").write_text(json.dumps(figures) + "\n")
    text = [
        *format_table(("loop", "images a second"), [("as published", f"{published:,.0f}"), ("ours", f"{ours:,.0f}")]),
        "",
        f"Ratio: {ours / published:.1f}. Ours uses {used / 1e12:.3f} TFLOP/s, {used / peak:.1%} of the "
        f"{peak / 1e12:.3f} that bf16 products of {arguments.matrix} x {arguments.matrix} matrices reach here.",
    ]
    is_rehearsal = device.type == "cpu"
    about = "On the processor, as a rehearsal." if is_rehearsal else f"On {torch.cuda.get_device_name()}."
    claims = [] if is_rehearsal else [claim_throughput(ours / published)]
    return Report("Training throughput", claims, about, text)


STUDY = Benchmark(
    "train_gpu",
    "benchmarks/README.md#on-a-gpu",
    measure,
    options={
        "device": "cuda",
        "model": "resnet34",
        "samples": 50_000,
        "epochs": 3,
        "batch_size": 512,
        "workers": 6,
        "matrix": 8192,
        "data_on": "auto",
        "compile": False,
    },
    packages=("torch",),
    choices={
        "device": ("cuda", "cpu"),
        "model": ("resnet8", "resnet18", "resnet34"),
        "data_on": ("auto", "device", "host"),
    },
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
