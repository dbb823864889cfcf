"""What a training job needs of a selection backend: one protocol, kept by the HTTP service and by `LocalSelector`.

A job opens a run, puts one epoch's bits after each epoch, and finishes the round; the answer is the clean set that the
next round trains on.

Weights of samples in a loss: how likely each label is right, as far as that can be told.
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
    """A place in a run: the next epoch to be written, in its round."""

    round: int
    epoch: int


@dataclass(frozen=True, slots=True)
class RunState:
    """An opened run: the round that takes epochs now, and the attempt that this writer holds."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class RoundFit:
    """What the clean set was read off, for a picture.

    Attributes
    ----------
    origin, width
        Bin ``j`` covers the metric ``origin + width * j``.
    counts
        Samples per bin, n_bins long.
    densities
        Expected samples per bin of the clean and of the noisy component, each n_bins long; empty without a fit.
    """

    origin: float
    width: float
    counts: tuple[float, ...]
    densities: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, selection: Selection) -> Self | None:
        """Picture of a selection made in the process; None without a histogram."""
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
    """A finished round.

    Attributes
    ----------
    round
        Its number.
    n_samples
        Samples of the run.
    selected
        Shape (n_bytes,), the clean set.
    summary
        The selection in the wire's names: ``num_selected, metric, threshold, components, verdict, estimated, ...``.
    fit
        The histogram and its components; None where nothing was fitted.
    """

    round: int
    n_samples: int
    selected: Bitmap
    summary: Mapping[str, Any]
    fit: RoundFit | None


class SelectionBackend(Protocol):
    """Takes one run's bits and answers with clean sets. Rounds and epochs count from 0."""

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open the run, or continue it: epochs from `resume_from` on are dropped and written anew."""

    def put_labels(self, labels: NDArray[np.integer]) -> None:
        """Say the given labels, shape (n_samples,), before the first epoch; the same ones again change nothing."""

    def put_planted(self, planted: Bitmap) -> None:
        """Say who is mislabelled on purpose in round 0, before its first epoch; without a call it is nobody.

        The same ones again change nothing, at any time.
        """

    def put_members(self, round: int, members: Bitmap) -> None:
        """Say whom the model is trained on in `round`; without a call it is the previous round's clean set."""

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Commit one epoch's bits; the same bits again change nothing."""

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Attach an epoch's scalars: ``train_loss``, ``test_accuracy`` and the like."""

    def finish(self, round: int) -> RoundResult:
        """Freeze the round and return its clean set; repeated, it returns the same set."""

    def weights(self, result: RoundResult) -> NDArray[np.float32]:
        """How likely each sample's label is right after a finished round, shape (n_samples,); 0: not judged."""


_UNTOLD = ("unimodal", "insufficient")
"""Verdicts under which a fit is not believed, and nobody is dropped for it."""


def sample_weights(noisy_posterior: NDArray[np.float32], selected: Bitmap, verdict: str) -> NDArray[np.float32]:
    """Return 1 - the probability of being mislabelled, shape (n_samples,); 0 where a sample was not judged.

    Where the verdict is that the fit tells nothing, the weights are the set's: 1 for who is kept, 0 for the others.

    Parameters
    ----------
    noisy_posterior
        Shape (n_samples,); NaN where there is none.
    selected
        Shape (n_bytes,), the clean set.
    verdict
        Of the same selection.
    """
    if verdict in _UNTOLD:
        return bitmap.unpack(selected, noisy_posterior.size).astype(np.float32)
    weights: NDArray[np.float32] = np.nan_to_num(np.float32(1) - noisy_posterior, nan=0.0)
    return weights
