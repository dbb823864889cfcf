from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import pytest
from redis import Redis
from redis.cluster import ClusterNode, RedisCluster

from mild_service.config import Settings
from mild_service.store import Store
from mild_service.store.connection import parse_url

Dump = Callable[[], dict[bytes, bytes]]


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
    store = Store(settings, settings.store_url, clock)
    yield store
    await store.aclose()


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis | RedisCluster]:
    """The session's Valkey, or its cluster, to look into behind the service's back."""
    assert settings.store_url is not None
    if "+cluster" in settings.store_url:
        nodes = [ClusterNode(*node) for node in parse_url(settings.store_url).nodes]  # type: ignore[no-untyped-call]
        with RedisCluster(startup_nodes=nodes) as cluster:
            yield cluster
    else:
        with Redis.from_url(settings.store_url) as client:
            yield client


@pytest.fixture
def dump(redis: Redis | RedisCluster, settings: Settings) -> Dump:
    """Everything that the test's service has stored, by key."""
    return lambda: dumped(redis, settings.store_namespace)


def dumped(redis: Redis | RedisCluster, namespace: str) -> dict[bytes, bytes]:
    """Everything under a namespace but the version of it, which a service writes when it comes to it, by key."""
    keys = sorted(set(redis.scan_iter(f"{namespace}:*", count=1000)) - {f"{namespace}:schema".encode()})
    return {key: redis.dump(key) or b"" for key in keys}
