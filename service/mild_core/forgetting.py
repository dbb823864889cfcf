"""How readily the samples that a fit takes for clean are forgotten.

Clean samples are easy to memorise and hard to forget. Where those that a fit takes for clean are forgotten over and
over until the end, the network has not learnt its right labels by heart, and the hard ones among them lie where
mislabelled samples do. Counts cannot tell that; the order of the epochs can (docs/method.md).
"""

from collections.abc import Sequence

from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import RoundBits


def forgetting_rate(rounds: Sequence[RoundBits], samples: Bitmap) -> float | None:
    """Share of what samples knew in one epoch that they had forgotten in the next, late in their rounds.

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
    known = forgotten = 0
    for bits in rounds:
        followed = samples if bits.members is None else samples & bits.members
        for epoch in range(bits.n_epochs // 2, bits.n_epochs - 1):
            before = bits.correct[epoch] & followed
            if bits.observed is not None:
                before &= bits.observed[epoch + 1]
            known += bitmap.popcount(before)
            forgotten += bitmap.popcount(before & ~bits.correct[epoch + 1])
    return forgotten / known if known else None
