"""Parsing of the store's URL, and the connection to Redis or Valkey.

No error message quotes a part of the URL that may be a password; it only names the position of the malformed part.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis
from redis import retry as blocking_retry
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.cluster import ClusterNode as BlockingClusterNode
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError, TimeoutError

from mild_service.config import Settings
from mild_service.errors import ConfigurationError
from mild_service.store.cluster import Cluster

_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
_FILE_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_HOSTNAME_CHECK_OPTION = "ssl_check_hostname"
_BOOLEAN_VALUES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DEFAULT_PORT = 6379


@dataclass(frozen=True, slots=True)
class Address:
    """Address and credentials of the store.

    Attributes
    ----------
    nodes
        Hosts and ports; for a cluster, some nodes, from which the others are discovered. Empty for a socket.
    socket
        Path of a Unix socket; empty otherwise.
    is_cluster, uses_tls
        Whether the store is a Redis Cluster, and whether connections are encrypted.
    db
        Number of the database; a cluster has only 0.
    username, password
        Credentials of the ACL user; None if the URL has none.
    tls_options
        ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile`` (files) and ``ssl_check_hostname``, as far as given.
    """

    nodes: tuple[tuple[str, int], ...] = ()
    socket: str = ""
    is_cluster: bool = False
    uses_tls: bool = False
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls_options: Mapping[str, str | bool] = field(default_factory=dict)


def parse_url(url: str) -> Address:
    """Parse the URL of a store, and check the files that its TLS options name."""
    try:
        parts = urlsplit(url)
    except ValueError:
        _reject_url("its brackets or characters make no host")
    if parts.scheme not in _SCHEMES:
        _reject_url(f"its scheme is none of {', '.join(_SCHEMES)}")
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        _reject_url(
            "it holds an @ or # behind the host; percent-encode what is special in user and password (%40, %23)"
        )
    options = _parse_options(parts)
    db = options.pop("db", None)
    user, at, hosts = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    if at and not password:
        _reject_url("its user has no password; write user:password@host, or :password@host without a user")
    username, secret = unquote(name) or None, unquote(password) or None
    if parts.scheme == "unix":
        if hosts or not parts.path.strip("/"):
            _reject_url("a socket is a path behind three slashes")
        return Address(socket=unquote(parts.path), db=_parse_db(db or "0"), username=username, password=secret)
    is_cluster, uses_tls = parts.scheme.endswith("+cluster"), parts.scheme.startswith("rediss")
    if "," in hosts and not is_cluster:
        _reject_url(f"it names several hosts; those of a cluster take {parts.scheme}+cluster://")
    db_number = _parse_db(db or parts.path.strip("/") or "0")
    if is_cluster and db_number:
        _reject_url(f"a cluster has no database but 0, got {db_number}")
    nodes = tuple(_parse_node(host) for host in hosts.split(","))
    return Address(
        nodes,
        is_cluster=is_cluster,
        uses_tls=uses_tls,
        db=db_number,
        username=username,
        password=secret,
        tls_options=_parse_tls_options(options, uses_tls),
    )


def _parse_options(parts: SplitResult) -> dict[str, str]:
    allowed = {"unix": ("db",)}.get(parts.scheme, ("db", *_FILE_OPTIONS, _HOSTNAME_CHECK_OPTION))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in allowed:
            _reject_url(f"its option {name!r} is not known; {parts.scheme}:// takes {', '.join(allowed)}")
    return options


def _parse_tls_options(options: Mapping[str, str], uses_tls: bool) -> dict[str, str | bool]:
    if options and not uses_tls:
        _reject_url(f"its option {next(iter(options))!r} needs TLS, which is rediss:// or rediss+cluster://")
    tls_options: dict[str, str | bool] = {}
    for name, value in options.items():
        if name == _HOSTNAME_CHECK_OPTION:
            if value.lower() not in _BOOLEAN_VALUES:
                _reject_url(f"its option {name!r} is neither true nor false")
            tls_options[name] = _BOOLEAN_VALUES[value.lower()]
        elif Path(value).is_file():
            tls_options[name] = value
        else:
            _reject_url(f"its option {name!r} names no file, got {value!r}")
    if ("ssl_certfile" in tls_options) != ("ssl_keyfile" in tls_options):
        _reject_url("a client's certificate needs both 'ssl_certfile' and 'ssl_keyfile'")
    return tls_options


def _parse_node(host: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, str(_DEFAULT_PORT)
    name = name.strip("[]")
    if not name:
        _reject_url("it names no host, or an empty one between commas")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        _reject_url("what stands behind a host's colon is no port from 1 to 65535; is there an @ missing?")
    return name, int(port)


def _parse_db(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        _reject_url("its database is not a number")
    return int(value)


def _reject_url(reason: str) -> NoReturn:
    """Raise the error for a malformed URL, which `reason` describes without quoting the URL."""
    raise ConfigurationError(
        f"cannot read the store's address: {reason}; set MILD_STORE_URL to something like redis://localhost:6379/0, "
        "rediss://user:password@host:6379/0?ssl_ca_certs=/etc/ssl/ca.pem, unix:///run/redis.sock or "
        "redis+cluster://host-a:6379,host-b:6379"
    ) from None


Client: TypeAlias = Redis | Cluster
BlockingClient: TypeAlias = redis.Redis | RedisCluster

_RETRIES = 3
_CONNECTION_ERRORS = (ConnectionError, TimeoutError, RuntimeError)
"""Errors of a lost connection; transports of uvloop raise RuntimeError when they are closed."""


def connect(settings: Settings, url: str) -> Client:
    """Return a client for the store at `url`. Nothing is sent to the server before the first command.

    Commands wait for a free connection, and retries bridge a restart of the store. With the defaults of redis-py the
    first command after a restart fails, and so does the 101st concurrent command.
    """
    address = parse_url(url)
    retry = Retry(_make_backoff(), _RETRIES, supported_errors=_CONNECTION_ERRORS)  # type: ignore[arg-type]  # redis-py's
    options = {"retry": retry, **_client_options(address, settings.store_timeout)}
    if address.is_cluster:
        nodes = [ClusterNode(host, port) for host, port in address.nodes]
        return Cluster(nodes, settings.store_connections, ssl=address.uses_tls, **options)
    pool = BlockingConnectionPool(
        max_connections=settings.store_connections,
        timeout=settings.store_timeout,
        db=address.db,
        **_connection_options(address),
        **options,
    )
    return Redis.from_pool(pool)


@lru_cache(maxsize=8)
def connect_blocking(url: str, timeout: float) -> BlockingClient:
    """Return the client of this process for the store at `url` for use in threads, whose commands block.

    Parameters
    ----------
    url
        URL of the store, as in `connect`.
    timeout
        Seconds that one command may take.
    """
    address = parse_url(url)
    retry = blocking_retry.Retry(_make_backoff(), _RETRIES, supported_errors=_CONNECTION_ERRORS)
    options = {"retry": retry, **_client_options(address, timeout)}
    if address.is_cluster:
        nodes = [BlockingClusterNode(host, port) for host, port in address.nodes]  # type: ignore[no-untyped-call]  # redis-py
        return RedisCluster(startup_nodes=nodes, ssl=address.uses_tls, **options)
    host, port = address.nodes[0] if address.nodes else ("", 0)
    socket = address.socket or None  # in place of host and port
    return redis.Redis(host, port, address.db, unix_socket_path=socket, ssl=address.uses_tls, **options)


def _make_backoff() -> ExponentialBackoff:
    return ExponentialBackoff(cap=0.5, base=0.01)


def _client_options(address: Address, timeout: float) -> dict[str, Any]:
    """Return the options that all clients have."""
    return {
        "username": address.username,
        "password": address.password,
        "socket_timeout": timeout,
        "socket_connect_timeout": min(5.0, timeout),
        "health_check_interval": 30,
        "client_name": "mild-service",
        **address.tls_options,
    }


def _connection_options(address: Address) -> dict[str, Any]:
    """Return the class and the arguments of connections to a single server."""
    if address.socket:
        return {"connection_class": UnixDomainSocketConnection, "path": address.socket}
    ((host, port),) = address.nodes
    return {"connection_class": SSLConnection if address.uses_tls else Connection, "host": host, "port": port}
