"""A random order, class after class: whoever takes every so many of it takes from every class in proportion."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mild_trainer.noise import Labels


def by_class(labels: Labels, seed: Sequence[int]) -> NDArray[np.int64]:
    """Return the indices of `labels`, shape (n_samples,), ordered by class and at random within each.

    Parameters
    ----------
    labels
        Shape (n_samples,).
    seed
        Of the order, and what it is for: with the seed alone, its first samples would be those that label noise of the
        same seed mislabels.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")]
