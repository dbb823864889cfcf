"""The connection to Redis or Valkey, built in one place."""

from typing import Any, TypeAlias

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from mild_service.config import Settings
from mild_service.store.address import Address, read_address
from mild_service.store.cluster import Cluster
from mild_service.store.faults import BROKEN

Client: TypeAlias = Redis | Cluster


def connect(settings: Settings, url: str) -> Client:
    """Return a client for `url`; nothing is sent before its first command.

    Bursts are queued instead of failed, and the retries bridge a restart of the store: with the library's own defaults
    the first command after a restart fails, and so does the 101st at a time.

    Raises
    ------
    ConfigurationError
        If the address cannot be used.
    """
    address = read_address(url)
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "socket_timeout": settings.store_timeout,
        "socket_connect_timeout": min(5.0, settings.store_timeout),
        "retry": Retry(
            ExponentialBackoff(cap=0.5, base=0.01),
            3,
            supported_errors=BROKEN,  # type: ignore[arg-type]  # by the library's annotations only
        ),
        "health_check_interval": 30,
        "client_name": "mild-service",
        **address.tls_options,
    }
    if address.cluster:
        nodes = [ClusterNode(host, port) for host, port in address.nodes]
        return Cluster(nodes, settings.store_connections, ssl=address.tls, **options)
    pool = BlockingConnectionPool(
        max_connections=settings.store_connections,
        timeout=settings.store_timeout,
        db=address.db,
        **_place(address),
        **options,
    )
    return Redis.from_pool(pool)


def _place(address: Address) -> dict[str, Any]:
    if address.socket:
        return {"connection_class": UnixDomainSocketConnection, "path": address.socket}
    ((host, port),) = address.nodes
    return {"connection_class": SSLConnection if address.tls else Connection, "host": host, "port": port}
