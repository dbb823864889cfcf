"""State of the Redis servers, and the schema version of the store."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import NoPermissionError, ResponseError

from mild_service.errors import CommandForbidden, StoreError, StoreNewer
from mild_service.store.cluster import Cluster
from mild_service.store.context import StoreContext, StorePart, translate_errors

SCHEMA_VERSION = 2
"""Version of the names and formats of all keys and fields, as in `keys`."""
_SETTINGS = ("appendonly", "appendfsync", "maxmemory-policy", "save")


@dataclass(frozen=True, slots=True)
class Memory:
    """Used memory and memory limit of the store in bytes; `limit` is None if there is no limit."""

    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """State of one server: its ``INFO``, its settings and its clock.

    Attributes
    ----------
    name
        Address of the server; ``store`` if there is only one server.
    info
        Reply of the server to ``INFO``.
    config
        Settings of persistence and eviction by name; without those that the server does not show.
    clock_skew
        Clock of the server minus the clock of this machine, in seconds.
    """

    name: str
    info: Mapping[str, Any]
    config: Mapping[str, str]
    clock_skew: float

    @property
    def memory(self) -> Memory:
        """Used memory and memory limit of the server."""
        return _parse_memory(self.info)


class ServerMonitor(StorePart):
    """Reads the state of the servers that hold keys: the single server, or the masters of a cluster."""

    async def read_memory(self, run_id: str, is_spread: bool) -> Memory | None:
        """Read the memory of the servers that hold a run.

        Parameters
        ----------
        run_id
            The run.
        is_spread
            Whether the keys of the run are on all servers of a cluster, or on one only.

        Returns
        -------
        Memory or None
            Sums over these servers; None if the ACL user may not run ``INFO``.
        """
        redis = self._context.redis
        command, key = ("INFO", "memory"), self._context.keys.run(run_id)
        try:
            with translate_errors():
                if not isinstance(redis, Cluster):
                    return _parse_memory(await redis.info("memory"))
                replies = (
                    await redis.execute_on_masters(*command)
                    if is_spread
                    else [await redis.execute_at_key(key, *command)]
                )
        except CommandForbidden:  # an ACL user without `+info`
            return None
        memories = [_parse_memory(info) for info in replies]
        limits = [memory.limit for memory in memories]
        total = sum(limit for limit in limits if limit is not None)
        return Memory(sum(memory.used for memory in memories), None if None in limits else total)

    async def read_status(self) -> list[ServerStatus]:
        """Read the state of every server that holds keys."""
        with translate_errors():
            return [await self._read_server(name, server) for name, server in await list_servers(self._context)]

    async def _read_server(self, name: str, server: Redis | ClusterNode) -> ServerStatus:
        info = await server.execute_command("INFO")
        config: dict[str, str] = {}
        for setting in _SETTINGS:
            try:
                reply = await server.execute_command("CONFIG GET", setting)
            except (NoPermissionError, ResponseError):  # an ACL user, or a provider that hides them
                continue
            config |= {_decode(name): _decode(value) for name, value in dict(reply).items()}
        seconds, micros = await server.execute_command("TIME")
        return ServerStatus(name, info, config, int(seconds) + int(micros) / 1e6 - (self._context.clock or time.time)())


async def list_servers(context: StoreContext) -> list[tuple[str, Redis | ClusterNode]]:
    """Return the name and the client of every server that holds keys."""
    redis = context.redis
    if not isinstance(redis, Cluster):
        return [("store", redis)]
    await redis.initialize()
    return [(f"{node.host}:{node.port}", node) for node in redis.get_primaries()]


def _parse_memory(info: Mapping[str, Any]) -> Memory:
    return Memory(int(info["used_memory"]), int(info.get("maxmemory", 0)) or None)


def _decode(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


async def check_schema(context: StoreContext) -> None:
    """Check that the store has the schema that this service reads and writes; a store without a version gets it."""
    key = context.keys.schema
    stored = await context.call("GET", key)
    if stored is None:
        await context.writer.send((key, ("SET", key, SCHEMA_VERSION, "NX")))
    elif (version := int(stored)) > SCHEMA_VERSION:
        raise StoreNewer(
            f"the store has schema {version}, this service reads {SCHEMA_VERSION} alone; upgrade this service"
        )
    elif version < SCHEMA_VERSION:
        raise StoreError(
            f"the store has schema {version}, written before the first release, this service reads {SCHEMA_VERSION} "
            "alone; name another store in MILD_STORE_URL, or another MILD_STORE_NAMESPACE"
        )
