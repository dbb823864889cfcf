"""Samples that are held out of all training, so that the rounds can be compared by how well they predict their labels.

Their labels are as noisy as all others, and nobody cleans them: a network that was trained on a cleaner set agrees with
more of them, as nobody can learn the labels that are wrong at random, and a network that has learnt wrong labels by
heart has learnt others. Where wrong labels follow a pattern, agreeing with them can be learnt, too.
"""

import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_trainer.errors import DataError
from mild_trainer.noise import Labels, by_class


def hold_out(labels: Labels, share: float, seed: int) -> Bitmap:
    """Draw samples from every class, in proportion; shape (n_bytes,).

    Parameters
    ----------
    labels
        Shape (n_samples,), as given.
    share
        Of the samples, in 0..0.5; 0 holds out nobody.
    seed
        Of the choice.

    Raises
    ------
    DataError
        If nobody would be held out of a `share` above 0, or fewer than two samples would be left.
    """
    n_samples = len(labels)
    n_held = round(share * n_samples)
    if share and (n_held == 0 or n_samples - n_held < 2):
        raise DataError(
            f"--validation {share:g} holds {n_held} of {n_samples} training samples out, at least 1 is needed and 2 "
            "have to be left; give another share, or 0"
        )
    evenly = (np.arange(n_held) + 0.5) * (n_samples / max(n_held, 1))
    return bitmap.from_indices(by_class(labels, (seed, 4))[evenly.astype(np.int64)], n_samples)
