from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from mild_service.config import Settings

Dump = Callable[[], dict[bytes, bytes]]


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    """The session's Valkey, to look into behind the service's back."""
    assert settings.store_url is not None
    with Redis.from_url(settings.store_url) as client:
        yield client


@pytest.fixture
def dump(redis: Redis, settings: Settings) -> Dump:
    """Everything that the test's service has stored, by key."""
    return lambda: dumped(redis, settings.store_namespace)


def dumped(redis: Redis, namespace: str) -> dict[bytes, bytes]:
    """Everything under a namespace, by key."""
    keys = sorted(redis.scan_iter(f"{namespace}:*", count=1000))
    return {key: redis.dump(key) or b"" for key in keys}
