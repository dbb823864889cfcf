"""Training of a finish: a new network, trained by one method until its budget of passes is used up."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mild_trainer.settings import FinishName, TrainSettings
from mild_trainer.training.compute_cost import ComputeCost
from mild_trainer.training.device_samples import DeviceSamples
from mild_trainer.training.engine import TrainState, compute_learning_rate, evaluate
from mild_trainer.training.finetune.contrastive import Contrastive
from mild_trainer.training.finetune.mixmatch import MixMatch
from mild_trainer.training.finetune.pool import Pool


class WeightAverage:
    """Exponential moving average of a network's weights and running statistics.

    See Polyak and Juditsky 1992; Tarvainen and Valpola 2017.

    Parameters
    ----------
    model
        The network, whose own weights stay until `copy_to_model` is called.
    decay
        Factor of the old average in each update, in 0..1. The factor is at most (1 + step) / (10 + step), so that the
        initial weights soon lose their influence.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._step = decay, 0
        # State dictionaries share the network's memory, and steps change it in place.
        self._weights = [value for value in model.state_dict().values() if value.is_floating_point()]
        self._averages = [value.clone() for value in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages with the current weights of the network."""
        self._step += 1
        decay = min(self._decay, (1 + self._step) / (10 + self._step))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Copy the averages into the network."""
        torch._foreach_copy_(self._weights, self._averages)


class Supervised:
    """Method of a finish: cross entropy on the labels of the kept samples only."""

    def __init__(self, settings: TrainSettings, train_state: TrainState, pool: Pool) -> None:
        self._settings, self._train_state = settings, train_state
        self._batches = pool.iter_batches(pool.kept, settings.batch_size)

    def compute_loss(self, progress: float) -> tuple[Tensor, ComputeCost]:
        """Return the loss and the cost of the next batch; `progress` is not used."""
        context = self._train_state.context
        (x,), labels = next(self._batches)
        with context.autocast():
            logits = context.ranks.gathered_forward(self._train_state.parallel_model, x)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self._settings.label_smoothing)
        return loss, ComputeCost.of_training(len(labels))


class FinishMethod(Protocol):
    """Method of a finish, which computes the loss of each training step."""

    def compute_loss(self, progress: float) -> tuple[Tensor, ComputeCost]:
        """Return the loss and the cost of the next batch, after the share `progress` of the training, in 0..1."""


METHODS: Mapping[FinishName, Callable[[TrainSettings, TrainState, Pool], FinishMethod]] = {
    "supervised": Supervised,
    "mixmatch": MixMatch,
    "contrastive": Contrastive,
}


@dataclass(frozen=True, slots=True)
class FinishResult:
    """Result of the training after the last round.

    Attributes
    ----------
    method
        The method that was used; ``supervised`` where no sample was dropped.
    n_kept, n_dropped
        Numbers of samples in the clean set and of the others.
    test_accuracy
        Accuracy of the network on the test set, after the training; None without a test set.
    passes
        Cost of the training.
    seconds
        Wall time.
    """

    method: FinishName
    n_kept: int
    n_dropped: int
    test_accuracy: float | None
    passes: ComputeCost
    seconds: float


def train_finish(
    settings: TrainSettings, train_state: TrainState, pool: Pool, test_samples: DeviceSamples, seed: int
) -> FinishResult:
    """Train new weights by the method `settings.finish` until the budget is used up, and test the network.

    Parameters
    ----------
    settings
        Settings of the training; optimiser and learning rate schedule are those of a round.
    train_state
        The network and its optimiser, changed in place. With `settings.ema`, the network gets the averaged weights.
    pool
        The training samples, of which at least two are kept.
    test_samples
        The test set.
    seed
        Seed of the new weights.

    Notes
    -----
    The budget is `settings.finish_epochs` forward and backward passes of every sample of the data set; where
    `settings.finish_epochs` is 0, it is as many as `settings.epochs`. The budget does not depend on the size of the
    clean set, so that methods are compared at equal cost.
    """
    started = time.perf_counter()
    epochs = settings.finish_epochs or settings.epochs
    budget = ComputeCost.of_training(epochs * pool.samples.n_samples).total
    train_state.reinitialise(seed)
    train_state.model.train()
    name: FinishName = settings.finish if len(pool.dropped) else "supervised"
    method = METHODS[name](settings, train_state, pool)
    average = WeightAverage(train_state.model, settings.ema) if settings.ema else None
    optimiser, cost_so_far = train_state.optimiser, ComputeCost()
    while cost_so_far.total < budget:
        progress = cost_so_far.total / budget
        for group in optimiser.param_groups:
            group["lr"] = compute_learning_rate(settings.schedule, settings.lr, progress, 1)
        loss, cost = method.compute_loss(progress)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        cost_so_far += cost
        if average is not None:
            average.update()
    if average is not None:
        average.copy_to_model()
    train_state.context.ranks.broadcast_buffers(train_state.model)
    test_accuracy = float(evaluate(train_state, test_samples, settings)) if test_samples.n_samples else None
    seconds = time.perf_counter() - started
    return FinishResult(name, len(pool.kept), len(pool.dropped), test_accuracy, cost_so_far, seconds)
