"""One finish: a fresh network trained by one method until its budget of passes is spent.

Exponential moving average of a network's weights (Polyak and Juditsky 1992; Tarvainen and Valpola 2017).

Plain training on the clean set.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from mild_trainer.settings import FinishName, TrainSettings
from mild_trainer.training.augment import DeviceImages
from mild_trainer.training.compute_cost import Passes
from mild_trainer.training.engine import Trainee, evaluate, learning_rate
from mild_trainer.training.finetune.contrastive import Contrastive
from mild_trainer.training.finetune.mixmatch import MixMatch
from mild_trainer.training.finetune.pool import Pool


class Average:
    """Follows a network's weights and running statistics.

    Parameters
    ----------
    model
        The network, which keeps its own weights until `adopt`.
    decay
        What is left of the old average after a step; in the first steps less, as the average starts from nothing:
        (1 + step) / (10 + step).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._step = decay, 0
        # State dictionaries share the network's memory, and steps change it in place.
        self._live = [value for value in model.state_dict().values() if value.is_floating_point()]
        self._averages = [value.clone() for value in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self._step += 1
        decay = min(self._decay, (1 + self._step) / (10 + self._step))
        torch._foreach_lerp_(self._averages, self._live, 1 - decay)

    @torch.no_grad()
    def adopt(self) -> None:
        """Give the network the averages as its weights."""
        torch._foreach_copy_(self._live, self._averages)


class Supervised:
    """Cross entropy on the kept samples' labels."""

    def __init__(self, settings: TrainSettings, trainee: Trainee, pool: Pool) -> None:
        self._settings, self._trainee = settings, trainee
        self._batches = pool.batches(pool.kept, settings.batch_size)

    def step(self, done: float) -> tuple[Tensor, Passes]:
        """Return the loss of the next batch, and what it costs to step along it."""
        machine = self._trainee.machine
        (x,), labels = next(self._batches)
        with machine.autocast():
            logits = machine.ranks.through(self._trainee.learner, x)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self._settings.label_smoothing)
        return loss, Passes.learnt(len(labels))


class Method(Protocol):
    """Makes losses to step along."""

    def step(self, done: float) -> tuple[Tensor, Passes]:
        """Return the next batch's loss and its cost, `done` of 0..1 into the training."""


METHODS: Mapping[FinishName, Callable[[TrainSettings, Trainee, Pool], Method]] = MappingProxyType(
    {"supervised": Supervised, "mixmatch": MixMatch, "contrastive": Contrastive}
)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a finish came to.

    Attributes
    ----------
    method
        As it was trained: where nobody was dropped, ``supervised`` whatever was asked for.
    n_kept, n_dropped
        Samples with trusted labels, and without.
    test_accuracy
        Of the network at the end.
    passes
        What was spent.
    seconds
        Wall clock.
    """

    method: FinishName
    n_kept: int
    n_dropped: int
    test_accuracy: float
    passes: Passes
    seconds: float


def finish(settings: TrainSettings, trainee: Trainee, pool: Pool, test_images: DeviceImages, seed: int) -> Finished:
    """Train fresh weights by `settings.finish`, and test them.

    Parameters
    ----------
    settings
        Name the method; its optimiser and schedule are those of a round.
    trainee
        Its network is renewed and left as trained, with averaged weights where `settings.ema` asks for them.
    pool
        At least two kept samples.
    test_images
        What to test on.
    seed
        Of the fresh weights.

    Notes
    -----
    The budget is a forward and a backward pass of every sample of the data set for each of `settings.finish_epochs`
    (those of a round where that is 0). It is spent whatever the set's size, so that methods compare at equal cost.
    """
    started = time.perf_counter()
    epochs = settings.finish_epochs or settings.epochs
    budget = Passes.learnt(epochs * pool.images.n_samples).total
    trainee.renew(seed)
    trainee.model.train()
    name: FinishName = settings.finish if len(pool.dropped) else "supervised"
    method = METHODS[name](settings, trainee, pool)
    average = Average(trainee.model, settings.ema) if settings.ema else None
    optimiser, spent = trainee.optimiser, Passes()
    while spent.total < budget:
        done = spent.total / budget
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(settings.schedule, settings.lr, done, 1)
        loss, cost = method.step(done)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        spent += cost
        if average is not None:
            average.update()
    if average is not None:
        average.adopt()
    trainee.machine.ranks.align(trainee.model)
    test_accuracy = float(evaluate(trainee, test_images, settings))
    seconds = time.perf_counter() - started
    return Finished(name, len(pool.kept), len(pool.dropped), test_accuracy, spent, seconds)
