"""Signs that a network was still learning when its training ended.

Such a network misclassifies clean samples that it has yet to learn as often as mislabelled ones, and a fit calls them
mislabelled. What tells the two apart is the order of the epochs: a mislabelled sample is forgotten again soon after it
is memorised, since the samples around it say otherwise, and a clean one that was learnt late is not.
"""

import numpy as np

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.dynamics import count_dynamics
from mild_core.forgetting import FORGETTING_LIMIT, Forgetting, measure_forgetting, quarter_length
from mild_core.mixture.weibull import Floats
from mild_core.types import RoundBits

LEARNING_Z = 4.0
"""Agreement that rises over the last quarter by more than this many standard errors of its slope is still rising."""
LEARNING_UNLEARNT = 0.5
"""Share of samples that were never memorised from which next to nothing is learnt."""
_MIN_TREND = 3
"""Fewest epochs with a slope that has a standard error."""
MIN_LEARNING_EPOCHS = 2 * _MIN_TREND
"""Fewest epochs of a round that show whether the network was still learning at its end."""


def find_unfinished_training(bits: RoundBits) -> str | None:
    """Find out whether a network was still learning at the end of a round.

    It was if its agreement with the labels still rises, or if it has never memorised most samples; unless samples that
    are misclassified in most epochs are forgotten as mislabelled ones are.

    Parameters
    ----------
    bits
        The round. Its members that are not planted count.

    Returns
    -------
    str | None
        The reason in numbers; None if training was finished.
    """
    samples = bitmap.full(bits.n_samples) if bits.members is None else bits.members
    if bits.planted is not None:
        samples = samples & ~bits.planted
    sign = _find_rise(bits, samples) or _find_unlearnt(bits, samples)
    if sign is None:
        return None
    counts = count_dynamics(bits)
    forgetting = measure_forgetting([bits], samples & bitmap.pack(counts.misclassified > counts.memorised))
    if forgetting.is_shown_above(FORGETTING_LIMIT):
        return None
    return f"{sign}, and {_describe_forgetting(forgetting)}: the network is still learning; train longer"


def _find_rise(bits: RoundBits, samples: Bitmap) -> str | None:
    """Describe the rise of the agreement over the last quarter of the epochs; None if it is within its noise."""
    agreement = _measure_agreement(bits, samples)
    if agreement.size < MIN_LEARNING_EPOCHS:
        return None
    last = agreement[-max(quarter_length(bits), _MIN_TREND) :]
    rise, standard_error = _measure_rise(last)
    if rise <= LEARNING_Z * standard_error + 1e-9:
        return None
    return (
        f"agreement with the labels rose by {rise:.3f} to {last[-1]:.3f} over the last {last.size} epochs (finished "
        f"within {LEARNING_Z:g} standard errors, {LEARNING_Z * standard_error:.3f})"
    )


def _find_unlearnt(bits: RoundBits, samples: Bitmap) -> str | None:
    """Describe the share of the observed samples that were never memorised; None if most were."""
    observed = samples if bits.observed is None else samples & np.bitwise_or.reduce(bits.observed)
    n_observed = bitmap.popcount(observed)
    n_unlearnt = bitmap.popcount(observed & ~np.bitwise_or.reduce(bits.correct))
    if n_unlearnt <= LEARNING_UNLEARNT * n_observed:
        return None
    return f"{n_unlearnt / n_observed:.0%} of the samples were never known (learnt up to {LEARNING_UNLEARNT:.0%})"


def _describe_forgetting(forgetting: Forgetting) -> str:
    """Describe the forgetting of the samples that were misclassified in most epochs."""
    if forgetting.share is None:
        return "no sample that is hard to learn was ever known"
    return (
        f"{forgetting.n_forgotten} of {forgetting.n_memorised} times that a sample that is hard to learn was known, it "
        f"was forgotten in the next epoch (mislabelled ones: more than {FORGETTING_LIMIT:.0%})"
    )


def _measure_rise(agreement: Floats) -> tuple[float, float]:
    """Measure the rise of a straight line through the agreement, shape (n_epochs,), and its standard error."""
    n_epochs = agreement.size
    epochs = np.arange(n_epochs) - (n_epochs - 1) / 2
    spread = float(epochs @ epochs)
    slope = float(epochs @ agreement) / spread
    residual = agreement - agreement.mean() - slope * epochs
    standard_error = float(np.sqrt(residual @ residual / (n_epochs - 2) / spread))
    return slope * (n_epochs - 1), standard_error * (n_epochs - 1)


def _measure_agreement(bits: RoundBits, samples: Bitmap) -> Floats:
    """Measure the share of observed samples that are memorised, for every epoch in which some were observed."""
    shares = []
    for epoch in range(bits.n_epochs):
        observed = samples if bits.observed is None else samples & bits.observed[epoch]
        n_observed = bitmap.popcount(observed)
        if n_observed:
            shares.append(bitmap.popcount(bits.correct[epoch] & observed) / n_observed)
    return np.array(shares, dtype=np.float64)
