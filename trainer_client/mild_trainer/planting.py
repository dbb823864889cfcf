"""Planted noise: labels that are broken on purpose and on record, so that it can be seen how broken labels are learnt.

Where planted labels differ from what annotators get wrong, they are learnt differently, and mislead: a uniformly drawn
label is harder to memorise than a confusion of neighbours. So a planted label is drawn along the confusions that a
barely trained network shows: it predicts the true class well before it memorises the given one, and what it predicts
against what is given estimates which label the annotators give to which class (as confident learning does, Northcutt
et al. 2021).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_trainer.noise import Labels


@dataclass(frozen=True, slots=True, eq=False)
class Planting:
    """Who was mislabelled on purpose, and the labels to train on.

    Attributes
    ----------
    labels
        Shape (n_samples,), the given labels but for the planted ones.
    planted
        Shape (n_bytes,), the samples whose label was replaced.
    """

    labels: Labels
    planted: Bitmap

    @property
    def n_planted(self) -> int:
        """Samples whose label was replaced."""
        return bitmap.popcount(self.planted)


def plant(
    given: Labels,
    n_classes: int,
    fraction: float,
    seed: int,
    predicted: NDArray[np.integer] | None = None,
    held_out: Bitmap | None = None,
) -> Planting:
    """Replace the labels of a random `fraction` of the samples by other ones.

    Parameters
    ----------
    given
        Shape (n_samples,), the given labels.
    n_classes
        Labels are 0..n_classes-1; of one class nothing can be planted.
    fraction
        Share of the samples, in 0..1; so many, rounded, of those not held out are drawn without replacement.
    seed
        Of the samples and of the labels drawn.
    predicted
        Shape (n_samples,), classes predicted by a barely trained network: labels are drawn along its confusions, of the
        samples whose given label it predicts as long as there are such. None draws samples and labels uniformly.
    held_out
        Shape (n_bytes,), samples that are not trained on, and keep their label; None: nobody.

    Notes
    -----
    A label whose sample is mislabelled already would be broken twice, into something that no annotator gives: where
    noise has a structure it is memorised later than the noise there is, and 40% of uniformly drawn samples are such at
    a noise of 0.4. What a barely trained network predicts is mostly labelled right.
    """
    # Not the stream that label noise of the same seed draws from: it would plant among the labels that it broke.
    rng = np.random.default_rng([seed, 1])
    predicted = given if predicted is None else predicted
    order = rng.permutation(len(given))
    order = order[np.argsort(predicted[order] != given[order], kind="stable")]
    if held_out is not None:
        order = order[~bitmap.unpack(held_out, len(given))[order]]
    chosen = order[: round(fraction * len(order)) if n_classes > 1 else 0]
    chances = transitions(given[order], predicted[order], n_classes)
    labels = given.copy()
    reached = chances.cumsum(axis=1)[given[chosen]]
    labels[chosen] = (reached <= rng.random((len(chosen), 1)) * reached[:, -1:]).sum(axis=1)
    return Planting(labels, bitmap.from_indices(chosen, len(given)))


def transitions(given: Labels, predicted: NDArray[np.integer], n_classes: int) -> NDArray[np.float64]:
    """Estimate which wrong label each class is given, shape (n_classes, n_classes), rows summing to one.

    Row ``i`` counts the given labels other than ``i`` among the samples predicted as ``i``; one count spread over all
    other classes keeps an unseen confusion possible and an unconfused class uniform.
    """
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (predicted, given), 1.0)
    counts += 1.0 / max(n_classes - 1, 1)
    np.fill_diagonal(counts, 0.0)
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
    return shares
