"""Callback of Hugging Face's Trainer: correctness bits from an evaluation pass over all samples after each epoch.

These callbacks see neither logits nor the samples of a batch, so the callback makes this pass itself: the run's `pass`
is ``eval``, and dropped samples are evaluated too.
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
    """Sends each epoch's bits and finishes a round with each ``train``; `result` is then the round's clean set.

    Parameters
    ----------
    backend
        An open backend; only the first of several processes uses it.
    dataset
        The whole data set, in its own order; each sample has ``labels``.
    collate
        Makes a batch of the model's arguments from samples: the trainer's own ``data_collator``.
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
        """Evaluate all samples, and send the bits."""
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
        """Finish the round."""
        if state.is_world_process_zero:
            self.result = self._backend.finish(self._round)
        self._round += 1

    def _evaluate_batch(self, model: torch.nn.Module, batch: dict[str, torch.Tensor], device: torch.device) -> Any:
        if "labels" not in batch:
            raise ParameterError(f"a batch holds {', '.join(batch)} and no labels; give the collator that adds them")
        logits = model(**{name: part.to(device) for name, part in batch.items()})["logits"]
        return (logits.argmax(-1).cpu() == batch["labels"].cpu()).numpy()


def attach(trainer: Trainer, backend: SelectionBackend, round: int = 0) -> MildCallback:
    """Add a `MildCallback` with the trainer's own data set and collator to a trainer, and return it."""
    assert trainer.train_dataset is not None, "a trainer has something to train on"
    callback = MildCallback(backend, trainer.train_dataset, trainer.data_collator, round)
    trainer.add_callback(callback)
    return callback
