"""`SelectionBackend`, the protocol between a training job and its selection, and the data types of the protocol.

A job opens a run, sends the bits of each epoch, and finishes each round, whose result is the clean set that the next
round trains on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_client.errors import LocalStateError
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.results import Selection
from mild_core.types import EpochBits, RunSpec

EndStatus: TypeAlias = Literal["finished", "failed"]
"""Status of a run whose training has ended."""


@dataclass(frozen=True, slots=True)
class Position:
    """Position in a run: the next epoch to write, and its round."""

    round: int
    epoch: int


@dataclass(frozen=True, slots=True)
class RunState:
    """State of an open run: the open round, and the number of this writer."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class RoundFit:
    """Histogram of the scores and fitted components of a selection, for a figure.

    Attributes
    ----------
    origin, width
        Bin ``j`` covers the metric ``origin + width * j``.
    counts
        Number of samples in each bin, length n_bins.
    densities
        Expected number of samples in each bin for the clean and for the noisy component; empty without a fit.
    """

    origin: float
    width: float
    counts: tuple[float, ...]
    densities: tuple[tuple[float, ...], ...]

    @classmethod
    def from_selection(cls, selection: Selection) -> Self | None:
        """Return histogram and components of a selection made in this process; None if it has no histogram."""
        if (histogram := selection.histogram) is None:
            return None
        counts = histogram.counts.tolist()
        densities = [] if selection.densities is None else selection.densities.tolist()
        return cls(histogram.origin, histogram.width, tuple(counts), tuple(map(tuple, densities)))


@dataclass(frozen=True, slots=True, eq=False)
class RoundResult:
    """Result of a finished round.

    Attributes
    ----------
    round
        Number of the round.
    n_samples
        Number of samples of the run.
    selected
        Shape (n_bytes,), the bitmap of the clean set.
    summary
        The selection, as in the HTTP API: ``num_selected, metric, threshold, components, verdict, fitted, ...``.
    fit
        Histogram and fitted components; None if the selection has no histogram.
    """

    round: int
    n_samples: int
    selected: Bitmap
    summary: Mapping[str, Any]
    fit: RoundFit | None


class SelectionBackend(Protocol):
    """Receives the correctness bits of one run and returns clean sets. Rounds and epochs count from 0."""

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open a new run, or resume the run at `resume_from`, the next epoch to write; later epochs are deleted."""

    def put_labels(self, labels: NDArray[np.integer]) -> None:
        """Store the given labels, shape (n_samples,), before the first epoch.

        Repeating a call changes nothing.
        """

    def put_sample_ids(self, ids: Sequence[str]) -> None:
        """Store the external id of each sample, by which pages name it, before the first epoch.

        Repeating a call changes nothing.
        """

    def put_planted(self, planted: Bitmap) -> None:
        """Store which samples round 0 trains on with planted (wrong) labels, before its first epoch.

        `planted` is a bitmap, shape (n_bytes,). Without this call no label is planted. Repeating a call changes
        nothing, at any time.
        """

    def put_members(self, round: int, members: Bitmap) -> None:
        """Store the bitmap, shape (n_bytes,), of the samples that `round` trains on.

        Without this call, they are the clean set of the previous round.
        """

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Store the correctness bits of all samples for one epoch; repeating a call changes nothing.

        An epoch that leaves a gap behind the stored ones of its round is refused.
        """

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store scalars of an epoch, such as ``train_loss`` and ``test_accuracy``.

        A scalar that cannot be stored, such as NaN, is dropped with a warning.
        """

    def finish(self, round: int) -> RoundResult:
        """Freeze the round and return its clean set; repeating a call returns the same set."""

    def compute_weights(self, result: RoundResult) -> NDArray[np.float32]:
        """Return the probability that each sample's given label is right, shape (n_samples,).

        The probability is 0 where the sample has no score. `result` is that of a finished round.
        """

    def set_status(self, status: EndStatus) -> None:
        """Set the status of the run, after its last round or an error that ended the training."""


def check_epoch_order(next_epoch: Position, round: int, epoch: int) -> None:
    """Check that an epoch leaves no gap behind the epochs that are stored, as no set is selected with a gap.

    Raises
    ------
    LocalStateError
        If `epoch` is later than the next one of its round.
    """
    if round == next_epoch.round and epoch > next_epoch.epoch:
        raise LocalStateError(
            f"epoch {epoch} is put, and the next one of round {round} is {next_epoch.epoch}; number the epochs of a "
            f"round from 0 on, or, where earlier ones are stored, open the run with resume_from=Position({round}, "
            f"{epoch})"
        )


_UNRELIABLE_VERDICTS = ("unimodal", "learning", "insufficient")
"""Verdicts of fits that are not used to drop samples."""


def compute_sample_weights(noisy_posterior: NDArray[np.float32], selected: Bitmap, verdict: str) -> NDArray[np.float32]:
    """Return the probability that each sample's given label is right, shape (n_samples,).

    The probability is 0 where the sample has no score. If the fit is unreliable, the weights are 1 for the samples of
    the clean set and 0 for the others.

    Parameters
    ----------
    noisy_posterior
        Shape (n_samples,), the probability of being mislabelled; NaN where the sample has no score.
    selected
        Shape (n_bytes,), the bitmap of the clean set.
    verdict
        Verdict on the fit of the same selection, such as ``unimodal``.
    """
    if verdict in _UNRELIABLE_VERDICTS:
        return bitmap.unpack(selected, noisy_posterior.size).astype(np.float32)
    weights: NDArray[np.float32] = np.nan_to_num(np.float32(1) - noisy_posterior, nan=0.0)
    return weights
