"""Held-out agreement: whether networks predict the labels of samples that they were not trained on beyond chance.

Bits of a training cannot tell labels that are all random from labels that are partly wrong: a network memorises both.
What it has memorised says nothing about samples that it has not seen, so random labels are agreed with by chance alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mild_core.errors import InvalidInput

REQUIRED_ERRORS = 3.0
"""Standard errors above chance from which on labels are said to carry signal."""


@dataclass(frozen=True, slots=True)
class HeldOutAgreement:
    """How often held-out predictions agree with the given labels.

    Attributes
    ----------
    n_samples
        Samples that were judged.
    agreement
        Share of them whose given label was predicted.
    chance
        The share that labels which have nothing to do with the predictions would reach.
    standard_error
        Of that share; 0 where it cannot vary, as with one class or one predicted class.
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
    def told(self) -> str:
        """The finding as a sentence."""
        said = "the labels carry signal" if self.carries_signal else "THE LABELS CARRY NO SIGNAL THAT COULD BE FOUND"
        return (
            f"held-out agreement {self.agreement:.3f}, by chance {self.chance:.3f} "
            f"(standard error {self.standard_error:.4f}, z = {self.z:.1f}): {said}"
        )


def held_out_agreement(
    given: NDArray[np.integer], predicted: NDArray[np.integer], n_classes: int, fold: NDArray[np.integer] | None = None
) -> HeldOutAgreement:
    """Compare the given labels with those predicted by networks that were trained on other samples.

    Parameters
    ----------
    given
        Shape (n_samples,), the given labels.
    predicted
        Shape (n_samples,), the predicted ones.
    n_classes
        Both are 0..n_classes-1.
    fold
        Shape (n_samples,), small numbers from 0 on: samples of one fold were judged by one network. None: all were.

    Raises
    ------
    InvalidInput
        If there is no sample, or the arrays differ in shape.

    Notes
    -----
    Chance and its standard error are those of shuffling the given labels within a fold, ``n`` samples of which ``g[k]``
    are given the class ``k`` and ``p[k]`` are predicted as it: with ``s = sum g p``, the number of agreements has mean
    ``s / n`` and variance ``(n^2 s - n sum g p (g + p) + s^2) / (n^2 (n - 1))``, as under Cohen's kappa (Fleiss, Cohen
    and Everitt 1969). So uneven classes, and a network that predicts one of them most of the time, feign nothing.
    """
    if not given.size or given.shape != predicted.shape or (fold is not None and fold.shape != given.shape):
        shapes = ", ".join(str(array.shape) for array in (given, predicted, fold) if array is not None)
        raise InvalidInput(
            f"labels, predictions and folds have the shapes {shapes}; give one of each for at least 1 sample"
        )
    fold = np.zeros(given.shape, dtype=np.int64) if fold is None else fold
    expected = variance = 0.0
    for number in np.unique(fold):
        own = fold == number
        mean, spread = _by_chance(given[own], predicted[own], n_classes)
        expected, variance = expected + mean, variance + spread
    n = given.size
    excess = float((given == predicted).sum()) - expected
    z = excess / variance**0.5 if variance > 0 else 0.0
    return HeldOutAgreement(
        n_samples=n,
        agreement=float((given == predicted).mean()),
        chance=expected / n,
        standard_error=variance**0.5 / n,
        z=z,
        carries_signal=z > REQUIRED_ERRORS,
    )


def _by_chance(given: NDArray[np.integer], predicted: NDArray[np.integer], n_classes: int) -> tuple[float, float]:
    """Mean and variance of the number of agreements, were the given labels shuffled."""
    n = given.size
    g, p = (np.bincount(labels, minlength=n_classes).astype(np.float64) for labels in (given, predicted))
    s = float(g @ p)
    if n == 1:
        return s, 0.0
    variance = (n**2 * s - n * float((g * p) @ (g + p)) + s**2) / (n**2 * (n - 1))
    return s / n, max(variance, 0.0)
