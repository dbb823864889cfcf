"""What a network still knows late in its training, and what it has learnt by heart by then.

Clean samples are easy to memorise and hard to forget, mislabelled ones the reverse. Counts say how often a sample was
known; the order of the epochs says whether what a fit takes for clean and for mislabelled behaves like that.

Where samples taken for clean are forgotten over and over until the end, the network has not learnt its right labels by
heart, and the hard ones among them lie where mislabelled samples do. Where those taken for mislabelled are known in the
end, the network has learnt the wrong labels by heart, and only its early epochs tell them apart (docs/method.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import RoundBits

_QUARTER = 4


def forgotten(rounds: Sequence[RoundBits], samples: Bitmap) -> float | None:
    """Share of what samples knew in one epoch that they had forgotten in the next, in the second half of the epochs.

    Parameters
    ----------
    rounds
        The second half of each one's epochs counts.
    samples
        Shape (n_bytes,): whom to follow, in every round that they were trained in.

    Returns
    -------
    float | None
        In 0..1; None where nobody was known in one epoch and observed in the next.
    """
    known = lost = 0
    for bits, followed in _trained(rounds, samples):
        for epoch in range(bits.n_epochs // 2, bits.n_epochs - 1):
            before = bits.correct[epoch] & followed
            if bits.observed is not None:
                before &= bits.observed[epoch + 1]
            known += bitmap.popcount(before)
            lost += bitmap.popcount(before & ~bits.correct[epoch + 1])
    return lost / known if known else None


def known_late(rounds: Sequence[RoundBits], samples: Bitmap) -> float | None:
    """Share of the last quarter of the epochs in which samples were known.

    Parameters
    ----------
    rounds, samples
        As in `forgotten`.

    Returns
    -------
    float | None
        In 0..1; None where nobody was observed.
    """
    known = seen = 0
    for bits, followed in _trained(rounds, samples):
        for epoch in range(bits.n_epochs - _quarter(bits), bits.n_epochs):
            known += bitmap.popcount(bits.correct[epoch] & followed)
            seen += bitmap.popcount(followed if bits.observed is None else bits.observed[epoch] & followed)
    return known / seen if seen else None


def early(rounds: Sequence[RoundBits]) -> list[RoundBits]:
    """The first quarter of every round's epochs."""
    return [
        replace(
            bits,
            correct=bits.correct[: _quarter(bits)],
            observed=None if bits.observed is None else bits.observed[: _quarter(bits)],
        )
        for bits in rounds
    ]


def _quarter(bits: RoundBits) -> int:
    return -(-bits.n_epochs // _QUARTER)


def _trained(rounds: Sequence[RoundBits], samples: Bitmap) -> Iterator[tuple[RoundBits, Bitmap]]:
    """Each round, and those of the samples that it was trained on."""
    for bits in rounds:
        yield bits, samples if bits.members is None else samples & bits.members
