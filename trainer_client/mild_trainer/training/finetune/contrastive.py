"""MixUp with a contrastive term (Ortego et al. 2021, MOIT, arXiv 2012.04462).

Two augmentations of a batch are mixed alike. What each mixed image is pulled towards are the images of the other
augmentation that share its own label, or its partner's, by the shares of the mix (supervised contrastive learning,
Khosla et al. 2020, arXiv 2004.11362). Dropped samples have no label here: each is pulled towards itself alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mild_trainer.settings import TrainSettings
from mild_trainer.training.compute_cost import Passes
from mild_trainer.training.engine import Trainee
from mild_trainer.training.finetune.mixmatch import Mix
from mild_trainer.training.finetune.pool import Pool
from mild_trainer.training.resnet import ResNet

ALPHA = 1.0
"""Of the Beta distribution that mixing shares are drawn from."""
TEMPERATURE = 0.1
"""Of the similarities between projections."""
WEIGHT = 1.0
"""Of the contrastive term."""
PROJECTED = 64
"""Dimensions in which images are compared."""


class _Compared(nn.Module):
    """A network that also projects what its linear layer reads to where images are compared."""

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        n_features = model.head.in_features
        self.model = model
        self.projection = nn.Sequential(nn.Linear(n_features, n_features), nn.ReLU(), nn.Linear(n_features, PROJECTED))

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits and, beside them, projections: (n_batch, n_classes + PROJECTED)."""
        features = self.model.features(x)
        return torch.cat([self.model.head(features), self.projection(features)], 1)


class Contrastive:
    """Cross entropy on mixed labels, and a contrastive term between two views of kept and dropped samples."""

    def __init__(self, settings: TrainSettings, trainee: Trainee, pool: Pool) -> None:
        self._settings, self._trainee, self._pool = settings, trainee, pool
        half = max(2, settings.batch_size // 2)
        self._kept = pool.batches(pool.kept, half, n_views=2)
        self._dropped = pool.batches(pool.dropped, half, n_views=2)
        network = _Compared(trainee.model).to(trainee.machine.device)
        trainee.optimiser.add_param_group({"params": list(network.projection.parameters())})
        self._network = trainee.machine.ranks.wrapped(network)

    def step(self, done: float) -> tuple[Tensor, Passes]:
        """Return the loss of the next batch, and what it costs to step along it."""
        pool, machine = self._pool, self._trainee.machine
        kept, labels = next(self._kept)
        dropped, _ = next(self._dropped)
        n_kept, n_dropped = len(labels), len(dropped[0])
        mix = Mix.draw((n_kept, n_dropped), ALPHA, pool.draws, pool.rng)
        views = [mix.of(torch.cat(parts)) for parts in zip(kept, dropped, strict=True)]

        with machine.autocast():
            values = machine.ranks.through(self._network, torch.cat(views)).float()
        logits, projected = values[:, :-PROJECTED], functional.normalize(values[:, -PROJECTED:])

        themselves = pool.n_classes + torch.arange(n_dropped, device=labels.device)
        own = torch.cat([labels, themselves])
        targets = mix.of(functional.one_hot(own, pool.n_classes + n_dropped).float())[:n_kept, : pool.n_classes]
        smoothing = self._settings.label_smoothing
        labelled = [
            functional.cross_entropy(part[:n_kept], targets, label_smoothing=smoothing) for part in logits.chunk(2)
        ]

        same = (own[:, None] == own).float()
        alike = mix.of(same / same.sum(1, keepdim=True))
        one, other = projected.chunk(2)
        similar = one @ other.T / TEMPERATURE
        pulled = [functional.cross_entropy(similar, alike), functional.cross_entropy(similar.T, alike)]
        return torch.stack(labelled).mean() + WEIGHT * torch.stack(pulled).mean(), Passes.learnt(
            2 * (n_kept + n_dropped)
        )
