"""The recordings in ``sequences/``: correctness bits of real trainings, and which labels were right."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import RoundBits

Half: TypeAlias = Literal["choosing", "judging"]
"""Half of the data and of the seeds: settings are chosen on the first, and judged on the other one."""
HALVES: tuple[Half, ...] = get_args(Half)

FOLDER = Path(__file__).parent / "sequences"
ROUNDS = FOLDER / "rounds"
"""Trainings of several rounds."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """One round's bits.

    Attributes
    ----------
    members
        Shape (n_bytes,), the samples that the model was trained on.
    correct_train, correct_eval
        Shape (n_epochs, n_bytes): whether the training pass (members only) and the evaluation pass after it (all
        samples) predicted the label that was trained on.
    """

    members: Bitmap
    correct_train: Bitmap
    correct_eval: Bitmap


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One training.

    Attributes
    ----------
    name
        Name of the training, as in `benchmarks.record.Case.name`.
    n_samples
        Number of samples.
    clean
        Shape (n_bytes,), the samples whose given label is right.
    planted
        Shape (n_bytes,), the samples whose label was broken on purpose in round 0; None without any.
    rounds
        Rounds in order.
    """

    name: str
    n_samples: int
    clean: Bitmap
    planted: Bitmap | None
    rounds: tuple[Round, ...]

    def save(self, path: Path) -> None:
        """Write the recording; the file has nothing that differs between two runs."""
        arrays: dict[str, NDArray[Any]] = {"n_samples": np.array(self.n_samples), "clean": self.clean}
        if self.planted is not None:
            arrays["planted"] = self.planted
        for number, round_ in enumerate(self.rounds):
            arrays |= {f"{field}_{number}": getattr(round_, field) for field in Round.__slots__}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recording."""
        with np.load(path) as arrays:
            n_rounds = sum(key.startswith("members_") for key in arrays)
            rounds = tuple(Round(*(arrays[f"{field}_{r}"] for field in Round.__slots__)) for r in range(n_rounds))
            planted = arrays.get("planted")
            return cls(path.stem, int(arrays["n_samples"]), arrays["clean"], planted, rounds)

    def evidence(self, bits: Literal["correct_eval", "correct_train"] = "correct_eval") -> tuple[RoundBits, ...]:
        """Return the rounds with the bits of one of the two passes."""
        return tuple(
            RoundBits(self.n_samples, getattr(r, bits), members=r.members, planted=None if number else self.planted)
            for number, r in enumerate(self.rounds)
        )

    @property
    def is_clean(self) -> NDArray[np.bool_]:
        """Mask of the samples whose given label is right, shape (n_samples,)."""
        return bitmap.unpack(self.clean, self.n_samples)


def load_recordings(half: Half | None = None, folder: Path = FOLDER) -> list[Recording]:
    """Load all recordings of a folder, or those for choosing defaults or for judging them."""
    paths = sorted(folder.glob("*.npz"))
    return [Recording.load(path) for path in paths if half is None or _get_half(path) == half]


def _get_half(path: Path) -> Half:
    """Return the half of a recording: seeds 0 and 100 to 199 are for choosing, 1 and 200 to 299 for judging."""
    seed = int(path.stem.rpartition("_s")[2])
    return HALVES[seed if seed < 100 else seed // 100 - 1]
