"""Held-out agreement: whether networks predict, better than chance, the labels of samples not used in their training.

The bits of a training cannot tell random labels from partly wrong ones, since a network memorises both. Memorisation
does not carry over to held-out samples, so predictions agree with random labels by chance only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import InvalidInput

REQUIRED_ERRORS = 3.0
"""Standard errors above chance from which labels carry signal."""


@dataclass(frozen=True, slots=True)
class HeldOutAgreement:
    """How often held-out predictions agree with the given labels, compared with chance.

    Attributes
    ----------
    n_samples
        Number of held-out samples.
    agreement
        Share of the held-out samples whose given label was predicted.
    chance
        Expected share for labels that are independent of the predictions.
    standard_error
        Standard error of `chance`; 0 where it cannot vary, as with one class or one predicted class.
    z
        Standard errors by which the agreement exceeds chance; 0 where it cannot vary.
    carries_signal
        Whether `z` is above `REQUIRED_ERRORS`.
    """

    n_samples: int
    agreement: float
    chance: float
    standard_error: float
    z: float
    carries_signal: bool

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Create the agreement from JSON values, of which other names are ignored."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    @property
    def summary_text(self) -> str:
        """The agreement, chance and the conclusion in one sentence."""
        conclusion = (
            "the labels carry signal" if self.carries_signal else "THE LABELS CARRY NO SIGNAL THAT COULD BE FOUND"
        )
        return (
            f"held-out agreement {self.agreement:.3f}, by chance {self.chance:.3f} "
            f"(standard error {self.standard_error:.4f}, z = {self.z:.1f}): {conclusion}"
        )


def measure_agreement(
    labels: NDArray[np.integer],
    predicted_labels: NDArray[np.integer],
    n_classes: int,
    folds: NDArray[np.integer] | None = None,
) -> HeldOutAgreement:
    """Measure how often held-out predictions agree with the given labels, and compare that with chance.

    Parameters
    ----------
    labels
        Shape (n_samples,), the given labels, in ``0..n_classes-1``.
    predicted_labels
        Shape (n_samples,), in ``0..n_classes-1``, predicted by networks that were not trained on the sample.
    n_classes
        Number of classes.
    folds
        Shape (n_samples,), number of the network that predicted each sample, from 0 on; None for a single network.

    Notes
    -----
    Chance and its standard error are those of shuffling the given labels within a fold. Of the ``n`` samples of a fold,
    ``g[k]`` have the label ``k`` and ``p[k]`` are predicted as ``k``: with ``s = sum g p``, the number of agreements
    has mean ``s / n`` and variance ``(n^2 s - n sum g p (g + p) + s^2) / (n^2 (n - 1))``, as for Cohen's kappa (Fleiss,
    Cohen and Everitt 1969). So neither uneven classes nor a network that predicts mostly one of them raise `z`.
    """
    if not labels.size or labels.shape != predicted_labels.shape or (folds is not None and folds.shape != labels.shape):
        shapes = ", ".join(str(array.shape) for array in (labels, predicted_labels, folds) if array is not None)
        raise InvalidInput(
            f"labels, predictions and folds have the shapes {shapes}; give one of each for at least 1 sample"
        )
    folds = np.zeros(labels.shape, dtype=np.int64) if folds is None else folds
    expected = variance = 0.0
    for fold in np.unique(folds):
        in_fold = folds == fold
        fold_mean, fold_variance = _compute_chance_agreement(labels[in_fold], predicted_labels[in_fold], n_classes)
        expected, variance = expected + fold_mean, variance + fold_variance
    n_samples = labels.size
    excess = float((labels == predicted_labels).sum()) - expected
    z = excess / variance**0.5 if variance > 0 else 0.0
    return HeldOutAgreement(
        n_samples=n_samples,
        agreement=float((labels == predicted_labels).mean()),
        chance=expected / n_samples,
        standard_error=variance**0.5 / n_samples,
        z=z,
        carries_signal=z > REQUIRED_ERRORS,
    )


def _compute_chance_agreement(
    labels: NDArray[np.integer], predicted_labels: NDArray[np.integer], n_classes: int
) -> tuple[float, float]:
    """Compute mean and variance of the number of agreements if the labels of one fold are shuffled."""
    n = labels.size
    g, p = (np.bincount(classes, minlength=n_classes).astype(np.float64) for classes in (labels, predicted_labels))
    s = float(g @ p)
    if n == 1:
        return s, 0.0
    variance = (n**2 * s - n * float((g * p) @ (g + p)) + s**2) / (n**2 * (n - 1))
    return s / n, max(variance, 0.0)
