"""Forgetting and late memorisation: the order of a sample's epochs shows where a fit misleads.

Clean samples are easy to memorise and hard to forget, mislabelled ones the reverse. Where likely clean samples are
forgotten until the end of training, the network has not memorised the right labels, and hard clean samples have the
scores of mislabelled ones. Where likely mislabelled samples are memorised late in training, only the early epochs
separate them from clean ones (docs/method.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.proportions import bound_share
from mild_core.types import RoundBits

FORGETTING_LIMIT = 0.05
"""Of the epochs in which clean samples are memorised, a smaller share is followed by one in which they are forgotten;
of those of mislabelled samples, a larger one."""


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


def measure_forgetting(rounds: Sequence[RoundBits], samples: Bitmap) -> Forgetting:
    """Measure how often a memorised sample is forgotten in the next epoch, over the second half of every round.

    Parameters
    ----------
    rounds
        Rounds of the same samples.
    samples
        Shape (n_bytes,), the samples to measure; a sample counts in the rounds that it is a member of.
    """
    n_memorised = n_forgotten = 0
    for bits, members in _iter_members(rounds, samples):
        for epoch in range(bits.n_epochs // 2, bits.n_epochs - 1):
            memorised = bits.correct[epoch] & members
            if bits.observed is not None:
                memorised &= bits.observed[epoch + 1]
            n_memorised += bitmap.popcount(memorised)
            n_forgotten += bitmap.popcount(memorised & ~bits.correct[epoch + 1])
    return Forgetting(n_memorised, n_forgotten)


def measure_late_memorisation(rounds: Sequence[RoundBits], samples: Bitmap) -> float | None:
    """Measure the share of epochs in which samples are memorised, over the last quarter of every round.

    Parameters
    ----------
    rounds
        Rounds of the same samples.
    samples
        Shape (n_bytes,), the samples to measure; a sample counts in the rounds that it is a member of.

    Returns
    -------
    float | None
        Number of memorised over number of observed epochs, in 0..1; None if no sample was observed.
    """
    n_memorised = n_observed = 0
    for bits, members in _iter_members(rounds, samples):
        for epoch in range(bits.n_epochs - quarter_length(bits), bits.n_epochs):
            n_memorised += bitmap.popcount(bits.correct[epoch] & members)
            n_observed += bitmap.popcount(members if bits.observed is None else bits.observed[epoch] & members)
    return n_memorised / n_observed if n_observed else None


def take_first_quarter(rounds: Sequence[RoundBits], min_epochs: int) -> list[RoundBits]:
    """Return every round with only the first quarter of its epochs, rounded up, and at least `min_epochs` of them."""
    quarters = []
    for bits in rounds:
        n_epochs = max(quarter_length(bits), min_epochs)
        observed = None if bits.observed is None else bits.observed[:n_epochs]
        quarters.append(replace(bits, correct=bits.correct[:n_epochs], observed=observed))
    return quarters


def quarter_length(bits: RoundBits) -> int:
    """Return the number of epochs in a quarter of a round, rounded up."""
    return -(-bits.n_epochs // 4)


def _iter_members(rounds: Sequence[RoundBits], samples: Bitmap) -> Iterator[tuple[RoundBits, Bitmap]]:
    """Yield every round with the members of the round that are in `samples`, shape (n_bytes,)."""
    for bits in rounds:
        yield bits, samples if bits.members is None else samples & bits.members
