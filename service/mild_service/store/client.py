"""The connection to Redis or Valkey, built in one place."""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from mild_service.config import Settings
from mild_service.errors import ConfigurationError


def connect(settings: Settings, url: str) -> Redis:
    """Return a client for `url`; nothing is sent before its first command.

    A blocking pool queues a burst instead of failing it, and the retries bridge a restart of the store: with the
    library's own defaults the first command after a restart fails, and so does the 101st at a time.

    Raises
    ------
    ConfigurationError
        If the address cannot be parsed.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=settings.store_connections,
            timeout=settings.store_timeout,
            socket_timeout=settings.store_timeout,
            socket_connect_timeout=min(5.0, settings.store_timeout),
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.01), 3),
            health_check_interval=30,
            client_name="mild-service",
        )
    except ValueError as error:
        raise ConfigurationError(
            f"cannot read the store's address: {error}; set MILD_STORE_URL to something like "
            "redis://localhost:6379/0, rediss://host:6379/0 or unix:///run/redis.sock"
        ) from error
    return Redis.from_pool(pool)
