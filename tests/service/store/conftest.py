from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from mild_service.config import Settings
from mild_service.state import Run, RunConfig
from mild_service.store import Store, open_store


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
