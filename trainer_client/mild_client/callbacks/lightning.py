"""Lightning callback: correctness bits from the training pass itself, without another forward pass."""

from collections.abc import Callable
from typing import Any, TypeAlias

import lightning
from torch import Tensor

from mild_client.backend import RoundResult, SelectionBackend
from mild_client.tracker import CorrectnessTracker
from mild_core.errors import ParameterError

Unpack: TypeAlias = Callable[[Any], tuple[Tensor, Tensor]]


def get_indices_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the first and the last part of a batch ``(indices, inputs, labels)``."""
    return batch[0], batch[-1]


class MildCallback(lightning.Callback):
    """Sends each epoch's bits and finishes a round with each ``fit``; `result` is then the round's clean set.

    The module's ``training_step`` returns ``{"loss": loss, "logits": logits}``, and the batches carry the samples'
    indices in the whole data set.

    Parameters
    ----------
    backend
        An open backend; only the first of several processes uses it.
    n_samples
        Number of samples of the whole data set.
    round
        Round of the first ``fit``.
    unpack
        Returns the indices and labels of a batch, shape (n_batch,) each.
    """

    def __init__(
        self, backend: SelectionBackend, n_samples: int, round: int = 0, unpack: Unpack = get_indices_and_labels
    ) -> None:
        self.result: RoundResult | None = None
        self._backend, self._n_samples, self._round, self._unpack = backend, n_samples, round, unpack
        self._tracker: CorrectnessTracker | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin a round, or resume it at the epoch of the checkpoint."""
        self._tracker = CorrectnessTracker(
            self._n_samples,
            pl_module.device,
            run=self._backend if trainer.is_global_zero else None,
            round=self._round,
            epoch=trainer.current_epoch,
        )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record one batch.

        Raises
        ------
        ParameterError
            If ``training_step`` returned no logits.
        """
        assert self._tracker is not None, "a batch comes after the start"
        if not isinstance(outputs, dict) or "logits" not in outputs:
            raise ParameterError("training_step returns no logits; return {'loss': loss, 'logits': logits}")
        indices, labels = self._unpack(batch)
        self._tracker.update(indices, outputs["logits"].detach(), labels)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Send the epoch's bits."""
        assert self._tracker is not None, "an epoch ends after the start"
        self._tracker.end_epoch()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Finish the round; every process gets the result."""
        result = self._backend.finish(self._round) if trainer.is_global_zero else None
        self.result = trainer.strategy.broadcast(result)
        self._round += 1
