"""Weights of samples in a loss: how likely each label is right, as far as that can be told."""

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap

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
