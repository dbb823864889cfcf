"""One epoch of training and of evaluation, without synchronising with the device."""

import math
import os
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mild_client import CorrectnessTracker
from mild_core.errors import ParameterError
from mild_trainer.settings import DeviceName, Schedule, TrainSettings
from mild_trainer.training import resnet
from mild_trainer.training.augment import DeviceImages
from mild_trainer.training.distributed import SINGLE_PROCESS, Ranks


@dataclass(frozen=True, slots=True)
class ComputeContext:
    """Device, precision (bf16 autocast on CUDA, float32 elsewhere) and rank of a training."""

    device: torch.device
    ranks: Ranks = SINGLE_PROCESS

    @classmethod
    def from_settings(cls, settings: TrainSettings) -> "ComputeContext":
        """Return the context of the settings; the device ``auto`` is CUDA, else MPS, else the CPU.

        Raises
        ------
        ParameterError
            If the device is not available.
        """
        if settings.threads:
            torch.set_num_threads(settings.threads)
        available: dict[DeviceName, bool] = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": True,
        }
        name = settings.device
        if name == "auto":
            name = next(candidate for candidate in available if available[candidate])
        if not available[name]:
            names = ", ".join(candidate for candidate in available if available[candidate])
            raise ParameterError(f"device is {name} and torch finds only {names}; use one of those, or auto")
        if name == "cuda":
            torch.set_float32_matmul_precision("high")
        _set_deterministic(settings.deterministic)
        ranks = Ranks.current()
        return cls(ranks.select_device(name), ranks)

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's input."""
        return torch.bfloat16 if self.is_cuda else torch.float32

    def eval_batch_size(self, batch_size: int) -> int:
        """Return the batch size of evaluation: larger than in training on a GPU, where that was measured faster."""
        return 4 * batch_size if self.is_cuda else batch_size

    def autocast(self) -> torch.autocast:
        """Return the context manager of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_cuda)


def _set_deterministic(deterministic: bool) -> None:
    """Let torch choose deterministic algorithms, or else the fastest ones."""
    if deterministic:
        os.putenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS itself, when it starts
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)


def learning_rate(schedule: Schedule, peak: float, step: float, n_steps: int) -> float:
    """Return the learning rate at `step` of 0..n_steps.

    ``cosine`` falls from the peak to 0; ``one-cycle`` rises linearly over the first fifth and falls linearly to 0.
    """
    progress = step / n_steps
    if schedule == "constant":
        return peak
    if schedule == "one-cycle":
        warm_up = 0.2
        return peak * (progress / warm_up if progress < warm_up else (1 - progress) / (1 - warm_up))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


class TrainState:
    """The network, its optimiser and their device: the state that an epoch changes.

    Parameters
    ----------
    settings
        Names the network, and has the parameters of the optimiser.
    machine
        Where they live.
    n_channels, n_classes
        Of the images and of the labels.
    """

    def __init__(self, settings: TrainSettings, context: ComputeContext, n_channels: int, n_classes: int) -> None:
        self.context = context
        self._settings, self._n_channels, self._n_classes = settings, n_channels, n_classes
        self.model = resnet.build(settings.model, n_channels, n_classes)
        self.model.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs
        if settings.compile:
            self.model.compile()
        self.parallel_model = context.ranks.wrap_model(self.model)
        self.reset_optimiser()

    def reinitialise(self, seed: int) -> None:
        """Draw new weights into the same module, so that a compiled network stays compiled, and reset the optimiser."""
        torch.manual_seed(seed)
        fresh_model = resnet.build(self._settings.model, self._n_channels, self._n_classes)
        self.model.load_state_dict(fresh_model.state_dict())
        self.reset_optimiser()

    def reset_optimiser(self) -> None:
        """Create a new optimiser, without momentum, for the same weights."""
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
    images: DeviceImages,
    members: Tensor,
    settings: TrainSettings,
    epoch: int,
    generator: torch.Generator,
    tracker: CorrectnessTracker | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Train on the members once, in random order; each rank on its shard of every batch.

    Parameters
    ----------
    train_state
        The network and its optimiser, changed in place.
    images
        The data set.
    members
        Shape (n_members,), indices on the device.
    settings
        The training's settings.
    epoch
        Number of the epoch in its round, for the learning rate.
    generator
        Draws the order and the augmentation.
    tracker
        Records the members' bits of the training pass.
    weights
        Shape (n_samples,), weights of the samples' losses, on the device; None: equal weights.

    Returns
    -------
    loss, accuracy
        Means over the members, still on the device.
    """
    model, optimiser, context = train_state.parallel_model, train_state.optimiser, train_state.context
    ranks = context.ranks
    model.train()
    order = ranks.padded_shard(members[torch.randperm(len(members), device=context.device, generator=generator)])
    batch_size = max(2, settings.batch_size // ranks.world_size)
    n_batches = math.ceil(len(order) / batch_size)
    loss_sum = torch.zeros((), device=context.device)
    n_correct = torch.zeros((), dtype=torch.int64, device=context.device)

    for step, (indices, x, labels) in enumerate(
        images.iter_augmented(order, batch_size, ranks.derive_generator(generator))
    ):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(
                settings.schedule, settings.lr, epoch * n_batches + step, settings.epochs * n_batches
            )
        with context.autocast():
            logits = model(x)
        loss = _loss(logits.float(), labels, settings.label_smoothing, None if weights is None else weights[indices])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()

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


def _loss(logits: Tensor, labels: Tensor, label_smoothing: float, weights: Tensor | None) -> Tensor:
    """Return the mean cross entropy of a batch, weighted by sample."""
    if weights is None:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    losses = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    return (losses * weights).mean()


@torch.inference_mode()
def evaluate(
    train_state: TrainState,
    images: DeviceImages,
    settings: TrainSettings,
    indices: Tensor | None = None,
    tracker: CorrectnessTracker | None = None,
) -> Tensor:
    """Return the accuracy over `indices` (None: all samples), on the device; `tracker` records the bits."""
    context = train_state.context
    train_state.model.eval()
    n_correct = torch.zeros((), dtype=torch.int64, device=context.device)
    if indices is None:
        indices = torch.arange(images.n_samples, device=context.device)
    for batch, x, labels in images.iter_plain(
        context.ranks.shard(indices), context.eval_batch_size(settings.batch_size)
    ):
        with context.autocast():
            logits = train_state.model(x)
        n_correct += (logits.argmax(1) == labels).sum()
        if tracker is not None:
            tracker.update(batch, logits, labels)
    return context.ranks.sum_over_ranks(n_correct) / max(1, len(indices))


@torch.inference_mode()
def predict(train_state: TrainState, images: DeviceImages, settings: TrainSettings) -> Tensor:
    """Return the predicted class of all samples, shape (n_samples,), on the device."""
    train_state.model.eval()
    with train_state.context.autocast():
        batches = images.iter_plain(None, train_state.context.eval_batch_size(settings.batch_size))
        return torch.cat([train_state.model(x).argmax(1) for _, x, _ in batches])
