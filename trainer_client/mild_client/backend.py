"""The protocol of selection backends, which a training job uses, and its data types.

A job opens a run, sends the bits of each epoch, and finishes each round, whose result is the clean set that the next
round trains on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.results import Selection
from mild_core.types import EpochBits, RunSpec


@dataclass(frozen=True, slots=True)
class Position:
    """Position in a run: the next epoch to be written, and its round."""

    round: int
    epoch: int


@dataclass(frozen=True, slots=True)
class RunState:
    """State of an open run: the open round, and the attempt number of this writer."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class RoundFit:
    """The histogram and the fitted components of a selection, for a figure.

    Attributes
    ----------
    origin, width
        Bin ``j`` covers the metric ``origin + width * j``.
    counts
        Number of samples in each bin, n_bins long.
    densities
        Expected number of samples in each bin, of the clean and of the noisy component; empty without a fit.
    """

    origin: float
    width: float
    counts: tuple[float, ...]
    densities: tuple[tuple[float, ...], ...]

    @classmethod
    def from_selection(cls, selection: Selection) -> Self | None:
        """Create the fit of a selection made in this process; None without a histogram."""
        histogram = selection.histogram
        if histogram is None:
            return None
        densities = () if selection.densities is None else selection.densities
        return cls(
            origin=histogram.origin,
            width=histogram.width,
            counts=tuple(float(count) for count in histogram.counts),
            densities=tuple(tuple(float(d) for d in density) for density in densities),
        )


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
        Shape (n_bytes,), the clean set.
    summary
        The selection, as in the HTTP API: ``num_selected, metric, threshold, components, verdict, estimated, ...``.
    fit
        The histogram and its components; None where nothing was fitted.
    """

    round: int
    n_samples: int
    selected: Bitmap
    summary: Mapping[str, Any]
    fit: RoundFit | None


class SelectionBackend(Protocol):
    """Takes the bits of one run and returns clean sets. Rounds and epochs count from 0."""

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open the run, or resume it: epochs from `resume_from` on are deleted and written again."""

    def put_labels(self, labels: NDArray[np.integer]) -> None:
        """Store the given labels, shape (n_samples,), before the first epoch; repeating a call changes nothing."""

    def put_planted(self, planted: Bitmap) -> None:
        """Set the samples whose labels are broken on purpose in round 0, before its first epoch; by default none.

        Repeating a call changes nothing, at any time.
        """

    def put_members(self, round: int, members: Bitmap) -> None:
        """Set the training samples of `round`; by default the previous round's clean set."""

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Commit one epoch's bits; repeating a call changes nothing."""

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store an epoch's scalars, such as ``train_loss`` and ``test_accuracy``."""

    def finish(self, round: int) -> RoundResult:
        """Freeze the round and return its clean set; repeating a call returns the same set."""

    def weights(self, result: RoundResult) -> NDArray[np.float32]:
        """Return the probability that each label is right, after a finished round, shape (n_samples,); 0: no score."""


_UNRELIABLE_VERDICTS = ("unimodal", "insufficient")
"""Verdicts of fits that are not used to drop samples."""


def compute_sample_weights(noisy_posterior: NDArray[np.float32], selected: Bitmap, verdict: str) -> NDArray[np.float32]:
    """Return 1 - the probability of being mislabelled, shape (n_samples,); 0 for samples without one.

    With an unreliable fit, the weights are 1 for the samples of the clean set and 0 for the others.

    Parameters
    ----------
    noisy_posterior
        Shape (n_samples,), the probability of being mislabelled; NaN where there is none.
    selected
        Shape (n_bytes,), the clean set.
    verdict
        Verdict of the same selection.
    """
    if verdict in _UNRELIABLE_VERDICTS:
        return bitmap.unpack(selected, noisy_posterior.size).astype(np.float32)
    weights: NDArray[np.float32] = np.nan_to_num(np.float32(1) - noisy_posterior, nan=0.0)
    return weights
