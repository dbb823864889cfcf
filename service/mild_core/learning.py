"""Signs that a network was still learning when its training ended.

Such a network misclassifies clean samples that it has yet to learn as often as mislabelled ones, and a fit calls them
mislabelled. What tells the two apart is the order of the epochs: a mislabelled sample is forgotten again soon after it
is memorised, since the samples around it say otherwise, and a clean one that was learnt late is not.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.dynamics import LateDynamics, count_late_dynamics
from mild_core.forgetting import FORGETTING_LIMIT, Forgetting, quarter_length
from mild_core.mixture.weibull import Floats
from mild_core.types import RoundBits
from mild_core.verdict import SINGLE_WEIGHT

LEARNING_Z = 4.0
"""Agreement that rises over the last quarter by more than this many standard errors of its slope is still rising."""
LEARNING_UNLEARNT = 0.5
"""Share of samples that were never memorised from which next to nothing is learnt."""
_MIN_TREND = 3
"""Fewest epochs with a slope that has a standard error."""
MIN_LEARNING_EPOCHS = 2 * _MIN_TREND
"""Fewest epochs of a round that show whether the network was still learning at its end."""


@dataclass(frozen=True, slots=True, eq=False)
class LearningCounts:
    """What tells whether a network was still learning, counted over members that are not planted; counts add up.

    Attributes
    ----------
    n_known, n_observed
        Shape (n_epochs,) each: samples that were memorised, and observed, in every epoch; of `n_known`, at least the
        last `_count_trend_epochs`.
    n_unlearnt, n_seen
        Samples that were observed and never memorised, and those that were observed.
    n_memorised, n_forgotten
        What `Forgetting` counts, of the samples that were misclassified in most epochs.
    """

    n_known: NDArray[np.int64]
    n_observed: NDArray[np.int64]
    n_unlearnt: int
    n_seen: int
    n_memorised: int
    n_forgotten: int

    def __add__(self, other: "LearningCounts") -> "LearningCounts":
        return LearningCounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def count_learning(bits: RoundBits, counts: LateDynamics | None = None) -> LearningCounts:
    """Count what tells whether a network was still learning at the end of a round.

    Parameters
    ----------
    bits
        The round.
    counts
        `count_late_dynamics` of the round, where the caller has it.
    """
    counts = count_late_dynamics(bits) if counts is None else counts
    samples = bitmap.full(bits.n_samples) if bits.members is None else bits.members
    if bits.planted is not None:
        samples = samples & ~bits.planted
    if bits.observed is None:
        n_observed = np.full(bits.n_epochs, bitmap.popcount(samples), dtype=np.int64)
        n_known = np.zeros(bits.n_epochs, dtype=np.int64)
        last = slice(max(bits.n_epochs - _count_trend_epochs(bits.n_epochs), 0), None)
        n_known[last] = bitmap.popcount_rows(bits.correct[last], samples)
    else:
        n_observed, n_known = (bitmap.popcount_rows(rows, samples) for rows in (bits.observed, bits.correct))
    is_counted = bitmap.unpack(samples, bits.n_samples)
    is_seen = is_counted & (counts.observed > 0)
    is_hard = is_counted & (counts.misclassified > counts.memorised)
    return LearningCounts(
        n_known,
        n_observed,
        n_unlearnt=int(np.count_nonzero(is_seen & (counts.memorised == 0))),
        n_seen=int(np.count_nonzero(is_seen)),
        n_memorised=int((counts.late_memorised * is_hard).sum(dtype=np.int64)),
        n_forgotten=int((counts.late_forgotten * is_hard).sum(dtype=np.int64)),
    )


def find_unfinished_training(counts: LearningCounts) -> str | None:
    """Find out whether a network was still learning at the end of a round.

    It was if its agreement with the labels still rises, or if it has never memorised most samples; unless samples that
    are misclassified in most epochs are forgotten as mislabelled ones are.

    Returns
    -------
    str | None
        The reason in numbers; None if training was finished.
    """
    sign = _find_rise(counts) or _find_unlearnt(counts)
    if sign is None:
        return None
    forgetting = Forgetting(counts.n_memorised, counts.n_forgotten)
    if forgetting.is_shown_above(FORGETTING_LIMIT):
        return None
    return f"{sign}, and {_describe_forgetting(forgetting)}: the network is still learning; train longer"


def _count_trend_epochs(n_epochs: int) -> int:
    """Return the number of last epochs over which the agreement is followed."""
    return max(quarter_length(n_epochs), _MIN_TREND)


def _find_rise(counts: LearningCounts) -> str | None:
    """Describe the rise of the agreement over the last quarter of the epochs.

    None if it is within its noise, or if the samples that are still misclassified are too few to be a population.
    """
    is_observed = counts.n_observed > 0
    agreement = counts.n_known[is_observed] / counts.n_observed[is_observed]
    if agreement.size < MIN_LEARNING_EPOCHS:
        return None
    last = agreement[-_count_trend_epochs(counts.n_observed.size) :]
    rise, standard_error = _measure_rise(last)
    if rise <= LEARNING_Z * standard_error + 1e-9 or 1 - last[-1] < SINGLE_WEIGHT:
        return None
    return (
        f"agreement with the labels rose by {rise:.3f} to {last[-1]:.3f} over the last {last.size} epochs (finished "
        f"within {LEARNING_Z:g} standard errors, {LEARNING_Z * standard_error:.3f})"
    )


def _find_unlearnt(counts: LearningCounts) -> str | None:
    """Describe the share of the observed samples that were never memorised; None if most were."""
    if counts.n_unlearnt <= LEARNING_UNLEARNT * counts.n_seen:
        return None
    share = counts.n_unlearnt / counts.n_seen
    return f"{share:.0%} of the samples were never known (learnt up to {LEARNING_UNLEARNT:.0%})"


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
