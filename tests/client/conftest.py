import numpy as np
import pytest

from mild_core import bitmap
from mild_core.types import EpochBits


@pytest.fixture
def epochs() -> list[EpochBits]:
    """Twelve epochs of 600 samples: the first 400 are mostly correct, the others hardly ever."""
    rng = np.random.default_rng(0)
    chance = np.where(np.arange(600) < 400, 0.9, 0.05)
    return [EpochBits(600, bitmap.pack(rng.random(600) < chance)) for _ in range(12)]
