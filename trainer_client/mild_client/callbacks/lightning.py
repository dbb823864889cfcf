"""Lightning callback, which gets the correctness bits from the training pass, without another forward pass."""

from collections.abc import Callable
from typing import Any, TypeAlias

import lightning
from torch import Tensor

from mild_client.arguments import to_integer
from mild_client.backend import RoundResult, SelectionBackend
from mild_client.tracker import CorrectnessTracker
from mild_core.errors import ParameterError

Unpack: TypeAlias = Callable[[Any], tuple[Tensor, Tensor]]


def get_indices_and_labels(batch: Any) -> tuple[Tensor, Tensor]:
    """Return the indices and the labels of a batch ``(indices, inputs, labels)``.

    Raises
    ------
    ParameterError
        If the batch is of another form.
    """
    if not isinstance(batch, tuple | list) or len(batch) < 3:
        raise ParameterError(
            f"a batch is a {type(batch).__name__}"
            + (f" of {len(batch)}" if hasattr(batch, "__len__") else "")
            + ", and (indices, inputs, labels) are needed; let the data set return them, or give unpack, a function "
            "that returns indices and labels of your batches"
        )
    return batch[0], batch[-1]


class MildCallback(lightning.Callback):
    """Sends the bits of each epoch to a backend, and finishes a round at the end of each ``fit``.

    After ``fit``, `result` has the clean set of the round.

    The module's ``training_step`` returns ``{"loss": loss, "logits": logits}``, and the batches contain the
    indices of the samples in the whole data set.

    Parameters
    ----------
    backend
        Backend whose run is open; only rank 0 uses it.
    n_samples
        Number of samples of the whole data set.
    round
        Round of the first ``fit``.
    unpack
        Function that returns the indices and labels of a batch, shape (n_batch,) each.
    threshold
        As in `CorrectnessTracker`: for models with a single output, the output above which class 1 is predicted.

    Notes
    -----
    A fit that resumes from a checkpoint goes on at its epoch; any other one begins a round, whose epochs count from 0,
    also where the same trainer fits again.
    """

    def __init__(
        self,
        backend: SelectionBackend,
        n_samples: int,
        round: int = 0,
        unpack: Unpack = get_indices_and_labels,
        threshold: float | None = None,
    ) -> None:
        self.result: RoundResult | None = None
        self._backend, self._unpack, self._threshold = backend, unpack, threshold
        self._n_samples, self._round = to_integer(n_samples, "n_samples", 1), to_integer(round, "round")
        self._tracker: CorrectnessTracker | None = None
        self._n_batches = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Create the tracker of the round, which begins at the epoch of the checkpoint or at 0."""
        self._tracker = CorrectnessTracker(
            self._n_samples,
            pl_module.device,
            run=self._backend if trainer.is_global_zero else None,
            round=self._round,
            epoch=trainer.current_epoch if trainer.ckpt_path is not None else 0,
            threshold=self._threshold,
        )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the predictions of one batch; one that ``training_step`` skipped by returning None is not observed.

        Raises
        ------
        ParameterError
            If ``training_step`` returned no logits.
        """
        assert self._tracker is not None, "a batch comes after the start"
        if not outputs:  # Lightning hands over None as an empty dict
            return
        if not isinstance(outputs, dict) or "logits" not in outputs:
            raise ParameterError(
                f"training_step returns {_describe(outputs)}, and logits are needed; return {{'loss': loss, 'logits': "
                "logits}"
            )
        indices, labels = self._unpack(batch)
        self._tracker.update(indices, outputs["logits"].detach(), labels)
        self._n_batches += 1

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Send the bits of the epoch.

        Raises
        ------
        ParameterError
            If ``training_step`` returned None for all batches.
        """
        assert self._tracker is not None, "an epoch ends after the start"
        if not self._n_batches:
            raise ParameterError(
                "training_step returns nothing in any batch of the epoch, and logits are needed; return {'loss': loss, "
                "'logits': logits}"
            )
        self._n_batches = 0
        self._tracker.end_epoch()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Finish the round on rank 0, and set `result` on all ranks."""
        result = self._backend.finish(self._round) if trainer.is_global_zero else None
        self.result = trainer.strategy.broadcast(result)
        self._round += 1


def _describe(outputs: Any) -> str:
    """Return what a training step has returned, in words."""
    return f"a dict with {', '.join(map(str, outputs))}" if isinstance(outputs, dict) else type(outputs).__name__
