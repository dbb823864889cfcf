"""Callback of Hugging Face's Trainer, which evaluates all samples after each epoch to get the correctness bits.

The framework passes neither logits nor sample indices to callbacks, so the callback evaluates the model itself. The
run's `pass` is therefore ``eval``, and dropped samples are evaluated too.
"""

import math
from typing import Any

from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mild_client.arguments import to_integer
from mild_client.backend import RoundResult, SelectionBackend
from mild_client.outcomes import OutcomeRecorder
from mild_core.errors import ParameterError

_EPOCH_TOLERANCE = 1e-6
"""Largest error of the sum of the steps' shares of an epoch."""


class MildCallback(TrainerCallback):
    """Sends the bits of each epoch to a backend, and finishes a round at the end of each ``train``.

    After ``train``, `result` has the clean set of the round, on the first rank.

    The evaluation pass has the trainer's own loader, collator, columns, label names and precision, and is shared by all
    ranks. An epoch that ``max_steps`` or a fraction of ``num_train_epochs`` cuts short is evaluated at its end, too.

    Parameters
    ----------
    backend
        Backend whose run is open; only rank 0 uses it.
    trainer
        The trainer that the callback belongs to.
    dataset
        The whole data set, in the order of the sample indices, always the same; None takes the training set of the
        trainer.
    round
        Round of the first ``train``.
    threshold
        Output above which a sample is predicted as class 1, for models with a single output (``num_labels=1``): 0 for
        logits. None for models with an output for each class.
    """

    def __init__(
        self,
        backend: SelectionBackend,
        trainer: Trainer,
        dataset: Dataset[Any] | None = None,
        round: int = 0,
        threshold: float | None = None,
    ) -> None:
        self.result: RoundResult | None = None
        self._backend, self._trainer = backend, trainer
        self._dataset = trainer.train_dataset if dataset is None else dataset
        if self._dataset is None:
            raise ParameterError("the trainer has no train_dataset, and no dataset is given; give the whole data set")
        self._round = to_integer(round, "round")
        self._recorder = OutcomeRecorder(threshold)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate all samples, and send the bits of the epoch on rank 0.

        Raises
        ------
        ParameterError
            If the batches have no labels, or come in another order than in the first epoch, or the outputs are not
            those of one class for each sample.
        """
        trainer, model = self._trainer, kwargs["model"]
        was_training = model.training
        model.eval()
        drop_last, args.dataloader_drop_last = args.dataloader_drop_last, False  # of the training alone
        loader = trainer.get_eval_dataloader(self._dataset)
        args.dataloader_drop_last = drop_last
        for batch in loader:
            step: tuple[Any, Any, Any] = trainer.prediction_step(model, batch, prediction_loss_only=False)
            _, logits, labels = step
            if labels is None or isinstance(labels, tuple):
                raise ParameterError(
                    f"a batch holds {', '.join(batch)}, of which {', '.join(trainer.label_names) or 'none'} are the "
                    "labels, and one column of labels is needed; name it in TrainingArguments(label_names=[…]), or "
                    "let the collator add it as `labels`"
                )
            if isinstance(logits, tuple):  # the other outputs, such as hidden states, follow
                logits = logits[0]
            outcomes = self._recorder.compute(logits, labels)
            self._recorder.add_outcomes(*trainer.accelerator.gather_for_metrics(outcomes))
        model.train(was_training)
        epoch = max(math.ceil((state.epoch or 0) - _EPOCH_TOLERANCE) - 1, 0)
        bits = self._recorder.take(self._round, epoch)
        if state.is_world_process_zero:
            self._backend.put_epoch(self._round, epoch, bits)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finish the round on rank 0, and set `result` there."""
        if state.is_world_process_zero:
            self.result = self._backend.finish(self._round)
        self._round += 1


def attach(trainer: Trainer, backend: SelectionBackend, round: int = 0, threshold: float | None = None) -> MildCallback:
    """Add a `MildCallback` to `trainer`, with the training set of the trainer, and return the callback."""
    callback = MildCallback(backend, trainer, round=round, threshold=threshold)
    trainer.add_callback(callback)
    return callback
