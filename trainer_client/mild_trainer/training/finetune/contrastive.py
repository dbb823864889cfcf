"""MixUp with a contrastive term (Ortego et al. 2021, MOIT, arXiv 2012.04462).

Two augmentations of a batch are mixed in the same way. Each mixed image is pulled towards the images of the other
augmentation that share its label, or its partner's, weighted by the shares of the mix (supervised contrastive learning,
Khosla et al. 2020, arXiv 2004.11362). Dropped samples have no label here: each is pulled only towards itself.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mild_trainer.settings import TrainSettings
from mild_trainer.training.compute_cost import ComputeCost
from mild_trainer.training.engine import TrainState
from mild_trainer.training.finetune.mixmatch import Mix
from mild_trainer.training.finetune.pool import Pool
from mild_trainer.training.network import Network

ALPHA = 1.0
"""Parameter of the Beta distribution of mixing shares."""
TEMPERATURE = 0.1
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
    """Method of a finish: cross entropy on mixed labels, and a contrastive loss between two views of every image."""

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
        mix = Mix.draw((n_kept, n_dropped), ALPHA, pool.generator, pool.rng)
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
        similarities = first_view @ second_view.T / TEMPERATURE
        contrastive_losses = [functional.cross_entropy(rows, match_targets) for rows in (similarities, similarities.T)]
        loss = torch.stack(label_losses).mean() + CONTRASTIVE_WEIGHT * torch.stack(contrastive_losses).mean()
        return loss, ComputeCost.of_training(2 * (n_kept + n_dropped))
