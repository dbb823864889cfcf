"""`CorrectnessTracker`, which records correctness bits in any PyTorch training loop."""

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
        sampler, is correct if any of them predicted its label.

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
        self._bit_values = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)

    def update(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record one batch.

        Parameters
        ----------
        indices
            Shape (n_batch,), int64, indices of the samples in the data set. Their range is checked only if they are on
            the host, as a check on the device would synchronise.
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
            self._check_indices(indices)
        outcome = (logits.argmax(1) == labels).to(torch.uint8).add_(_WRONG)
        self._state.scatter_reduce_(0, indices.to(self._state.device, non_blocking=True), outcome, "amax")

    def take(self) -> EpochBits:
        """Return the bits recorded since the last call, merged over all ranks, and reset the tracker.

        `observed` of the result is None if all samples were seen.
        """
        if self._merge and distributed.is_available() and distributed.is_initialized():
            # The states' maximum is both bitmaps' OR, and NCCL knows no OR.
            distributed.all_reduce(self._state, distributed.ReduceOp.MAX)
        observed, correct = self._fetch_bits()
        all_observed = bitmap.popcount(observed) == self.n_samples
        return EpochBits(self.n_samples, correct, None if all_observed else observed)

    def take_shard(self) -> EpochBits:
        """Return the bits of this rank alone, with `observed`, and reset the tracker.

        The result is a shard of the epoch, for `MildClient.put_shard`.
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

    def _fetch_bits(self) -> NDArray[np.uint8]:
        """Return the packed observed and correct bits, shape (2, n_bytes), and reset the tracker."""
        rows = self._state.view(-1, 8)
        packed: NDArray[np.uint8] = (
            torch.stack([self._pack_bits(rows >= _WRONG), self._pack_bits(rows == _RIGHT)]).cpu().numpy()
        )
        self._state.zero_()
        return packed

    def _pack_bits(self, rows: Tensor) -> Tensor:
        """Pack booleans of shape (n_bytes, 8) into bytes of shape (n_bytes,), on the device."""
        return (rows * self._bit_values).sum(1, dtype=torch.uint8)

    def _check_indices(self, indices: Tensor) -> None:
        if not indices.numel():
            return
        low, high = (int(bound) for bound in indices.aminmax())
        if low < 0 or high >= self.n_samples:
            raise SampleIndexError(
                f"sample index {low if low < 0 else high} is outside 0..{self.n_samples - 1}; "
                "number the samples over the whole data set, not over the batch or the subset"
            )
