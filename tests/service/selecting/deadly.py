"""Sources of samples whose reading fails, and a worker that never starts; processes find them here by name."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.bitmap import Bitmap
from mild_core.errors import MildError
from mild_core.sources import SampleBlock, split_bytes
from mild_core.types import RoundBits
from tests.service.recordings import recording

PART_BYTES = 50
N_PARTS = 5
N_SAMPLES = PART_BYTES * 8 * N_PARTS
N_EPOCHS = 12


def record_round() -> RoundBits:
    """All bits of the sources."""
    bodies = recording(N_SAMPLES, N_EPOCHS)
    return RoundBits(N_SAMPLES, np.stack([np.frombuffer(body, dtype=np.uint8) for body in bodies]))


@dataclass(frozen=True)
class FailingPart:
    """A part whose reading fails.

    Attributes
    ----------
    extent
        As in `SamplePart`.
    error
        What is raised; None where the process ends instead.
    n_deaths
        How many processes that read this part are killed.
    folder
        Where the deaths are counted.
    """

    extent: slice
    error: MildError | None
    n_deaths: int
    folder: Path

    def read(self) -> SampleBlock:
        if self.error is not None:
            raise self.error
        n_before = len(list(self.folder.iterdir()))
        if n_before < self.n_deaths:
            (self.folder / f"{n_before}-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return SampleBlock([record_round()]).take(self.extent)

    def read_labels(self) -> NDArray[np.integer]:
        raise NotImplementedError


class FailingSource:
    """A source of one or several parts, the last of which fails as a `FailingPart`."""

    is_shared = True
    n_samples = N_SAMPLES
    round_lengths = (N_EPOCHS,)
    planted_round: int | None = None
    members: Bitmap | None = None
    annotations = Annotations()

    def __init__(self, n_parts: int, folder: Path, n_deaths: int = 0, error: MildError | None = None) -> None:
        self._n_parts, self._folder, self._n_deaths, self._error = n_parts, folder, n_deaths, error

    def split(self) -> Sequence[FailingPart]:
        n_bytes = bitmap.n_bytes(N_SAMPLES)
        *others, last = split_bytes(n_bytes, n_bytes // self._n_parts)
        healthy = [FailingPart(extent, None, 0, self._folder) for extent in others]
        return [*healthy, FailingPart(last, self._error, self._n_deaths, self._folder)]


def never_start() -> None:
    """Keep a worker process from ever taking a task."""
    signal.pause()
