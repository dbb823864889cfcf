"""Keras 3 callback, which evaluates all samples after each epoch to get the correctness bits.

The framework passes neither logits nor sample indices to callbacks, so the callback evaluates the model itself. The
run's `pass` is therefore ``eval``, and dropped samples are evaluated too.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from mild_client.arguments import to_classes, to_integer
from mild_client.backend import RoundResult, SelectionBackend
from mild_client.outcomes import OutcomeRecorder
from mild_core.errors import ParameterError


class MildCallback(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
    """Sends the bits of each epoch to a backend, and finishes a round at the end of each ``fit``.

    After ``fit``, `result` has the clean set of the round.

    Parameters
    ----------
    backend
        Backend whose run is open.
    inputs
        Inputs of all samples, as ``model.predict`` takes them, in the order of `labels`. The labels of a loader's
        batches are compared with `labels`.
    labels
        Shape (n_samples,), the given labels as integers.
    round
        Round of the first ``fit``.
    batch_size
        Batch size of the evaluation pass.
    threshold
        Output above which a sample is predicted as class 1, for models with a single output: 0.5 for a sigmoid. None
        for models with an output for each class.

    Raises
    ------
    ParameterError
        If the labels are not one class number for each sample.

    Notes
    -----
    The epochs have the numbers of ``fit``: with ``initial_epoch=5``, the backend is opened with
    ``resume_from=Position(round, 5)``. A sample whose outputs are NaN or infinite counts as unobserved; a warning says
    so once.
    """

    def __init__(
        self,
        backend: SelectionBackend,
        inputs: Any,
        labels: ArrayLike,
        round: int = 0,
        batch_size: int = 512,
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        self.result: RoundResult | None = None
        self._backend, self._inputs, self._labels = backend, inputs, to_classes(labels, "labels")
        self._round, self._batch_size = to_integer(round, "round"), batch_size
        self._recorder = OutcomeRecorder(threshold)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate all samples, and send the bits of the epoch.

        Raises
        ------
        ParameterError
            If the outputs are not those of one class for each sample, or a loader's labels are others than `labels`.
        """
        if hasattr(self._inputs, "shape") or isinstance(self._inputs, list | tuple | dict):
            outputs = self.model.predict(self._inputs, batch_size=self._batch_size, verbose=0)
        else:
            labels: list[Any] = []
            outputs = self.model.predict(_iter_batches(self._inputs, labels), verbose=0)
            _check_order(labels, self._labels)
        if not hasattr(outputs, "shape"):
            raise ParameterError(
                f"the model has {len(outputs)} outputs, one with a class for each sample is needed; record the right "
                "one yourself with put_epoch"
            )
        self._recorder.add(np.asarray(outputs), self._labels)
        self._backend.put_epoch(self._round, epoch, self._recorder.take(self._round, epoch))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Finish the round, and set `result`."""
        self.result = self._backend.finish(self._round)
        self._round += 1


def _iter_batches(loader: Any, labels: list[Any]) -> Iterator[Any]:
    """Yield the batches of a loader, and append their labels to `labels`, if they have any."""
    is_indexed = isinstance(loader, keras.utils.PyDataset)
    for batch in (loader[position] for position in range(len(loader))) if is_indexed else loader:
        if isinstance(batch, tuple | list) and len(batch) > 1:
            labels.append(np.asarray(batch[1]))
        yield tuple(batch) if isinstance(batch, list) else batch


def _check_order(batches: list[Any], labels: Any) -> None:
    """Raise ParameterError if the labels of a loader's batches, as numbers or one-hot rows, are not `labels`."""
    if not batches:
        return
    classes = [batch.argmax(-1) if batch.ndim > 1 and batch.shape[-1] > 1 else batch.reshape(-1) for batch in batches]
    found = np.concatenate(classes)
    if found.shape != labels.shape or (found != labels).any():
        where = int(np.argmax(found != labels)) if found.shape == labels.shape else min(found.size, labels.size)
        raise ParameterError(
            f"the loader has {found.size} labels, which are not the {labels.size} given ones from sample {where} on; "
            "give a loader that does not shuffle, and the labels in its order"
        )
