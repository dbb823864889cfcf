"""Keras 3, whatever its backend: correctness bits from an evaluation pass over everyone after each epoch.

Its callbacks see neither logits nor which samples a batch holds, so the pass is made here: the run's `pass` is
``eval``, and dropped samples are judged too.
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
    """Puts each epoch's bits and finishes a round with each ``fit``; `result` is then the round's clean set.

    Parameters
    ----------
    backend
        An open one.
    inputs
        Of all samples, as ``model.predict`` takes them.
    labels
        Shape (n_samples,), the given ones as whole numbers.
    round
        Round of the first ``fit``.
    batch_size
        Of the evaluation pass.
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
        """Judge everyone and put the bits."""
        scores = self.model.predict(self._inputs, batch_size=self._batch_size, verbose=0)
        correct = np.asarray(scores).argmax(axis=-1) == self._labels
        self._backend.put_epoch(self._round, epoch, EpochBits(correct.size, bitmap.pack(correct)))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Finish the round."""
        self.result = self._backend.finish(self._round)
        self._round += 1
