"""One backend for all ranks: rank 0 asks it, and all hear the answer."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mild_client import Position, RoundResult, RunSpec, RunState, SelectionBackend
from mild_core.bitmap import Bitmap
from mild_core.types import EpochBits
from mild_trainer.ranks import Ranks


class RankBackend:
    """`SelectionBackend` that every rank calls, and rank 0's backend answers.

    Parameters
    ----------
    ranks
        This process among the others.
    backend
        Called on rank 0 alone.
    """

    def __init__(self, ranks: Ranks, backend: SelectionBackend) -> None:
        self._ranks, self._backend = ranks, backend

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open the run."""
        return self._ranks.ask(lambda: self._backend.open(spec, resume_from))

    def put_labels(self, labels: NDArray[np.integer]) -> None:
        """Say the given labels."""
        self._ranks.ask(lambda: self._backend.put_labels(labels))

    def put_planted(self, planted: Bitmap) -> None:
        """Say who is mislabelled on purpose in round 0."""
        self._ranks.ask(lambda: self._backend.put_planted(planted))

    def put_members(self, round: int, members: Bitmap) -> None:
        """Say whom the model is trained on."""
        self._ranks.ask(lambda: self._backend.put_members(round, members))

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Commit one epoch's bits, which are the same on all ranks."""
        self._ranks.ask(lambda: self._backend.put_epoch(round, epoch, bits))

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Attach an epoch's scalars."""
        self._ranks.ask(lambda: self._backend.put_metrics(round, epoch, metrics))

    def finish(self, round: int) -> RoundResult:
        """Freeze the round and return its clean set."""
        return self._ranks.ask(lambda: self._backend.finish(round))

    def weights(self, result: RoundResult) -> NDArray[np.float32]:
        """How likely each sample's label is right after a finished round, shape (n_samples,)."""
        return self._ranks.ask(lambda: self._backend.weights(result))
