"""Planted labels: labels of some samples that are broken on purpose, to measure how wrong labels are learnt.

Planted labels that differ from the annotators' errors would be learnt differently: a uniformly drawn label is harder to
memorise than a confusion of similar classes. So planted labels are drawn along the confusions of a barely trained
network, which predicts the true class well before it memorises the given one: its predictions against the given labels
estimate which label the annotators give to which class (as in confident learning, Northcutt et al. 2021).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_trainer.noise import Labels


@dataclass(frozen=True, slots=True, eq=False)
class PlantedLabels:
    """The planted samples, and the labels to train on.

    Attributes
    ----------
    labels
        Shape (n_samples,), the given labels with the planted ones replaced.
    planted
        Shape (n_bytes,), the samples whose label was replaced.
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
    predicted: NDArray[np.integer] | None = None,
    held_out: Bitmap | None = None,
) -> PlantedLabels:
    """Replace the labels of a random `fraction` of the samples by other ones.

    Parameters
    ----------
    given_labels
        Shape (n_samples,), the given labels.
    n_classes
        Labels are 0..n_classes-1; with one class nothing is planted.
    fraction
        Share of the samples that are not held out, in 0..1.
    seed
        Seed of the samples and of their labels.
    predicted
        Shape (n_samples,), classes predicted by a barely trained network: labels are drawn along its confusions, first
        for samples whose given label it predicts. None draws samples and labels uniformly.
    held_out
        Shape (n_bytes,), samples that are not trained on, and keep their label; None: none.

    Notes
    -----
    The label of a mislabelled sample would be broken twice, into one that no annotator gives: with structured noise it
    is memorised later than the other wrong labels, and at a noise rate of 0.4 this concerns 40% of uniformly drawn
    samples. Samples whose label a barely trained network predicts are mostly labelled right.
    """
    # Independent of label noise with the same seed, which would plant labels that it broke.
    rng = np.random.default_rng([seed, 1])
    predicted = given_labels if predicted is None else predicted
    order = rng.permutation(len(given_labels))
    order = order[np.argsort(predicted[order] != given_labels[order], kind="stable")]
    if held_out is not None:
        order = order[~bitmap.unpack(held_out, len(given_labels))[order]]
    planted = order[: round(fraction * len(order)) if n_classes > 1 else 0]
    probabilities = estimate_transitions(given_labels[order], predicted[order], n_classes)
    labels = given_labels.copy()
    cumulative = probabilities.cumsum(axis=1)[given_labels[planted]]
    labels[planted] = (cumulative <= rng.random((len(planted), 1)) * cumulative[:, -1:]).sum(axis=1)
    return PlantedLabels(labels, bitmap.from_indices(planted, len(given_labels)))


def estimate_transitions(given_labels: Labels, predicted: NDArray[np.integer], n_classes: int) -> NDArray[np.float64]:
    """Estimate the probabilities of wrong labels by class, shape (n_classes, n_classes), rows summing to one.

    Row ``i`` counts the given labels other than ``i`` among the samples predicted as ``i``; one count spread over all
    other classes keeps an unseen confusion possible and an unconfused class uniform.
    """
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (predicted, given_labels), 1.0)
    counts += 1.0 / max(n_classes - 1, 1)
    np.fill_diagonal(counts, 0.0)
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
    return shares
