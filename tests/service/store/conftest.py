from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import pytest

from mild_core import bitmap
from mild_core.types import EpochBits
from mild_service.config import Settings
from mild_service.store import PackedEpoch, Store, open_store


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(settings: Settings, clock: Clock) -> AsyncIterator[Store]:
    assert settings.store_url is not None
    store = open_store(settings, settings.store_url, clock)
    yield store
    await store.aclose()


def random_bitmap(n_samples: int, seed: int = 0) -> bitmap.Bitmap:
    """Bits at random, shape (n_bytes,)."""
    return bitmap.pack(np.random.default_rng(seed).random(n_samples) < 0.5)


def epoch_bits(n_samples: int, seed: int = 0, planes: int = 1) -> PackedEpoch:
    """An epoch of random bits."""
    correct, observed = random_bitmap(n_samples, seed), random_bitmap(n_samples, seed + 1000)
    return PackedEpoch.of(
        EpochBits(n_samples, correct & observed, observed) if planes == 2 else EpochBits(n_samples, correct)
    )
