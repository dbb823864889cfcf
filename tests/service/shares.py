"""One epoch as the ranks of a distributed training would post it."""

import numpy as np

from mild_core import bitmap
from mild_core.types import EpochBits


def epoch_of(n_samples: int, seed: int = 0) -> np.ndarray:
    """Correct bits at random, shape (n_samples,)."""
    return np.random.default_rng(seed).random(n_samples) < 0.5


def share(correct: np.ndarray, shard: int, of: int) -> EpochBits:
    """What rank `shard` of `of` sees of an epoch: every of-th sample, and sample 0, which pads every rank's share.

    Only the rank whose sample 0 is has it correct: the union must believe any copy.
    """
    mine = np.arange(correct.size) % of == shard
    observed = mine.copy()
    observed[0] = True
    return EpochBits(correct.size, bitmap.pack(correct & mine), bitmap.pack(observed))


def shares(correct: np.ndarray, of: int) -> list[bytes]:
    """The bodies of all ranks."""
    return [share(correct, shard, of).to_body() for shard in range(of)]
