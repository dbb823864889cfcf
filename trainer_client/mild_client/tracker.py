"""`CorrectnessTracker`, which records correctness bits in any PyTorch training loop."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, distributed

from mild_client.arguments import to_array, to_integer
from mild_client.backend import SelectionBackend
from mild_client.outcomes import check_labels, compute_outcomes, warn_not_finite, warn_probabilities
from mild_core import bitmap
from mild_core.errors import ParameterError, SampleIndexError
from mild_core.types import EpochBits

_INDEX_TYPES = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})
_UNSEEN, _NOT_FINITE, _WRONG, _RIGHT = -1, 0, 1, 2
_BIAS_STEP = 0.3
"""Change of a class's bias for each unit of the logarithm of its declared share over its share of the predictions."""
_MIN_RATIO = 0.2
"""Share of the predictions, as a multiple of the declared one, that a class counts with at least."""
_MIN_SHARE = 1e-12
"""Smallest share of a class, as a multiple of the largest one."""


class CorrectnessTracker:
    """Records on the device, without synchronising, whether the model predicts each sample's given label.

    Parameters
    ----------
    n_samples
        Number of samples of the whole data set, including those that are not trained on.
    device
        Device of the logits.
    run
        Backend to which `end_epoch` sends the bits; None sends nothing. Pass it on one rank only.
    round
        Round of the first epoch.
    epoch
        Number of the first epoch; above 0 if a run is resumed.
    merge
        Whether all ranks of an initialised torch.distributed merge their bits. All ranks must then call `take` or
        `end_epoch`, and all get the same bits. A sample that several ranks have seen, such as the padding of a
        sampler, is correct if any of them predicted its label. With a `class_prior`, all ranks must call `take_shard`
        as well, and have one bias; with False, each follows a bias of its own.
    threshold
        Output above which a sample is predicted as class 1, for models with a single output: 0 for logits, 0.5 for
        probabilities. None for models with an output for each class.
    class_prior
        Shape (n_classes,), the share of each class among the true labels, or numbers in proportion to it, where that is
        known. A bias of each class is added to the logits, and changes after every epoch, until classes are predicted
        as often as the prior says. Labels that one class loses to another change the prediction for both, and a wrong
        label is then easier to tell. A prior that is not true does harm. None adds no bias.

    Attributes
    ----------
    class_bias
        Shape (n_classes,), the bias of each class, to be stored where a training may be resumed; None without a prior.

    Notes
    -----
    A sample whose outputs are NaN or infinite counts as unobserved; a warning says so once. Whether the labels are
    classes of the model is checked in the first epoch.

    Examples
    --------
    ::

        tracker = CorrectnessTracker(len(dataset), device, run=run)
        for indices, images, labels in loader:
            logits = model(images)
            tracker.update(indices, logits, labels)
        tracker.end_epoch()
    """

    def __init__(
        self,
        n_samples: int,
        device: torch.device | str = "cpu",
        run: SelectionBackend | None = None,
        round: int = 0,
        epoch: int = 0,
        merge: bool = True,
        threshold: float | None = None,
        class_prior: ArrayLike | None = None,
    ) -> None:
        n_samples = to_integer(n_samples, "n_samples", 1)
        self.n_samples = n_samples
        self.round = to_integer(round, "round")
        self.epoch = to_integer(epoch, "epoch")
        self._run = run
        self._merge = merge
        self._threshold = threshold
        self._bias: _ClassBias | None = None
        if class_prior is not None:
            if threshold is not None:
                raise ParameterError(
                    f"threshold is {threshold:g} and there is a class_prior, which needs an output for each class; "
                    "leave out one of them"
                )
            self._bias = _ClassBias(class_prior, device)
        self._n_outputs = 0
        self._label_bounds: tuple[Tensor, Tensor] | None = None
        self._output_bounds: tuple[Tensor, Tensor] | None = None
        self._has_checked_labels = self._has_warned = False
        # One byte a sample, one of the four constants above. One scatter of the maximum then records all of it, and a
        # sample seen twice is right if any copy was. Padded to whole bytes of the bitmap.
        self._state = torch.full((bitmap.n_bytes(n_samples) * 8,), _UNSEEN, dtype=torch.int8, device=device)
        self._bit_values = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)

    def update(self, indices: Any, logits: Any, labels: Any) -> None:
        """Record one batch, of tensors, arrays or lists.

        Parameters
        ----------
        indices
            Shape (n_batch,), integers, indices of the samples in the data set. Their range is checked only if they are
            on the host, as a check on the device would synchronise.
        logits
            Shape (n_batch, n_classes), on the tracker's device. With a `threshold`, (n_batch,) or (n_batch, 1).
        labels
            Shape (n_batch,), the given labels as integers 0..n_classes-1.

        Raises
        ------
        ParameterError
            If shapes or types do not match, or labels on the host are no classes of the model (in the first epoch).
        SampleIndexError
            If an index on the host lies outside ``0..n_samples-1``.
        """
        device = self._state.device
        indices, logits, labels = _to_tensor(indices), _to_tensor(logits), _to_tensor(labels)
        if indices.shape != logits.shape[:1] or indices.dtype not in _INDEX_TYPES:
            raise ParameterError(
                f"got indices of shape {tuple(indices.shape)} and type {indices.dtype}, and outputs of shape "
                f"{tuple(logits.shape)}; give n integers and n rows of outputs of the same batch"
            )
        logits, labels = _move(logits, device), _move(labels, device)
        if self._bias is not None:
            logits = self._bias.add_to(logits)
        correct, finite = compute_outcomes(logits, labels, self._threshold)
        if not self._has_checked_labels and labels.numel():
            self._check_labels(labels, logits.shape[1] if logits.ndim == 2 else 1)
            if self._threshold is not None:
                self._output_bounds = _extend_bounds(self._output_bounds, logits)
        if indices.device.type == "cpu":
            self._check_indices(indices)
        outcome = correct.view(torch.int8).add_(_WRONG).mul_(finite)  # 0, not finite, whatever was predicted
        self._state.scatter_reduce_(0, _move(indices, device).long(), outcome, "amax")

    @property
    def class_bias(self) -> NDArray[np.float32] | None:  # noqa: D102 (the class describes it)
        return None if self._bias is None else self._bias.values.cpu().numpy().copy()

    @class_bias.setter
    def class_bias(self, values: ArrayLike | None) -> None:
        if self._bias is not None and values is not None:
            self._bias.set_values(values)

    def take(self) -> EpochBits:
        """Return the bits recorded since the last call, merged over all ranks, and reset the tracker.

        `observed` of the result is None if all samples were seen.

        Raises
        ------
        ParameterError
            If labels of the first epoch, on a device, are no classes of the model.
        """
        if self._has_merging_ranks:
            # The states' maximum is both bitmaps' OR, and NCCL knows no OR.
            distributed.all_reduce(self._state, distributed.ReduceOp.MAX)
        observed, correct = self._fetch_bits()
        all_observed = bitmap.popcount(observed) == self.n_samples
        return EpochBits(self.n_samples, correct, None if all_observed else observed)

    def take_shard(self) -> EpochBits:
        """Return the bits of this rank alone, with `observed`, and reset the tracker.

        The result is a shard of the epoch, for `MildClient.put_shard`. With a `class_prior` and `merge`, all ranks call
        this, and agree on how often each class was predicted.
        """
        observed, correct = self._fetch_bits()
        return EpochBits(self.n_samples, correct, observed)

    def end_epoch(self) -> EpochBits:
        """Send the bits of the epoch to the run, if there is one, and return them; the next epoch begins."""
        bits = self.take()
        if self._run is not None:
            self._run.put_epoch(self.round, self.epoch, bits)
        self.epoch += 1
        return bits

    def start_round(self, round: int) -> None:
        """Set the number of the round, and the number of the epoch to 0."""
        self.round, self.epoch = round, 0

    @property
    def _has_merging_ranks(self) -> bool:
        """Whether this rank merges what it recorded with others."""
        return self._merge and distributed.is_available() and distributed.is_initialized()

    def _fetch_bits(self) -> NDArray[np.uint8]:
        """Return the packed observed and correct bits, shape (2, n_bytes), and reset the tracker."""
        rows = self._state.view(-1, 8)
        masks = (rows >= _WRONG, rows == _RIGHT, rows == _NOT_FINITE)
        packed: NDArray[np.uint8] = torch.stack([self._pack_bits(mask) for mask in masks]).cpu().numpy()
        self._state.fill_(_UNSEEN)
        if self._bias is not None:
            if self._has_merging_ranks:
                distributed.all_reduce(self._bias.n_predicted)
            self._bias.follow_predictions()
        label_bounds, output_bounds = self._label_bounds, self._output_bounds
        self._label_bounds = self._output_bounds = None
        if label_bounds is not None:
            low, high = map(float, label_bounds)
            check_labels(low, high, self._n_outputs)
        if output_bounds is not None:
            low, high = map(float, output_bounds)
            warn_probabilities(low, high, self._threshold)
        self._has_checked_labels = self._has_checked_labels or self._n_outputs > 0
        if not self._has_warned and (n_not_finite := bitmap.popcount(packed[2])):
            self._has_warned = True
            warn_not_finite(self.round, self.epoch, n_not_finite, self.n_samples)
        return packed[:2]

    def _pack_bits(self, rows: Tensor) -> Tensor:
        """Pack booleans of shape (n_bytes, 8) into bytes of shape (n_bytes,), on the device."""
        return (rows * self._bit_values).sum(1, dtype=torch.uint8)

    def _check_labels(self, labels: Tensor, n_outputs: int) -> None:
        """Check labels on the host; keep the bounds of those on a device until the end of the epoch."""
        self._n_outputs = n_outputs
        if labels.device.type == "cpu":
            low, high = labels.aminmax()
            check_labels(float(low), float(high), n_outputs)
            if labels.is_floating_point() and bool((labels != labels.round()).any()):
                raise ParameterError(
                    f"labels from {float(low):g} to {float(high):g} hold fractions; give class numbers, 0 or 1, and "
                    "leave soft labels to the loss"
                )
            return
        self._label_bounds = _extend_bounds(self._label_bounds, labels)

    def _check_indices(self, indices: Tensor) -> None:
        if not indices.numel():
            return
        low, high = (int(bound) for bound in indices.aminmax())
        if low < 0 or high >= self.n_samples:
            raise SampleIndexError(
                f"sample index {low if low < 0 else high} is outside 0..{self.n_samples - 1}; "
                "number the samples over the whole data set, not over the batch or the subset"
            )


class _ClassBias:
    """Bias of each class, with which classes are predicted as often as a declared prior says.

    Parameters
    ----------
    prior
        Shape (n_classes,), positive numbers in proportion to the classes' shares.
    device
        Device of the logits.

    Attributes
    ----------
    values
        Shape (n_classes,), what is added to the logits.
    n_predicted
        Shape (n_classes,), how many samples each class was predicted for since the last change.
    """

    def __init__(self, prior: ArrayLike, device: torch.device | str) -> None:
        shares = to_array(prior, "class_prior")
        if shares.ndim != 1 or shares.size < 2 or shares.dtype.kind not in "iuf":
            raise ParameterError(
                f"class_prior has the shape {shares.shape} and the type {shares.dtype}; give one number for each of at "
                "least 2 classes"
            )
        shares = shares.astype(np.float64)
        if not (np.isfinite(shares) & (shares > 0)).all():
            raise ParameterError(
                f"class_prior has values from {shares.min():g} to {shares.max():g}; give shares above 0, such as 1 for "
                "every class if all are equally frequent"
            )
        shares /= shares.max()  # so that the sum is finite
        if shares.min() < _MIN_SHARE:
            raise ParameterError(
                f"class_prior has a share of {shares.min():g} of the largest one, and {_MIN_SHARE:g} is the least; "
                "give rare classes a larger share"
            )
        self._shares = torch.tensor(shares / shares.sum(), dtype=torch.float32, device=device)
        self.values = torch.zeros_like(self._shares)
        self.n_predicted = torch.zeros(shares.size, dtype=torch.int64, device=device)

    def set_values(self, values: ArrayLike) -> None:
        """Set the bias of each class, shape (n_classes,)."""
        bias, n_classes = to_array(values, "class_bias"), self.values.numel()
        if bias.shape != (n_classes,) or bias.dtype.kind not in "iuf" or not np.isfinite(bias).all():
            raise ParameterError(
                f"class_bias has the shape {bias.shape} and the type {bias.dtype}, or values that are not finite; give "
                f"the bias of each of {n_classes} classes, as a tracker with the same class_prior returns it"
            )
        self.values.copy_(torch.as_tensor(bias))

    def add_to(self, logits: Tensor) -> Tensor:
        """Return the logits of a batch with the bias, and count the classes that they predict."""
        if logits.ndim != 2 or logits.shape[1] != self.values.numel():
            raise ParameterError(
                f"class_prior has {self.values.numel()} classes and the logits have the shape {tuple(logits.shape)}; "
                "give a share for each output of the model"
            )
        # In single precision at least, and in double where the logits are.
        logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)) + self.values
        largest, predicted = logits.max(1)
        self.n_predicted.scatter_add_(0, predicted, largest.isfinite().long())
        return logits

    def follow_predictions(self) -> None:
        """Raise the bias of classes that were predicted too rarely, and lower that of the others."""
        n_seen = self.n_predicted.sum()
        expected = n_seen * self._shares
        # Without waiting for the device: where nothing was seen, the ratios are 1.
        ratios = torch.where(n_seen > 0, self.n_predicted / expected, 1.0)
        self.values -= _BIAS_STEP * ratios.clamp(min=_MIN_RATIO).log()
        self.n_predicted.zero_()


def _extend_bounds(bounds: tuple[Tensor, Tensor] | None, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest of the values and of earlier ones, without waiting for the device."""
    low, high = values.detach().aminmax()
    return (low, high) if bounds is None else (torch.minimum(low, bounds[0]), torch.maximum(high, bounds[1]))


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the device, copied there without waiting if it lies elsewhere."""
    return tensor if tensor.device == device else tensor.to(device, non_blocking=True)


def _to_tensor(values: Any) -> Tensor:
    """Return a tensor as it is, and convert arrays and lists."""
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
        return torch.as_tensor(array.astype(np.int64) if array.dtype.kind == "u" else array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ParameterError(f"{values!r:.100} cannot be read as numbers ({error}); give tensors or arrays") from error
