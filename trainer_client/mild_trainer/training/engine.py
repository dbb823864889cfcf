"""One epoch of training and one of evaluation, with nothing in them that waits for the device."""

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
from mild_trainer.training.distributed import ALONE, Ranks


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and in which arithmetic to train: bf16 autocast on CUDA, plain float32 elsewhere; and with whom."""

    device: torch.device
    ranks: Ranks = ALONE

    @classmethod
    def choose(cls, settings: TrainSettings) -> "Machine":
        """Return the machine that the settings ask for; ``auto`` is CUDA, else MPS, else the CPU.

        Raises
        ------
        ParameterError
            If it is not there.
        """
        if settings.threads:
            torch.set_num_threads(settings.threads)
        there: dict[DeviceName, bool] = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": True,
        }
        name = settings.device
        if name == "auto":
            name = next(candidate for candidate in there if there[candidate])
        if not there[name]:
            found = ", ".join(candidate for candidate in there if there[candidate])
            raise ParameterError(f"device is {name} and torch finds only {found}; use one of those, or auto")
        if name == "cuda":
            torch.set_float32_matmul_precision("high")
        _repeat_exactly(settings.deterministic)
        ranks = Ranks.current()
        return cls(ranks.device(name), ranks)

    @property
    def on_cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Type of the images that are fed to the network."""
        return torch.bfloat16 if self.on_cuda else torch.float32

    def eval_batch(self, batch_size: int) -> int:
        """Samples per evaluation step: a GPU wants more than in training, a processor's caches do not (measured)."""
        return 4 * batch_size if self.on_cuda else batch_size

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_cuda)


def _repeat_exactly(deterministic: bool) -> None:
    """Have torch choose algorithms that give the same bits every time, or the fastest ones."""
    if deterministic:
        os.putenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS itself, when it starts
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)


def learning_rate(schedule: Schedule, peak: float, step: float, n_steps: int) -> float:
    """Learning rate at `step` of 0..n_steps: falling like a cosine, or rising over the first fifth and then falling."""
    done = step / n_steps
    if schedule == "constant":
        return peak
    if schedule == "one-cycle":
        warm = 0.2
        return peak * (done / warm if done < warm else (1 - done) / (1 - warm))
    return peak * 0.5 * (1 + math.cos(math.pi * done))


class Trainee:
    """A network, its optimiser and where they are: what an epoch changes.

    Parameters
    ----------
    settings
        Name the network and its optimiser.
    machine
        Where they live.
    n_channels, n_classes
        Of the images and of the labels.
    """

    def __init__(self, settings: TrainSettings, machine: Machine, n_channels: int, n_classes: int) -> None:
        self.machine = machine
        self._settings, self._n_channels, self._n_classes = settings, n_channels, n_classes
        self.model = resnet.build(settings.model, n_channels, n_classes)
        self.model.to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs
        if settings.compile:
            self.model.compile()
        self.learner = machine.ranks.wrapped(self.model)
        self.restart()

    def renew(self, seed: int) -> None:
        """Draw fresh weights, into the network that is there: a compiled one stays compiled."""
        torch.manual_seed(seed)
        drawn = resnet.build(self._settings.model, self._n_channels, self._n_classes)
        self.model.load_state_dict(drawn.state_dict())
        self.restart()

    def restart(self) -> None:
        """Keep the weights and forget the momentum."""
        settings = self._settings
        self.optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
            fused=self.machine.on_cuda,
            foreach=not self.machine.on_cuda,
        )


def train_epoch(
    trainee: Trainee,
    images: DeviceImages,
    members: Tensor,
    settings: TrainSettings,
    epoch: int,
    generator: torch.Generator,
    tracker: CorrectnessTracker | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Train on the members once, in random order; each of several ranks on its share of every batch.

    Parameters
    ----------
    trainee
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
        Takes the members' bits as the training pass makes them.
    weights
        Shape (n_samples,), of every sample's loss, on the device; None: all weigh the same.

    Returns
    -------
    loss, accuracy
        Means over the members, still on the device.
    """
    learner, optimiser, machine = trainee.learner, trainee.optimiser, trainee.machine
    ranks = machine.ranks
    learner.train()
    order = ranks.padded_share(members[torch.randperm(len(members), device=machine.device, generator=generator)])
    batch_size = max(2, settings.batch_size // ranks.world)
    n_batches = math.ceil(len(order) / batch_size)
    loss_sum = torch.zeros((), device=machine.device)
    n_right = torch.zeros((), dtype=torch.int64, device=machine.device)

    for step, (indices, x, labels) in enumerate(images.augmented(order, batch_size, ranks.own(generator))):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(
                settings.schedule, settings.lr, epoch * n_batches + step, settings.epochs * n_batches
            )
        with machine.autocast():
            logits = learner(x)
        loss = _loss(logits.float(), labels, settings.label_smoothing, None if weights is None else weights[indices])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()

        logits = logits.detach()
        loss_sum += loss.detach() * len(labels)
        n_right += (logits.argmax(1) == labels).sum()
        if tracker is not None:
            tracker.update(indices, logits, labels)

    ranks.align(trainee.model)
    loss_sum, right_sum, n_seen = ranks.add(torch.stack([loss_sum, n_right, torch.full_like(n_right, len(order))]))
    return loss_sum / n_seen, right_sum / n_seen


def _loss(logits: Tensor, labels: Tensor, label_smoothing: float, weights: Tensor | None) -> Tensor:
    """Mean cross entropy of a batch, each sample's times its weight."""
    if weights is None:
        return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    each = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    return (each * weights).mean()


@torch.inference_mode()
def evaluate(
    trainee: Trainee,
    images: DeviceImages,
    settings: TrainSettings,
    indices: Tensor | None = None,
    tracker: CorrectnessTracker | None = None,
) -> Tensor:
    """Return the accuracy over `indices` (everyone without them), still on the device; the tracker takes the bits."""
    machine = trainee.machine
    trainee.model.eval()
    n_right = torch.zeros((), dtype=torch.int64, device=machine.device)
    if indices is None:
        indices = torch.arange(images.n_samples, device=machine.device)
    for batch, x, labels in images.plain(machine.ranks.share(indices), machine.eval_batch(settings.batch_size)):
        with machine.autocast():
            logits = trainee.model(x)
        n_right += (logits.argmax(1) == labels).sum()
        if tracker is not None:
            tracker.update(batch, logits, labels)
    return machine.ranks.add(n_right) / max(1, len(indices))


@torch.inference_mode()
def predict(trainee: Trainee, images: DeviceImages, settings: TrainSettings) -> Tensor:
    """Return everyone's predicted class, shape (n_samples,), on the device."""
    trainee.model.eval()
    with trainee.machine.autocast():
        batches = images.plain(None, trainee.machine.eval_batch(settings.batch_size))
        return torch.cat([trainee.model(x).argmax(1) for _, x, _ in batches])
