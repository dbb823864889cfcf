"""The tracker, which records the correctness bits of any PyTorch training loop."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from mild_client.backend import SelectionBackend
from mild_core import bitmap
from mild_core.errors import ParameterError, SampleIndexError
from mild_core.types import EpochBits

_WRONG, _RIGHT = 1, 2


class CorrectnessTracker:
    """Records for each sample whether its given label was predicted, on the device and without synchronising with it.

    Parameters
    ----------
    n_samples
        Number of samples of the whole data set, whether trained on or not.
    device
        Device of the logits.
    run
        Backend that takes each epoch's bits; None leaves them to the caller. Pass it on one rank only.
    round
        Round of the first epoch.
    epoch
        Number of the first epoch, where a run is resumed.
    merge
        Whether the processes of torch.distributed, where it is initialised, merge their bits: then all of them must
        end their epochs, and all get the same bits. A sample that several processes have seen, such as a sampler's
        padding, is correct if any of them predicted its label.

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
    ) -> None:
        if n_samples < 1:
            raise ParameterError(f"n_samples is {n_samples}; give the size of the whole data set, at least 1")
        self.n_samples = n_samples
        self.round = round
        self.epoch = epoch
        self._run = run
        self._merge = merge
        # One byte a sample: 0 not seen, 1 seen and wrong, 2 predicted right. One scatter of the maximum then
        # records both facts, and a sample seen twice is right if any copy was. Padded to whole bytes of the bitmap.
        self._state = torch.zeros(bitmap.n_bytes(n_samples) * 8, dtype=torch.uint8, device=device)
        self._weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)

    def update(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record one batch.

        Parameters
        ----------
        indices
            Shape (n_batch,), int64, the samples' indices in the data set. They are checked on the host; on the device
            they are not, since a check would synchronise.
        logits
            Shape (n_batch, n_classes), on the tracker's device.
        labels
            Shape (n_batch,), the given labels, on the tracker's device.

        Raises
        ------
        ParameterError
            If the shapes do not match.
        SampleIndexError
            If an index on the host lies outside ``0..n_samples-1``.
        """
        if logits.ndim != 2 or indices.shape != labels.shape or indices.shape != logits.shape[:1]:
            raise ParameterError(
                f"got {tuple(indices.shape)} indices, {tuple(logits.shape)} logits and {tuple(labels.shape)} labels; "
                "give n indices, (n, n_classes) logits and n labels of the same batch"
            )
        if indices.device.type == "cpu":
            self._check_range(indices)
        outcome = (logits.argmax(1) == labels).to(torch.uint8).add_(_WRONG)
        self._state.scatter_reduce_(0, indices.to(self._state.device, non_blocking=True), outcome, "amax")

    def take(self) -> EpochBits:
        """Merge the ranks' bits and pack them on the device, fetch the bytes, and reset the tracker.

        The result has `observed` only where some samples were not seen.
        """
        if self._merge and distributed.is_available() and distributed.is_initialized():
            # The states' maximum is both bitmaps' OR, and NCCL knows no OR.
            distributed.all_reduce(self._state, distributed.ReduceOp.MAX)
        observed, correct = self._fetch()
        all_observed = bitmap.popcount(observed) == self.n_samples
        return EpochBits(self.n_samples, correct, None if all_observed else observed)

    def take_shard(self) -> EpochBits:
        """Return this process' own bits with `observed`, a shard of the epoch, and reset the tracker."""
        observed, correct = self._fetch()
        return EpochBits(self.n_samples, correct, observed)

    def end_epoch(self) -> EpochBits:
        """End the epoch: send its bits to the run, if there is one, and return them."""
        bits = self.take()
        if self._run is not None:
            self._run.put_epoch(self.round, self.epoch, bits)
        self.epoch += 1
        return bits

    def start_round(self, round: int) -> None:
        """Set the round, and the epoch to 0."""
        self.round, self.epoch = round, 0

    def _fetch(self) -> NDArray[np.uint8]:
        """Pack on the device and fetch observed and correct bits, shape (2, n_bytes)."""
        rows = self._state.view(-1, 8)
        packed: NDArray[np.uint8] = torch.stack([self._pack(rows >= _WRONG), self._pack(rows == _RIGHT)]).cpu().numpy()
        self._state.zero_()
        return packed

    def _pack(self, rows: Tensor) -> Tensor:
        """Pack (n_bytes, 8) booleans into (n_bytes,) bytes."""
        return (rows * self._weights).sum(1, dtype=torch.uint8)

    def _check_range(self, indices: Tensor) -> None:
        if not indices.numel():
            return
        low, high = (int(bound) for bound in indices.aminmax())
        if low < 0 or high >= self.n_samples:
            raise SampleIndexError(
                f"sample index {low if low < 0 else high} is outside 0..{self.n_samples - 1}; "
                "number the samples over the whole data set, not over the batch or the subset"
            )
