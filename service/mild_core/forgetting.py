"""Forgetting and late memorisation: the order of a sample's epochs shows where a fit misleads.

Clean samples are easy to memorise and hard to forget, mislabelled ones the reverse. Where likely clean samples are
forgotten until the end of training, the network has not memorised the right labels, and hard clean samples have the
scores of mislabelled ones. Where likely mislabelled samples are memorised late in training, only the early epochs
separate them from clean ones (docs/method.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.dynamics import LateDynamics
from mild_core.proportions import bound_share
from mild_core.types import RoundBits

Counts: TypeAlias = NDArray[np.integer]

FORGETTING_LIMIT = 0.05
"""Of the epochs in which clean samples are memorised, a smaller share is followed by one in which they are forgotten;
of those of mislabelled samples, a larger one."""

MIN_EPOCHS = 7
"""Fewest epochs that a fit needs; by ``mild-simple``, these have one bin more."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """How often memorised samples were forgotten in the next epoch.

    Attributes
    ----------
    n_memorised
        Pairs of a memorised epoch and the observed epoch after it, summed over the samples.
    n_forgotten
        Those of them in which the sample was forgotten.
    """

    n_memorised: int
    n_forgotten: int

    @property
    def share(self) -> float | None:
        """Share that was forgotten; None if nothing was memorised that could be forgotten."""
        return self.n_forgotten / self.n_memorised if self.n_memorised else None

    def is_below(self, limit: float) -> bool:
        """Whether the share is below `limit`, counted often enough that a share of 0 is below it by more than noise."""
        return self.share is not None and self.share < limit and bool(bound_share(0.0, self.n_memorised)[1] < limit)

    def is_shown_above(self, limit: float) -> bool:
        """Whether the share is above `limit` by more than its noise."""
        return self.share is not None and bool(bound_share(self.share, self.n_memorised)[0] > limit)


def sum_forgetting(rounds: Sequence[RoundBits], dynamics: Sequence[LateDynamics]) -> tuple[Counts, Counts]:
    """Sum what `Forgetting` counts for every sample, over the second half of the rounds that it is a member of.

    Parameters
    ----------
    rounds
        Rounds of the same samples.
    dynamics
        `count_late_dynamics` of every round.

    Returns
    -------
    n_memorised, n_forgotten
        Shape (n_samples,) each.
    """
    if len(rounds) == 1 and rounds[0].members is None:
        return dynamics[0].late_memorised, dynamics[0].late_forgotten
    n_memorised, n_forgotten = (np.zeros(rounds[0].n_samples, dtype=np.int32) for _ in range(2))
    for bits, counts in zip(rounds, dynamics, strict=True):
        is_member = True if bits.members is None else bitmap.unpack(bits.members, bits.n_samples)
        n_memorised += counts.late_memorised * is_member
        n_forgotten += counts.late_forgotten * is_member
    return n_memorised, n_forgotten


def count_late_memorisation(rounds: Sequence[RoundBits], samples: Bitmap) -> tuple[int, int]:
    """Count the epochs in which samples are memorised, over the last quarter of every round.

    Parameters
    ----------
    rounds
        Rounds of the same samples.
    samples
        Shape (n_bytes,), the samples to count; a sample counts in the rounds that it is a member of.

    Returns
    -------
    n_memorised, n_observed
        Numbers of memorised and of observed epochs, summed over the samples.
    """
    n_memorised = n_observed = 0
    for bits in rounds:
        members = samples if bits.members is None else samples & bits.members
        last = slice(bits.n_epochs - quarter_length(bits.n_epochs), None)
        n_memorised += int(bitmap.popcount_rows(bits.correct[last], members).sum())
        if bits.observed is None:
            n_observed += quarter_length(bits.n_epochs) * bitmap.popcount(members)
        else:
            n_observed += int(bitmap.popcount_rows(bits.observed[last], members).sum())
    return n_memorised, n_observed


def take_first_quarter(rounds: Sequence[RoundBits]) -> list[RoundBits]:
    """Return every round with only the first quarter of its epochs (`shorten_round`)."""
    return [bits.take_epochs(slice(shorten_round(bits.n_epochs))) for bits in rounds]


def shorten_round(n_epochs: int) -> int:
    """Return the number of epochs in the first quarter of a round: rounded up, and enough for a fit."""
    return min(n_epochs, max(quarter_length(n_epochs), MIN_EPOCHS))


def quarter_length(n_epochs: int) -> int:
    """Return the number of epochs in a quarter of a round, rounded up."""
    return -(-n_epochs // 4)
