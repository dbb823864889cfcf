"""Planting of labels: labels of some samples are made wrong on purpose, to measure how wrong labels are learnt.

Planted labels should resemble the errors of annotators: a uniformly drawn label is harder to memorise than a confusion
of similar classes. So planted labels are drawn from the confusions of a briefly trained network, which predicts the
true class before it memorises the given label. Its predictions and the given labels estimate which labels annotators
give to which class (as in confident learning, Northcutt et al. 2021).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_trainer.noise import Labels


@dataclass(frozen=True, slots=True, eq=False)
class PlantedLabels:
    """The labels to train on, and which of them are planted.

    Attributes
    ----------
    labels
        Shape (n_samples,), the given labels, except for the planted samples.
    planted
        Shape (n_bytes,), the bitmap of the samples whose label was replaced.
    """

    labels: Labels
    planted: Bitmap

    @property
    def n_planted(self) -> int:
        """Number of samples whose label was replaced."""
        return bitmap.popcount(self.planted)


def plant_labels(
    given_labels: Labels,
    n_classes: int,
    fraction: float,
    seed: int,
    predicted_labels: NDArray[np.integer] | None = None,
    held_out: Bitmap | None = None,
) -> PlantedLabels:
    """Replace the labels of a random `fraction` of the samples by other classes.

    Parameters
    ----------
    given_labels
        Shape (n_samples,), the given labels.
    n_classes
        Labels are 0..n_classes-1. With one class, no label is planted.
    fraction
        Share of the samples that are not held out whose labels are replaced, in 0..1.
    seed
        Seed of the draw of the samples and of their labels.
    predicted_labels
        Shape (n_samples,), classes predicted by a briefly trained network. Labels are drawn from its confusions, and
        samples whose given label it predicts are taken first. None draws samples and labels uniformly.
    held_out
        Shape (n_bytes,), bitmap of the samples that are not trained on and keep their label; None if there are none.

    Notes
    -----
    A planted label of a mislabelled sample would be wrong in a way in which annotators are not. With structured noise
    it is memorised later than the other wrong labels, and at a noise rate of 0.4 this concerns 40% of uniformly drawn
    samples. Samples whose given label the briefly trained network predicts are mostly labelled correctly.
    """
    # Independent of label noise with the same seed; otherwise the mislabelled samples would be planted.
    rng = np.random.default_rng([seed, 1])
    predicted_labels = given_labels if predicted_labels is None else predicted_labels
    order = rng.permutation(len(given_labels))
    order = order[np.argsort(predicted_labels[order] != given_labels[order], kind="stable")]
    if held_out is not None:
        order = order[~bitmap.unpack(held_out, len(given_labels))[order]]
    planted = order[: round(fraction * len(order)) if n_classes > 1 else 0]
    probabilities = estimate_transitions(given_labels[order], predicted_labels[order], n_classes)
    labels = given_labels.copy()
    cumulative = probabilities.cumsum(axis=1)[given_labels[planted]]
    labels[planted] = (cumulative <= rng.random((len(planted), 1)) * cumulative[:, -1:]).sum(axis=1)
    return PlantedLabels(labels, bitmap.from_indices(planted, len(given_labels)))


def estimate_transitions(
    given_labels: Labels, predicted_labels: NDArray[np.integer], n_classes: int
) -> NDArray[np.float64]:
    """Return the probability of each wrong label for each class, shape (n_classes, n_classes); rows sum to one.

    Row ``i`` counts the given labels other than ``i`` among the samples predicted as ``i``. One additional count is
    spread over all other classes, so that unseen confusions are possible, and a class without confusions is uniform.
    """
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (predicted_labels, given_labels), 1.0)
    counts += 1.0 / max(n_classes - 1, 1)
    np.fill_diagonal(counts, 0.0)
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
    return shares
