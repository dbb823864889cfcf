"""One epoch of training and of evaluation, without synchronising with the device."""

import math
import os
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from mild_client import CorrectnessTracker
from mild_core.errors import ParameterError
from mild_trainer.settings import DeviceName, Schedule, TrainSettings
from mild_trainer.training.device_samples import DeviceSamples
from mild_trainer.training.distributed import SINGLE_PROCESS, Ranks
from mild_trainer.training.network import build_network


@dataclass(frozen=True, slots=True)
class ComputeContext:
    """Device, precision (bf16 autocast on CUDA, float32 elsewhere) and rank of a training."""

    device: torch.device
    ranks: Ranks = SINGLE_PROCESS

    @classmethod
    def from_settings(cls, settings: TrainSettings) -> "ComputeContext":
        """Apply the settings to torch, and return the context.

        The device ``auto`` is CUDA if it is available, else MPS, else the CPU.
        """
        if settings.threads:
            torch.set_num_threads(settings.threads)
        name = choose_device(settings.device)
        if name == "cuda":
            torch.set_float32_matmul_precision("high")
        _configure_algorithms(settings.deterministic)
        ranks = Ranks.current()
        return cls(ranks.select_device(name), ranks)

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the images that the network takes."""
        return torch.bfloat16 if self.is_cuda else torch.float32

    def get_eval_batch_size(self, batch_size: int) -> int:
        """Return the batch size of evaluation, given that of training; on a GPU, a larger one was measured faster."""
        return 4 * batch_size if self.is_cuda else batch_size

    def autocast(self) -> torch.autocast:
        """Return the context manager that sets the precision of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_cuda)


def choose_device(name: DeviceName) -> DeviceName:
    """Return the device of a name; ``auto`` is CUDA if it is available, else MPS, else the CPU."""
    available: dict[DeviceName, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(candidate for candidate in available if available[candidate])
    if not available[name]:
        names = ", ".join(candidate for candidate in available if available[candidate])
        raise ParameterError(f"device is {name} and torch finds only {names}; use one of those, or auto")
    return name


def _configure_algorithms(is_deterministic: bool) -> None:
    """Make torch choose deterministic algorithms, or else the fastest ones."""
    if is_deterministic:
        os.putenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS itself, when it starts
    torch.backends.cudnn.benchmark = not is_deterministic
    torch.use_deterministic_algorithms(is_deterministic)


def compute_learning_rate(schedule: Schedule, peak: float, step: float, n_steps: int) -> float:
    """Return the learning rate at one step of a training.

    Parameters
    ----------
    schedule
        ``constant`` stays at the peak. ``cosine`` falls from the peak to 0. ``one-cycle`` rises linearly from 0 over
        the first fifth of the steps, and then falls linearly to 0.
    peak
        Highest learning rate.
    step
        Number of steps done, in 0..n_steps.
    n_steps
        Number of steps in the training.
    """
    progress = step / n_steps
    if schedule == "constant":
        return peak
    if schedule == "one-cycle":
        warm_up = 0.2
        return peak * (progress / warm_up if progress < warm_up else (1 - progress) / (1 - warm_up))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True)
class ComputeCost:
    """Numbers of samples that passed forward and backward through a network, whatever the hardware.

    Test samples are not counted.

    Attributes
    ----------
    forward
        Samples in forward passes, to train, to record bits, and to guess labels.
    backward
        Samples in backward passes.
    """

    forward: int = 0
    backward: int = 0

    @classmethod
    def of_training(cls, n_samples: int) -> Self:
        """Return the cost of training once on `n_samples` samples: one forward and one backward pass for each."""
        return cls(n_samples, n_samples)

    def __add__(self, other: "ComputeCost") -> "ComputeCost":
        return ComputeCost(self.forward + other.forward, self.backward + other.backward)

    @property
    def total(self) -> int:
        """Sum of forward and backward passes."""
        return self.forward + self.backward

    def describe(self) -> str:
        """Return the counts as text, such as ``1,200 forward and 800 backward passes``."""
        return f"{self.forward:,} forward and {self.backward:,} backward passes"


class TrainState:
    """The network and its optimiser, which training changes in place.

    Parameters
    ----------
    settings
        Name of the network, and parameters of the optimiser.
    context
        Device, precision and rank of the training.
    n_inputs
        Number of channels of the images, or of features.
    n_classes
        Number of classes of the labels.

    Attributes
    ----------
    model
        The network.
    parallel_model
        The network for training passes, which averages gradients over all ranks.
    optimiser
        The optimiser of the network's weights.
    """

    def __init__(self, settings: TrainSettings, context: ComputeContext, n_inputs: int, n_classes: int) -> None:
        self.context = context
        self._settings, self._n_inputs, self._n_classes = settings, n_inputs, n_classes
        self.model = build_network(settings.model, n_inputs, n_classes)
        self.model.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs
        if settings.compile:
            self.model.compile()
        self.parallel_model = context.ranks.wrap_model(self.model)
        self.reset_optimiser()

    def reinitialise(self, seed: int) -> None:
        """Draw new weights for the network from `seed`, and reset the optimiser.

        The weights are copied into the same module, so that a compiled network stays compiled.
        """
        torch.manual_seed(seed)
        fresh_model = build_network(self._settings.model, self._n_inputs, self._n_classes)
        self.model.load_state_dict(fresh_model.state_dict())
        self.reset_optimiser()

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """Change the weights by a step against the gradient of `loss`."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimiser.step()

    def reset_optimiser(self) -> None:
        """Replace the optimiser with a new one, whose momentum buffers are empty; the network keeps its weights."""
        settings = self._settings
        self.optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
            fused=self.context.is_cuda,
            foreach=not self.context.is_cuda,
        )


def train_epoch(
    train_state: TrainState,
    samples: DeviceSamples,
    members: Tensor,
    settings: TrainSettings,
    epoch: int,
    generator: torch.Generator,
    tracker: CorrectnessTracker | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Train once on every member, in random order; each rank trains on its shard of every batch.

    Parameters
    ----------
    train_state
        The network and its optimiser, changed in place.
    samples
        The data set.
    members
        Shape (n_members,), indices of the training samples, on the device.
    settings
        Settings of the training, with the round's number of epochs.
    epoch
        Number of the epoch in its round, which determines the learning rate.
    generator
        Random generator of the device, which draws the order and the augmentation.
    tracker
        Records whether the members are classified correctly in the training pass; None records nothing.
    weights
        Shape (n_samples,), weights of the samples' losses, on the device; None for equal weights.

    Returns
    -------
    loss, accuracy
        Means over the members in the training pass, as scalars on the device.
    """
    model, context = train_state.parallel_model, train_state.context
    ranks = context.ranks
    model.train()
    order = ranks.shard_with_padding(members[torch.randperm(len(members), device=context.device, generator=generator)])
    batch_size = max(2, settings.batch_size // ranks.world_size)
    n_batches = math.ceil(len(order) / batch_size)
    loss_sum = torch.zeros((), device=context.device)
    n_correct = torch.zeros((), dtype=torch.int64, device=context.device)

    for step, (indices, x, labels) in enumerate(
        samples.iter_augmented(order, batch_size, ranks.derive_generator(generator))
    ):
        n_done, n_all = epoch * n_batches + step, settings.epochs * n_batches
        rate = compute_learning_rate(settings.schedule, settings.lr, n_done, n_all)
        with context.autocast():
            logits = model(x)
        loss = _compute_loss(
            logits.float(), labels, settings.label_smoothing, None if weights is None else weights[indices]
        )
        train_state.step(loss, rate)
        logits = logits.detach()
        loss_sum += loss.detach() * len(labels)
        n_correct += (logits.argmax(1) == labels).sum()
        if tracker is not None:
            tracker.update(indices, logits, labels)

    ranks.broadcast_buffers(train_state.model)
    loss_sum, correct_sum, n_seen = ranks.sum_over_ranks(
        torch.stack([loss_sum, n_correct, torch.full_like(n_correct, len(order))])
    )
    return loss_sum / n_seen, correct_sum / n_seen


def _compute_loss(logits: Tensor, labels: Tensor, label_smoothing: float, weights: Tensor | None) -> Tensor:
    """Return the mean cross entropy of a batch; `weights`, shape (n_batch,), multiply the losses of its samples."""
    if weights is None:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    losses = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    return (losses * weights).mean()


@torch.inference_mode()
def evaluate(
    train_state: TrainState,
    samples: DeviceSamples,
    settings: TrainSettings,
    indices: Tensor | None = None,
    tracker: CorrectnessTracker | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Measure the accuracy of the network, and record who is classified correctly.

    Parameters
    ----------
    train_state
        The network, which is switched to evaluation mode.
    samples
        The data set.
    settings
        Settings of the training, for the batch size.
    indices
        Shape (n,), the samples, on the device; None for all samples.
    tracker
        Records whether the samples are classified correctly; None records nothing.
    generator
        Random generator of the device for a recording pass, which draws the dither of features; None changes nothing
        about the samples.

    Returns
    -------
    accuracy
        Share of the samples that are classified correctly, as a scalar on the device; 0 without samples.
    """
    context = train_state.context
    train_state.model.eval()
    n_correct = torch.zeros((), dtype=torch.int64, device=context.device)
    if indices is None:
        indices = torch.arange(samples.n_samples, device=context.device)
    shard, batch_size = context.ranks.shard(indices), context.get_eval_batch_size(settings.batch_size)
    own_generator = None if generator is None else context.ranks.derive_generator(generator)
    for batch, x, labels in samples.iter_plain(shard, batch_size, own_generator):
        with context.autocast():
            logits = train_state.model(x)
        n_correct += (logits.argmax(1) == labels).sum()
        if tracker is not None:
            tracker.update(batch, logits, labels)
    return context.ranks.sum_over_ranks(n_correct) / max(1, len(indices))


@torch.inference_mode()
def predict_classes(train_state: TrainState, samples: DeviceSamples, settings: TrainSettings) -> Tensor:
    """Return the class that the network predicts for every sample, shape (n_samples,), on the device."""
    train_state.model.eval()
    indices = torch.arange(samples.n_samples, device=train_state.context.device)
    with train_state.context.autocast():
        batches = samples.iter_plain(indices, train_state.context.get_eval_batch_size(settings.batch_size))
        return torch.cat([train_state.model(x).argmax(1) for _, x, _ in batches])
