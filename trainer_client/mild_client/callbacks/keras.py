"""Keras 3 callback, which evaluates all samples after each epoch to get the correctness bits.

The framework passes neither logits nor sample indices to callbacks, so the callback evaluates the model itself. The
run's `pass` is therefore ``eval``, and dropped samples are evaluated too.
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from mild_client.backend import RoundResult, SelectionBackend
from mild_core import bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits


class MildCallback(keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
    """Sends the bits of each epoch to a backend, and finishes a round at the end of each ``fit``.

    After ``fit``, `result` has the clean set of the round.

    Parameters
    ----------
    backend
        Backend whose run is open.
    inputs
        Inputs of all samples, as ``model.predict`` takes them.
    labels
        Shape (n_samples,), the given labels as integers.
    round
        Round of the first ``fit``.
    batch_size
        Batch size of the evaluation pass.
    """

    def __init__(
        self,
        backend: SelectionBackend,
        inputs: Any,
        labels: NDArray[np.integer],
        round: int = 0,
        batch_size: int = 512,
    ) -> None:
        super().__init__()
        if labels.ndim != 1:
            raise ParameterError(f"labels have shape {labels.shape}; give one class number per sample")
        self.result: RoundResult | None = None
        self._backend, self._inputs, self._labels = backend, inputs, labels
        self._round, self._batch_size = round, batch_size

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate all samples, and send the bits of the epoch."""
        scores = self.model.predict(self._inputs, batch_size=self._batch_size, verbose=0)
        correct = np.asarray(scores).argmax(axis=-1) == self._labels
        self._backend.put_epoch(self._round, epoch, EpochBits(correct.size, bitmap.pack(correct)))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Finish the round, and set `result`."""
        self.result = self._backend.finish(self._round)
        self._round += 1
