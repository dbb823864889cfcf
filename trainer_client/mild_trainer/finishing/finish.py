"""One finish: a fresh network trained by one method until its budget of passes is spent."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from mild_trainer.augment import DeviceImages
from mild_trainer.engine import Trainee, evaluate, learning_rate
from mild_trainer.finishing.average import Average
from mild_trainer.finishing.contrastive import Contrastive
from mild_trainer.finishing.mixmatch import MixMatch
from mild_trainer.finishing.pool import Pool
from mild_trainer.finishing.supervised import Supervised
from mild_trainer.passes import Passes
from mild_trainer.settings import FinishName, TrainSettings


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
