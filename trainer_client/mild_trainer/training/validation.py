"""Validation samples, which are held out of all training to compare rounds by how well they predict the labels.

These labels are as noisy as all others. A network trained on a cleaner set agrees with more of them: labels that are
wrong at random cannot be learnt from other samples, and a network that has memorised wrong labels has memorised others.
Where wrong labels follow a pattern, agreement with them can be learnt, too.
"""

import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_trainer.errors import DataError
from mild_trainer.noise import Labels, draw_stratified_order


def hold_out_samples(labels: Labels, share: float, seed: int) -> Bitmap:
    """Draw the validation samples from every class, in proportion to the size of the class.

    Parameters
    ----------
    labels
        Shape (n_samples,), the given labels.
    share
        Share of the samples to hold out, in 0..0.5.
    seed
        Seed of the draw.

    Returns
    -------
    held_out
        Bitmap of the validation samples, shape (n_bytes,).
    """
    n_samples = len(labels)
    n_held_out = round(share * n_samples)
    if share and (n_held_out == 0 or n_samples - n_held_out < 2):
        raise DataError(
            f"--validation {share:g} holds {n_held_out} of {n_samples} training samples out, at least 1 is needed and "
            "2 have to be left; give another share, or 0"
        )
    positions = (np.arange(n_held_out) + 0.5) * (n_samples / max(n_held_out, 1))
    return bitmap.from_indices(draw_stratified_order(labels, (seed, 4))[positions.astype(np.int64)], n_samples)
