"""Callback of Hugging Face's Trainer, which evaluates all samples after each epoch to get the correctness bits.

The framework passes neither logits nor sample indices to callbacks, so the callback evaluates the model itself. The
run's `pass` is therefore ``eval``, and dropped samples are evaluated too.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mild_client.backend import RoundResult, SelectionBackend
from mild_core import bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits


class MildCallback(TrainerCallback):
    """Sends the bits of each epoch to a backend, and finishes a round at the end of each ``train``.

    After ``train``, `result` has the clean set of the round.

    Parameters
    ----------
    backend
        Backend whose run is open; only rank 0 uses it.
    dataset
        The whole data set, in the order of the sample indices; each sample has ``labels``.
    collate
        Function that makes a batch of the model's arguments from samples, such as the trainer's ``data_collator``.
    round
        Round of the first ``train``.
    """

    def __init__(
        self,
        backend: SelectionBackend,
        dataset: Dataset[Any],
        collate: Callable[[list[Any]], dict[str, torch.Tensor]],
        round: int = 0,
    ) -> None:
        self.result: RoundResult | None = None
        self._backend, self._dataset, self._collate, self._round = backend, dataset, collate, round

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate all samples on rank 0, and send the bits of the epoch."""
        if not state.is_world_process_zero:
            return
        model, device = kwargs["model"], args.device
        was_training = model.training
        model.eval()
        loader = DataLoader(self._dataset, batch_size=args.per_device_eval_batch_size, collate_fn=self._collate)
        with torch.inference_mode():
            correct = np.concatenate([self._evaluate_batch(model, batch, device) for batch in loader])
        model.train(was_training)
        epoch = round(state.epoch or 1) - 1
        self._backend.put_epoch(self._round, epoch, EpochBits(correct.size, bitmap.pack(correct)))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finish the round on rank 0, and set `result` there."""
        if state.is_world_process_zero:
            self.result = self._backend.finish(self._round)
        self._round += 1

    def _evaluate_batch(self, model: torch.nn.Module, batch: dict[str, torch.Tensor], device: torch.device) -> Any:
        """Return whether the model predicts each given label of a batch, a boolean array of shape (n_batch,)."""
        if "labels" not in batch:
            raise ParameterError(f"a batch holds {', '.join(batch)} and no labels; give the collator that adds them")
        logits = model(**{name: part.to(device) for name, part in batch.items()})["logits"]
        return (logits.argmax(-1).cpu() == batch["labels"].cpu()).numpy()


def attach(trainer: Trainer, backend: SelectionBackend, round: int = 0) -> MildCallback:
    """Add a `MildCallback` to `trainer`, with the data set and collator of the trainer, and return the callback."""
    assert trainer.train_dataset is not None, "a trainer has something to train on"
    callback = MildCallback(backend, trainer.train_dataset, trainer.data_collator, round)
    trainer.add_callback(callback)
    return callback
