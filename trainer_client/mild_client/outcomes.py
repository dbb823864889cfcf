"""From a model's outputs to correctness: the one rule of the tracker and of all callbacks."""

import logging
import math
import zlib
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_client.arguments import to_array
from mild_core import bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits

logger = logging.getLogger(__name__)

Array: TypeAlias = Any
"""A numpy array or a torch tensor; the result is of the same kind."""


def compute_outcomes(outputs: Array, labels: Array, threshold: float | None = None) -> tuple[Array, Array]:
    """Return whether each sample's given label is predicted, and whether its outputs are finite.

    The predicted class is that of the largest output, or, for a single output, 1 above the threshold and 0 below.

    Parameters
    ----------
    outputs
        Shape (n_batch, n_classes), one output for each class: logits or probabilities. With a `threshold`, a single
        output of shape (n_batch,) or (n_batch, 1).
    labels
        Shape (n_batch,) or (n_batch, 1), the classes 0..n_classes-1 as integers; for a single output also as floats.
    threshold
        Output above which a sample of a model with a single output is predicted as class 1: 0 for logits, 0.5 for
        probabilities. None for models with an output for each class.

    Returns
    -------
    correct, finite
        Booleans of shape (n_batch,). The largest output of a sample that is not finite is NaN or infinite, and its
        `correct` says nothing.
    """
    _check_batch(outputs.shape, labels.shape, outputs.dtype, labels.dtype, threshold)
    if labels.ndim > 1:
        labels = labels.reshape(-1)
    if threshold is not None:
        largest = outputs.reshape(-1)
        return (largest > threshold) == labels, abs(largest) < math.inf
    if hasattr(outputs, "detach"):
        largest, predicted = outputs.max(1)
    else:
        largest, predicted = outputs.max(1), outputs.argmax(1)
    return predicted == labels, abs(largest) < math.inf


def check_labels(low: float, high: float, n_outputs: int) -> None:
    """Check that the smallest and the largest label are classes of a model with `n_outputs` outputs."""
    n_classes = max(n_outputs, 2)
    if low < 0 or high >= n_classes:
        raise ParameterError(
            f"the labels run from {low:g} to {high:g}, the model's {n_outputs} outputs mean 0..{n_classes - 1}; number "
            "the classes from 0 on" + (", as labels - 1" if low == 1 and high == n_classes else "")
        )


def warn_probabilities(low: float, high: float, threshold: float | None) -> None:
    """Log a warning if single outputs from `low` to `high` are probabilities, and all of them above the threshold."""
    if threshold is not None and threshold <= 0 <= low and high <= 1:
        logger.warning(
            "the outputs lie in %.3g..%.3g, all of them above the threshold of %g, so every sample is predicted as "
            "class 1; give threshold=0.5 if they are probabilities, as of a sigmoid (said once)",
            low,
            high,
            threshold,
        )


def warn_not_finite(round: int, epoch: int, n_not_finite: int, n_samples: int) -> None:
    """Log a warning that the outputs of some samples of an epoch are not finite."""
    logger.warning(
        "round %d, epoch %d: the outputs of %d of %d samples are NaN or infinite, so they count as unobserved; the "
        "training may have diverged: lower the learning rate, or look at the loss (said once)",
        round,
        epoch,
        n_not_finite,
        n_samples,
    )


class OutcomeRecorder:
    """Collects the outcomes of an evaluation pass over all samples, in the order of their indices.

    Parameters
    ----------
    threshold
        As in `compute_outcomes`.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self._threshold = threshold
        self._batches: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
        self._has_warned = False
        self._digest = 0  # of the labels in their order
        self._first_digest: int | None = None
        self._bounds: tuple[float, float] | None = (math.inf, -math.inf)  # of the outputs, in the first epoch

    def compute(self, outputs: Array, labels: Array) -> tuple[Array, Array]:
        """Check the labels of a batch, and return `compute_outcomes` of it."""
        outcomes = compute_outcomes(outputs, labels, self._threshold)
        if labels.shape[0]:
            check_labels(float(labels.min()), float(labels.max()), outputs.shape[1] if outputs.ndim == 2 else 1)
            self._digest = zlib.crc32(to_array(labels, "labels").tobytes(), self._digest)
            if self._bounds is not None and self._threshold is not None:
                self._bounds = min(self._bounds[0], float(outputs.min())), max(self._bounds[1], float(outputs.max()))
        return outcomes

    def add(self, outputs: Array, labels: Array) -> None:
        """Record the outputs and labels of a batch, as `compute_outcomes` takes them."""
        self.add_outcomes(*self.compute(outputs, labels))

    def add_outcomes(self, correct: Array, finite: Array) -> None:
        """Record the result of `compute`."""
        self._batches.append((to_array(correct, "correct"), to_array(finite, "finite")))

    def take(self, round: int, epoch: int) -> EpochBits:
        """Return the bits of all batches, which are those of the epoch, and discard them."""
        self._check_order(round, epoch)
        if self._bounds is not None:
            warn_probabilities(*self._bounds, self._threshold)
            self._bounds = None
        correct, finite = (np.concatenate(parts) for parts in zip(*self._batches, strict=True))
        self._batches = []
        n_not_finite = int(finite.size - np.count_nonzero(finite))
        if n_not_finite and not self._has_warned:
            self._has_warned = True
            warn_not_finite(round, epoch, n_not_finite, finite.size)
        return EpochBits(correct.size, bitmap.pack(correct & finite), bitmap.pack(finite) if n_not_finite else None)

    def _check_order(self, round: int, epoch: int) -> None:
        """Compare the labels of the epoch with those of the first one."""
        digest, self._digest = self._digest, 0
        if self._first_digest is None:
            self._first_digest = digest
        elif digest != self._first_digest:
            raise ParameterError(
                f"round {round}, epoch {epoch}: the labels are others than in the first epoch, or come in another "
                "order, so no prediction can be given to its sample; give data that are not shuffled or redrawn, "
                "in the order of the sample indices"
            )


@lru_cache
def _check_batch(
    outputs: tuple[int, ...], labels: tuple[int, ...], output_type: Any, label_type: Any, threshold: float | None
) -> None:
    """Raise ParameterError if shapes and types are not those of one class for each sample; batches recur."""
    got = f"got outputs of shape {tuple(outputs)} and labels of shape {tuple(labels)}"
    is_single = len(outputs) == 1 or (len(outputs) == 2 and outputs[1] == 1)
    if len(outputs) > 2:
        raise ParameterError(
            f"{got}; only one class for each sample is supported, not one for each token or pixel: give outputs of "
            "shape (n, n_classes), or record a class for each sample of your own with put_epoch"
        )
    if is_single and threshold is None:
        raise ParameterError(
            f"{got}; give threshold for a binary classifier, 0 for logits or 0.5 for probabilities (a regression has "
            "no right or wrong)"
        )
    if not is_single and threshold is not None:
        raise ParameterError(f"{got}, and a threshold of {threshold:g}; leave threshold out, it is for a single output")
    if len(labels) == 2 and labels[1] > 1:
        raise ParameterError(
            f"{got}; give one class number for each sample: from one-hot labels their argmax(1); several labels for a "
            "sample are not supported"
        )
    if len(outputs) == 0 or tuple(labels) not in ((outputs[0],), (outputs[0], 1)):
        raise ParameterError(f"{got}; give the labels of the same batch, one for each row of the outputs")
    if not _is_floating(output_type):
        raise ParameterError(
            f"outputs have type {output_type}; give the logits or probabilities of the model, not its classes"
        )
    if threshold is None and _is_floating(label_type):
        raise ParameterError(f"labels have type {label_type}; give class numbers as integers, 0..n_classes-1")


def _is_floating(dtype: Any) -> bool:
    """Return whether a type of numpy or torch is one of floating-point numbers."""
    return bool(dtype.is_floating_point) if hasattr(dtype, "is_floating_point") else dtype.kind in "fV"
