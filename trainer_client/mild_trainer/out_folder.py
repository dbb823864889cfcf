"""The folder of a training: one training in each, and a new one for each training that names none."""

import itertools
from pathlib import Path

from mild_trainer.errors import TrainerError


def choose_out_folder(out: Path | None, default: Path, resume: bool) -> Path:
    """Return the folder of a training.

    Parameters
    ----------
    out
        The folder that was asked for; None takes `default`, or the first of ``default-2``, ``default-3``, … without a
        training, or when resuming the last one with a training.
    default
        Folder of the first training that names none.
    resume
        Whether a training in the folder is resumed.
    """
    if out is None:
        free = last = default
        for number in itertools.count(2):
            if not holds_training(free):
                break
            last, free = free, default.with_name(f"{default.name}-{number}")
        return last if resume else free
    if not resume and holds_training(out):
        state = "a finished training" if (out / "summary.json").exists() else "an unfinished training"
        raise TrainerError(
            f"--out {out} holds {state}; give another folder for a new training, or --resume to go on with this one"
        )
    return out


def holds_training(folder: Path) -> bool:
    """Return whether a training has written its checkpoint or its summary into a folder."""
    return any((folder / name).exists() for name in ("checkpoint.pt", "summary.json"))
