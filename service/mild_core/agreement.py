"""Held-out agreement: whether networks predict the labels of samples that they were not trained on beyond chance.

The bits of a training cannot tell random labels from partly wrong ones, since a network memorises both. Memorisation
does not carry over to held-out samples, so predictions agree with random labels by chance only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import InvalidInput

REQUIRED_ERRORS = 3.0
"""Standard errors above chance from which labels carry signal."""


@dataclass(frozen=True, slots=True)
class HeldOutAgreement:
    """How often held-out predictions agree with the given labels.

    Attributes
    ----------
    n_samples
        Number of held-out samples.
    agreement
        Share of them whose given label was predicted.
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

    @property
    def summary_text(self) -> str:
        """The result in one sentence."""
        conclusion = (
            "the labels carry signal" if self.carries_signal else "THE LABELS CARRY NO SIGNAL THAT COULD BE FOUND"
        )
        return (
            f"held-out agreement {self.agreement:.3f}, by chance {self.chance:.3f} "
            f"(standard error {self.standard_error:.4f}, z = {self.z:.1f}): {conclusion}"
        )


def measure_agreement(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], n_classes: int, fold: NDArray[np.integer] | None = None
) -> HeldOutAgreement:
    """Compare given labels with the predictions of networks that were trained on other samples.

    Parameters
    ----------
    labels
        Shape (n_samples,), the given labels, in ``0..n_classes-1``.
    predicted
        Shape (n_samples,), the predicted labels, in ``0..n_classes-1``.
    n_classes
        Number of classes.
    fold
        Shape (n_samples,), number of the network that predicted each sample, from 0 on; None for a single network.

    Raises
    ------
    InvalidInput
        If there is no sample, or the arrays differ in shape.

    Notes
    -----
    Chance and its standard error are those of shuffling the given labels within a fold. Of the ``n`` samples of a fold,
    ``g[k]`` have the label ``k`` and ``p[k]`` are predicted as ``k``: with ``s = sum g p``, the number of agreements
    has mean ``s / n`` and variance ``(n^2 s - n sum g p (g + p) + s^2) / (n^2 (n - 1))``, as for Cohen's kappa (Fleiss,
    Cohen and Everitt 1969). So neither uneven classes nor a network that predicts mostly one of them raise `z`.
    """
    if not labels.size or labels.shape != predicted.shape or (fold is not None and fold.shape != labels.shape):
        shapes = ", ".join(str(array.shape) for array in (labels, predicted, fold) if array is not None)
        raise InvalidInput(
            f"labels, predictions and folds have the shapes {shapes}; give one of each for at least 1 sample"
        )
    fold = np.zeros(labels.shape, dtype=np.int64) if fold is None else fold
    expected = variance = 0.0
    for number in np.unique(fold):
        in_fold = fold == number
        fold_mean, fold_variance = _compute_chance_agreement(labels[in_fold], predicted[in_fold], n_classes)
        expected, variance = expected + fold_mean, variance + fold_variance
    n_samples = labels.size
    excess = float((labels == predicted).sum()) - expected
    z = excess / variance**0.5 if variance > 0 else 0.0
    return HeldOutAgreement(
        n_samples=n_samples,
        agreement=float((labels == predicted).mean()),
        chance=expected / n_samples,
        standard_error=variance**0.5 / n_samples,
        z=z,
        carries_signal=z > REQUIRED_ERRORS,
    )


def _compute_chance_agreement(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], n_classes: int
) -> tuple[float, float]:
    """Compute mean and variance of the number of agreements under shuffled labels."""
    n = labels.size
    g, p = (np.bincount(classes, minlength=n_classes).astype(np.float64) for classes in (labels, predicted))
    s = float(g @ p)
    if n == 1:
        return s, 0.0
    variance = (n**2 * s - n * float((g * p) @ (g + p)) + s**2) / (n**2 * (n - 1))
    return s / n, max(variance, 0.0)
