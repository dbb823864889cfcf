"""Training a new network after the last round, on the clean set and, by method, on the dropped samples' images.

`supervised` trains on the clean set alone; `mixmatch` uses the dropped samples as unlabelled images; `contrastive`
mixes images and pulls similar ones together. All methods have the same budget of forward and backward passes.

Several ranks draw the same batches and mixes, and gather all outputs (`Ranks.gathered_forward`), so that the methods
are written as for one process: guesses, partners and comparisons are those of the whole batch.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mild_trainer.settings import FinishName, TrainSettings
from mild_trainer.training.device_samples import DeviceSamples
from mild_trainer.training.engine import ComputeCost, TrainState, compute_learning_rate, evaluate
from mild_trainer.training.network import Network

Views: TypeAlias = tuple[tuple[Tensor, ...], Tensor]
"""Several augmentations of one batch of images, each (n_batch, n_channels, height, width), and the labels."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The kept and dropped samples of a finish, and the random generators of their batches.

    Attributes
    ----------
    samples
        The data set, with the given labels.
    kept, dropped
        Shape (n,), indices of the samples in the clean set and of the others, on the device.
    n_classes
        Number of classes; labels are 0..n_classes-1.
    generator
        Random generator of the device, which draws the order and the augmentation.
    rng
        Random generator of the host, which draws the shares of mixed images without waiting for the device.
    """

    samples: DeviceSamples
    kept: Tensor
    dropped: Tensor
    n_classes: int
    generator: torch.Generator
    rng: np.random.Generator

    def iter_batches(self, indices: Tensor, batch_size: int, n_views: int = 1) -> Iterator[Views]:
        """Yield batches without end; the samples are put in a new random order after each pass.

        Parameters
        ----------
        indices
            Shape (n,), the samples, on the device.
        batch_size
            Number of samples in a batch.
        n_views
            Number of augmentations of each image.
        """
        while True:
            order = indices[torch.randperm(len(indices), device=indices.device, generator=self.generator)]
            views = [self.samples.iter_augmented(order, batch_size, self.generator) for _ in range(n_views)]
            for batch in zip(*views, strict=True):
                yield tuple(x for _, x, _ in batch), batch[0][2]


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """How to mix the samples of one batch: a partner for every sample, and one share for all.

    Attributes
    ----------
    partners
        Shape (n_batch,), a permutation on the device.
    share
        Weight of the sample itself, in 0.5..1; the weight of its partner is 1 - share.
    """

    partners: Tensor
    share: float

    @classmethod
    def draw(
        cls, group_sizes: Sequence[int], alpha: float, generator: torch.Generator, rng: np.random.Generator
    ) -> "Mix":
        """Draw partners and the share at random.

        Parameters
        ----------
        group_sizes
            Numbers of samples in consecutive groups of the batch; partners are drawn within a group.
        alpha
            Parameter of the distribution Beta(alpha, alpha) of the share.
        generator
            Random generator of the device, which draws the partners.
        rng
            Random generator of the host, which draws the share.
        """
        share = float(rng.beta(alpha, alpha))
        partners = [torch.randperm(n, device=generator.device, generator=generator) for n in group_sizes]
        starts = [sum(group_sizes[:i]) for i in range(len(group_sizes))]
        all_partners = torch.cat([start + part for start, part in zip(starts, partners, strict=True)])
        return cls(all_partners, max(share, 1 - share))

    def apply(self, values: Tensor) -> Tensor:
        """Return the weighted mean of every sample's values and its partner's; `values` has shape (n_batch, …)."""
        return self.share * values + (1 - self.share) * values[self.partners]


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


N_GUESSES = 2
"""Number of augmentations whose predictions are averaged into a guessed label."""
MIXMATCH_TEMPERATURE = 0.5
"""Guessed class probabilities are raised to the power 1 / temperature and normalised, which sharpens them."""
MIXMATCH_ALPHA = 0.75
"""Parameter of the Beta distribution of mixing shares."""
UNLABELLED_WEIGHT = 25.0
"""Weight of the loss of guessed labels at the end of the training, linearly increased from 0. The paper's 75 is for a
thousand epochs: on digits, seeds 100 and above, trainings of some hundred steps collapsed into one class with it."""


class MixMatch:
    """Method of a finish: cross entropy on mixed labels, and squared error on guessed labels of the dropped samples.

    See Berthelot et al. 2019, arXiv 1905.02249. It includes MixUp (Zhang et al. 2018, arXiv 1710.09412): training on
    weighted means of images and of their targets.
    """

    def __init__(self, settings: TrainSettings, train_state: TrainState, pool: Pool) -> None:
        self._settings, self._train_state, self._pool = settings, train_state, pool
        self._kept = pool.iter_batches(pool.kept, settings.batch_size)
        self._dropped = pool.iter_batches(pool.dropped, settings.batch_size, N_GUESSES)

    def compute_loss(self, progress: float) -> tuple[Tensor, ComputeCost]:
        """Return the loss and the cost of the next batch; guessed labels weigh more at a higher `progress`, in 0..1."""
        pool, train_state, context = self._pool, self._train_state, self._train_state.context
        ranks = context.ranks
        (x,), labels = next(self._kept)
        unlabelled, _ = next(self._dropped)
        n_labelled, n_guessed = len(x), N_GUESSES * len(unlabelled[0])

        all_views = torch.cat(unlabelled)
        with torch.no_grad(), context.autocast():
            predicted = ranks.gathered_forward(train_state.model, all_views).float().softmax(1)
            guessed_targets = _sharpen(torch.stack(predicted.chunk(N_GUESSES)).mean(0))
        targets = torch.cat([functional.one_hot(labels, pool.n_classes).float(), *[guessed_targets] * N_GUESSES])

        mix = Mix.draw((n_labelled + n_guessed,), MIXMATCH_ALPHA, pool.generator, pool.rng)
        with context.autocast():
            logits = ranks.gathered_forward(train_state.parallel_model, mix.apply(torch.cat([x, all_views]))).float()
        mixed_targets = mix.apply(targets)
        label_loss = functional.cross_entropy(
            logits[:n_labelled], mixed_targets[:n_labelled], label_smoothing=self._settings.label_smoothing
        )
        guess_loss = functional.mse_loss(logits[n_labelled:].softmax(1), mixed_targets[n_labelled:])
        cost = ComputeCost(forward=n_guessed) + ComputeCost.of_training(n_labelled + n_guessed)
        return label_loss + UNLABELLED_WEIGHT * progress * guess_loss, cost


def _sharpen(probabilities: Tensor) -> Tensor:
    """Move the class probabilities, shape (n_batch, n_classes), towards their largest value."""
    powers = probabilities ** (1 / MIXMATCH_TEMPERATURE)
    sharpened: Tensor = powers / powers.sum(1, keepdim=True)
    return sharpened


CONTRASTIVE_ALPHA = 1.0
"""Parameter of the Beta distribution of mixing shares."""
CONTRASTIVE_TEMPERATURE = 0.1
"""Temperature of the similarities between projections."""
CONTRASTIVE_WEIGHT = 1.0
"""Weight of the contrastive term."""
N_PROJECTED = 64
"""Dimensions of the projections."""


class _ProjectionModel(nn.Module):
    """A network with a second head, which projects the features to vectors that are compared."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        n_features = model.head.in_features
        self.model = model
        self.projection = nn.Sequential(
            nn.Linear(n_features, n_features), nn.ReLU(), nn.Linear(n_features, N_PROJECTED)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits and projections, concatenated: (n_batch, n_classes + N_PROJECTED)."""
        features = self.model.compute_features(x)
        return torch.cat([self.model.head(features), self.projection(features)], 1)


class Contrastive:
    """Method of a finish: cross entropy on mixed labels, and a contrastive loss between two views of every image.

    See MOIT (Ortego et al. 2021, arXiv 2012.04462). Two augmentations of a batch are mixed in the same way. Each mixed
    image is pulled towards the images of the other augmentation that share its label, or its partner's, weighted by the
    shares of the mix (supervised contrastive learning, Khosla et al. 2020, arXiv 2004.11362). Dropped samples have no
    label here: each is pulled only towards itself.
    """

    def __init__(self, settings: TrainSettings, train_state: TrainState, pool: Pool) -> None:
        self._settings, self._train_state, self._pool = settings, train_state, pool
        half = max(2, settings.batch_size // 2)
        self._kept = pool.iter_batches(pool.kept, half, n_views=2)
        self._dropped = pool.iter_batches(pool.dropped, half, n_views=2)
        network = _ProjectionModel(train_state.model).to(train_state.context.device)
        train_state.optimiser.add_param_group({"params": list(network.projection.parameters())})
        self._network = train_state.context.ranks.wrap_model(network)

    def compute_loss(self, progress: float) -> tuple[Tensor, ComputeCost]:
        """Return the loss and the cost of the next batch; `progress` is not used."""
        pool, context = self._pool, self._train_state.context
        kept, labels = next(self._kept)
        dropped, _ = next(self._dropped)
        n_kept, n_dropped = len(labels), len(dropped[0])
        mix = Mix.draw((n_kept, n_dropped), CONTRASTIVE_ALPHA, pool.generator, pool.rng)
        views = [mix.apply(torch.cat(parts)) for parts in zip(kept, dropped, strict=True)]

        with context.autocast():
            values = context.ranks.gathered_forward(self._network, torch.cat(views)).float()
        logits, projected = values[:, :-N_PROJECTED], functional.normalize(values[:, -N_PROJECTED:])

        own_targets = pool.n_classes + torch.arange(n_dropped, device=labels.device)
        identities = torch.cat([labels, own_targets])
        one_hot = functional.one_hot(identities, pool.n_classes + n_dropped).float()
        targets = mix.apply(one_hot)[:n_kept, : pool.n_classes]
        smoothing = self._settings.label_smoothing
        label_losses = [
            functional.cross_entropy(part[:n_kept], targets, label_smoothing=smoothing) for part in logits.chunk(2)
        ]

        is_same = (identities[:, None] == identities).float()
        match_targets = mix.apply(is_same / is_same.sum(1, keepdim=True))
        first_view, second_view = projected.chunk(2)
        similarities = first_view @ second_view.T / CONTRASTIVE_TEMPERATURE
        contrastive_losses = [functional.cross_entropy(rows, match_targets) for rows in (similarities, similarities.T)]
        loss = torch.stack(label_losses).mean() + CONTRASTIVE_WEIGHT * torch.stack(contrastive_losses).mean()
        return loss, ComputeCost.of_training(2 * (n_kept + n_dropped))


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
    cost_so_far = ComputeCost()
    while cost_so_far.total < budget:
        progress = cost_so_far.total / budget
        loss, cost = method.compute_loss(progress)
        train_state.step(loss, compute_learning_rate(settings.schedule, settings.lr, progress, 1))
        cost_so_far += cost
        if average is not None:
            average.update()
    if average is not None:
        average.copy_to_model()
    train_state.context.ranks.broadcast_buffers(train_state.model)
    test_accuracy = float(evaluate(train_state, test_samples, settings)) if test_samples.n_samples else None
    seconds = time.perf_counter() - started
    return FinishResult(name, len(pool.kept), len(pool.dropped), test_accuracy, cost_so_far, seconds)
