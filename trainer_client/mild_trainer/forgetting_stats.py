"""The ``stats_dict`` files of example forgetting (Toneva et al. 2019), as its published training code pickles them.

The dictionary has an entry for each training sample, by its index: lists of losses, accuracies (0 or 1) and margins, a
value per epoch. The entries ``train`` and ``test`` describe whole data sets.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mild_core import bitmap
from mild_core.types import RoundBits
from mild_trainer.data import files
from mild_trainer.errors import DataError
from mild_trainer.recorded_bits import RecordedBits

SUFFIXES = (".pkl", ".pickle")
_REMEDY = (
    "give a stats_dict of example forgetting ({sample: [losses, accuracies, margins]}), or save an array `correct` of "
    "0 and 1, shape (n_epochs, n_samples), as .npy"
)


def read_forgetting_stats(path: Path) -> RecordedBits:
    """Read the accuracies of a ``stats_dict``; a sample with fewer epochs is unobserved in later ones."""
    content: dict[Any, Any] = files.read_pickle(path, _REMEDY)
    accuracies = {
        key: _read_accuracies(path, key, value) for key, value in content.items() if not isinstance(key, str | bytes)
    }
    if not accuracies:
        raise DataError(f"{path} holds no entry of a sample; {_REMEDY}")
    n_samples, n_epochs = max(accuracies) + 1, max(map(len, accuracies.values()))
    if n_samples > 100 * len(accuracies):
        raise DataError(
            f"{path} has {len(accuracies)} samples with indices up to {n_samples - 1}; number the samples from 0"
        )
    correct, observed = np.zeros((2, n_epochs, n_samples), dtype=bool)
    for index, values in accuracies.items():
        correct[: len(values), index] = values
        observed[: len(values), index] = True
    bits = RoundBits(n_samples, bitmap.pack(correct), None if observed.all() else bitmap.pack(observed))
    return RecordedBits([bits], description=f"{path}: {len(accuracies):,} samples in {n_epochs} epochs")


def _read_accuracies(path: Path, key: Any, value: Any) -> Any:
    """Return the accuracies of a sample as booleans, shape (n_epochs,)."""
    if not isinstance(key, int | np.integer) or key < 0:
        raise DataError(f"{path} has the entry {key!r:.60}, which is no index of a sample; {_REMEDY}")
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise DataError(f"{path}: the entry of sample {key} is {value!r:.60}; {_REMEDY}")
    accuracies = np.asarray(value[1])
    if accuracies.ndim != 1 or accuracies.dtype.kind not in "biuf" or not np.isin(accuracies, (0, 1)).all():
        raise DataError(f"{path}: the accuracies of sample {key} are {value[1]!r:.60}, not 0 or 1 each; {_REMEDY}")
    return accuracies.astype(bool)
